"""What a caller asks of the engine and what it gets back: plain types, checked when made.

`SamplingParams` describes one answer. `n` answers are `n` requests that share a prompt: the
prefix cache computes it once, and `sample_index` keeps their random numbers apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from nearfield.core.errors import InvalidRequestError
from nearfield.core.types import FinishReason, RequestId, TokenId

MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingParams:
    """How to choose the tokens of one answer. Names and defaults are OpenAI's and vLLM's.

    temperature 0 is greedy. `top_k` 0 or -1 means no limit. `logprobs` is the number of
    alternatives reported beside each chosen token (0: the chosen one alone; None: nothing).
    `max_tokens` None means as many as the context holds. `seed` None means a fresh one.

    Raises InvalidRequestError, naming the field, when a value is out of range.
    """

    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[TokenId, float] = field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[TokenId, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        _check_ranges(self)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


def _check_ranges(p: SamplingParams) -> None:
    def within(name: str, low: float, high: float, *, open_low: bool = False) -> None:
        value = getattr(p, name)
        ok = isfinite(value) and (low < value if open_low else low <= value) and value <= high
        if not ok:
            bracket = "(" if open_low else "["
            raise InvalidRequestError(f"{name} must be in {bracket}{low}, {high}], got {value}", name)

    if p.max_tokens is not None and p.max_tokens < 1:
        raise InvalidRequestError(f"max_tokens must be at least 1, got {p.max_tokens}", "max_tokens")
    within("min_tokens", 0, 2**31)
    if p.max_tokens is not None and p.min_tokens > p.max_tokens:
        raise InvalidRequestError(
            f"min_tokens ({p.min_tokens}) is above max_tokens ({p.max_tokens})", "min_tokens")
    within("temperature", 0, 100)
    within("top_k", -1, 2**31)
    within("top_p", 0, 1, open_low=True)
    within("min_p", 0, 1)
    within("repetition_penalty", 0.01, 100)
    within("presence_penalty", -2, 2)
    within("frequency_penalty", -2, 2)
    within("n", 1, 64)
    if p.seed is not None:
        within("seed", -(2**63), 2**64 - 1)
    if p.logprobs is not None:
        within("logprobs", 0, MAX_TOP_LOGPROBS)
    if any(not isfinite(v) or abs(v) > 100 for v in p.logit_bias.values()):
        raise InvalidRequestError("logit_bias values must be in [-100, 100]", "logit_bias")
    if len(p.stop) > 16 or any(not s or len(s) > 256 for s in p.stop):
        raise InvalidRequestError("stop takes at most 16 strings of 1 to 256 characters", "stop")


@dataclass(frozen=True)
class Request:
    """One answer to be made from `prompt_ids`. `params.n` is the caller's affair: it is ignored here.

    `tenant` keeps prefix sharing apart: a request reuses only pages of its own tenant.
    `score` asks for the prompt's own log-probabilities (see `Output.scores`) and no new token.
    """

    request_id: RequestId
    prompt_ids: tuple[TokenId, ...]
    params: SamplingParams
    sample_index: int = 0
    tenant: str = ""
    score: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its log-probability (nats, from the raw logits) and the `top` alternatives, best first."""

    token_id: TokenId
    logprob: float
    top: tuple[tuple[TokenId, float], ...] = ()


@dataclass(frozen=True)
class Output:
    """What one engine step brought to one request. The last one has `finish_reason`.

    `text` is what can be shown now: never half a character, never the start of a stop string.
    `cached_tokens` counts the prompt tokens whose K and V were found in the cache at first admission.
    `scores` is set on the last output of a score request: len(prompt) - 1 log-probabilities.
    """

    request_id: RequestId
    token_ids: tuple[TokenId, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    scores: tuple[float, ...] | None = None
    stop_text: str | None = None


@dataclass(frozen=True)
class EngineStats:
    """A moment's figures of the engine, for /metrics and for tables. Counters only grow.

    pages_cached are those that hold prefixes and that no request uses now: as good as free.
    """

    running: int
    waiting: int
    pages_total: int
    pages_free: int
    pages_cached: int
    steps: int
    preemptions: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    max_batch: int
