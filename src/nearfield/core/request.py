"""What a caller asks of the engine and what it gets back: plain types, checked when made.

`SamplingParams` describes one answer. `n` answers are `n` requests that share a prompt: the
prefix cache computes it once, and `sample_index` keeps their random numbers apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
        for name, empty in (("stop", ()), ("stop_token_ids", ()), ("logit_bias", {})):
            if getattr(self, name) is None:   # as OpenAI's and vLLM's clients say "none"
                object.__setattr__(self, name, empty)
        for name in ("stop", "stop_token_ids"):
            try:
                object.__setattr__(self, name, tuple(getattr(self, name)))
            except TypeError:
                raise InvalidRequestError(f"{name} must be a list, got {getattr(self, name)!r}", name) from None
        _check_numbers(self)
        _check_rest(self)


@dataclass(frozen=True)
class _Range:
    """What a numeric field may be: low <= value <= high, or low < value where `above`."""

    low: float
    high: float
    whole: bool = False
    above: bool = False
    optional: bool = False

    def holds(self, value: object) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} in {'(' if self.above else '['}{self.low}, {self.high}]"


_RANGES = {
    "max_tokens": _Range(1, 2**31, whole=True, optional=True),
    "min_tokens": _Range(0, 2**31, whole=True),
    "temperature": _Range(0, 100),
    "top_k": _Range(-1, 2**31, whole=True),
    "top_p": _Range(0, 1, above=True),
    "min_p": _Range(0, 1),
    "repetition_penalty": _Range(0.01, 100),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
    "seed": _Range(-(2**63), 2**64 - 1, whole=True, optional=True),
    "n": _Range(1, 64, whole=True),
    "logprobs": _Range(0, MAX_TOP_LOGPROBS, whole=True, optional=True),
}
_BIAS = _Range(-100, 100)


def _check_numbers(p: SamplingParams) -> None:
    for name, allowed in _RANGES.items():
        value = getattr(p, name)
        if not allowed.holds(value):
            raise InvalidRequestError(f"{name} must be {allowed}, got {str(value)[:40]}", name)


def _check_rest(p: SamplingParams) -> None:
    if p.max_tokens is not None and p.min_tokens > p.max_tokens:
        raise InvalidRequestError(
            f"min_tokens ({p.min_tokens}) is above max_tokens ({p.max_tokens})", "min_tokens")
    bias: Mapping[Any, object] = p.logit_bias
    if not all(isinstance(token, int) and _BIAS.holds(value) for token, value in bias.items()):
        raise InvalidRequestError("logit_bias must map token ids to numbers in [-100, 100]", "logit_bias")
    strings: tuple[object, ...] = p.stop
    if len(strings) > 16 or not all(isinstance(s, str) and 0 < len(s) <= 256 for s in strings):
        raise InvalidRequestError("stop takes at most 16 strings of 1 to 256 characters", "stop")
    ids: tuple[object, ...] = p.stop_token_ids
    if not all(isinstance(i, int) for i in ids):
        raise InvalidRequestError("stop_token_ids must be token ids", "stop_token_ids")


@dataclass(frozen=True)
class Request:
    """One answer to be made from `prompt_ids`. `params.n` is the caller's affair: it is ignored here.

    `tenant` keeps prefix sharing apart: a request reuses only pages of its own tenant.
    `score` asks for the prompt's own log-probabilities (see `Output.scores`) and no new token.
    `observe` asks for the hidden states that tokens were chosen from (see `Output.hidden`).
    """

    request_id: RequestId
    prompt_ids: tuple[TokenId, ...]
    params: SamplingParams
    sample_index: int = 0
    tenant: str = ""
    score: bool = False
    observe: bool = False


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
    `hidden` is set where the request observes: the bits of the final-norm hidden state (fp32, little-endian)
    that the output's token was chosen from.
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
    hidden: bytes | None = None


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
