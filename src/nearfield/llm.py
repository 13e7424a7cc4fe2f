"""Offline inference: a model in this process, without a server.

    from nearfield import LLM, SamplingParams
    llm = LLM()                                   # the pocket model; or a folder, or a hub id
    print(llm.generate(["Once upon a time"], SamplingParams(max_tokens=40))[0].text)
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, SupportsIndex, cast

from tqdm import tqdm

from nearfield.core.config import DType, EngineConfig, Weights, parse_bytes
from nearfield.core.errors import ConfigError, InvalidRequestError, NearfieldError
from nearfield.core.request import Output, Request, SamplingParams, TokenLogprob
from nearfield.core.types import FinishReason, RequestId, TokenId
from nearfield.engine.build import Loaded, load_engine
from nearfield.engine.engine import Engine

Message = Mapping[str, Any]
Prompt = str | Sequence[TokenId]

_UNBOUNDED = 1 << 30
"""Requests that may wait: offline, a caller's list is the queue, whatever its length."""


@dataclass(frozen=True)
class Completion:
    """One finished answer. Answers of one prompt (`n`) share `prompt_index` and differ in `sample_index`."""

    prompt_index: int
    sample_index: int
    prompt_ids: tuple[TokenId, ...]
    token_ids: tuple[TokenId, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...]
    cached_tokens: int


class LLM:
    """A loaded model. Not thread-safe: one call at a time.

    model: a folder, a hub id, or None for the pocket model. dtype: "bf16", "fp16" or "fp32".
    tokenizer=None works on token ids alone, for a folder without one. kv_memory: bytes of the KV
    cache, as a number or like "4GiB". weights: None, as the folder stores them, or "dense", "w8" or "w4" (int8
    or int4 codes made at load), multiplied by the C++ kernels of `isa` on `threads`; `group` columns (None: a row
    in w8, 64 in w4) share a scale. pack_cache: keep those codes in the user's cache, so that the next start reads
    instead of quantising.
    random_weights: shapes from config.json, weights made up.

    Raises ModelError and ConfigError.
    """

    def __init__(self, model: str | Path | None = None, *, dtype: DType = "bf16",
                 tokenizer: Literal["auto"] | None = "auto", kv_memory: int | str = "1GiB",
                 max_seqs: int = 64, max_context: int | None = None, max_step_tokens: int = 512,
                 prefix_cache: bool = True, weights: Weights | None = None, group: int | None = None,
                 isa: str | None = None, threads: int | None = None, pack_cache: bool = True,
                 random_weights: bool = False, progress: bool = False) -> None:
        if tokenizer not in ("auto", None):
            raise ConfigError(f"tokenizer must be \"auto\" (the folder's own) or None, got {tokenizer!r}")
        size = parse_bytes(kv_memory) if isinstance(kv_memory, str) else kv_memory
        config = EngineConfig(dtype=dtype, kv_memory=size, max_seqs=max_seqs, max_context=max_context,
                              max_step_tokens=max_step_tokens, max_waiting=_UNBOUNDED,
                              prefix_cache=prefix_cache, weights=weights, group=group, isa=isa, threads=threads,
                              pack_cache=pack_cache)
        self.loaded: Loaded = load_engine(model, config, random_weights=random_weights,
                                          tokenizer=tokenizer is not None, progress=progress)
        self._ids = count()

    def generate(self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | None = None, *,
                 progress: bool = True) -> list[Completion]:
        """Complete each prompt (text, or token ids) and return the answers in the prompts' order.

        All prompts are batched together. Without `params`, the sampling that the model's authors
        recommend (generation_config.json). A bar shows on long work, on a terminal.
        """
        if params is not None and not isinstance(params, SamplingParams):
            raise InvalidRequestError("params is one SamplingParams for all prompts; call generate for each kind",
                                      "params")
        ids = [self.encode(p) if isinstance(p, str) else tuple(map(int, p)) for p in _listed(prompts)]
        return self._complete(ids, params or self.loaded.generation.params(), progress)

    def chat(self, messages: Sequence[Message] | Sequence[Sequence[Message]],
             params: SamplingParams | None = None, *, progress: bool = True) -> list[Completion]:
        """Answer one conversation, or each of several, through the model's chat template."""
        one = bool(messages) and isinstance(messages[0], Mapping)
        chats = cast(Sequence[Sequence[Message]], [messages] if one else messages)
        ids = [self.encode_chat(chat) for chat in chats]
        return self._complete(ids, params or self.loaded.generation.params(max_tokens=None), progress)

    def score(self, token_ids: Sequence[TokenId]) -> list[float]:
        """The log-probability (nats) of each token after the ones before it: len(token_ids) - 1 values."""
        if isinstance(token_ids, str):
            raise InvalidRequestError("score takes token ids; make them with LLM.encode(text)", "token_ids")
        if len(token_ids) < 2:
            raise InvalidRequestError("score needs at least two tokens", "token_ids")
        request = Request(self._next_id(), tuple(map(int, token_ids)), SamplingParams(max_tokens=1), score=True)
        last = list(self._run([request]))[-1]
        return list(last.scores or ())

    def stream(self, prompt_ids: Sequence[TokenId], params: SamplingParams | None = None) -> Generator[Output]:
        """One answer, token by token. Closing the iterator cancels it; until its end nothing else can run."""
        request = Request(self._next_id(), tuple(map(int, prompt_ids)), params or self.loaded.generation.params())
        return self._run([request])

    def encode(self, text: str) -> tuple[TokenId, ...]:
        """Text to token ids, with the model's opening token where it has one."""
        if self.loaded.tokenizer is None:
            raise InvalidRequestError("this LLM has no tokenizer; give token ids", "prompt")
        return tuple(self.loaded.tokenizer.encode(text))

    def encode_chat(self, messages: Sequence[Message]) -> tuple[TokenId, ...]:
        """A conversation to token ids, ready for the assistant's answer."""
        template, tokenizer = self.loaded.template, self.loaded.tokenizer
        if template is None or tokenizer is None:
            raise InvalidRequestError(f"{self.loaded.name} has no chat template; use generate", "messages")
        return tuple(template.encode(tokenizer, [dict(message) for message in messages]))

    def _next_id(self) -> RequestId:
        return f"llm-{next(self._ids)}"

    def _complete(self, prompts: Sequence[tuple[TokenId, ...]], params: SamplingParams,
                  progress: bool) -> list[Completion]:
        requests = [Request(self._next_id(), ids, replace(params, n=1), sample_index=i)
                    for ids in prompts for i in range(params.n)]
        outputs: dict[RequestId, list[Output]] = {r.request_id: [] for r in requests}
        with tqdm(total=len(requests), desc="generating", unit="answer", delay=1.0,
                  disable=None if progress else True) as bar:
            for output in self._run(requests):
                outputs[output.request_id].append(output)
                bar.update(output.finish_reason is not None)
        return [_completion(i // params.n, request, outputs[request.request_id])
                for i, request in enumerate(requests)]

    def _run(self, requests: Sequence[Request]) -> Generator[Output]:
        """Check all of `requests` now; what comes of them, as it is read."""
        for request in requests:
            self.loaded.engine.validate(request)
        return _steps(self.loaded.engine, requests)


def _steps(engine: Engine, requests: Sequence[Request]) -> Generator[Output]:
    """Step until all of `requests` have ended; whatever happens, none of them stays behind."""
    if engine.has_work:
        raise InvalidRequestError("a stream of this LLM is under way; read it to its end or close it first")
    left = {request.request_id for request in requests}
    try:
        for request in requests:
            engine.add(request)
        while left:
            for output in engine.step():
                if output.finish_reason is FinishReason.ABORT:
                    raise NearfieldError("the model's numbers overflowed; fp32 or bf16 have the range that fp16 lacks")
                if output.finish_reason is not None:
                    left.discard(output.request_id)
                yield output
    finally:
        for request_id in left:
            engine.cancel(request_id)


def _listed(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], SupportsIndex))
    return cast(Sequence[Prompt], [prompts] if one else prompts)


def _completion(prompt_index: int, request: Request, outputs: Sequence[Output]) -> Completion:
    last = outputs[-1]
    return Completion(
        prompt_index, request.sample_index, request.prompt_ids,
        token_ids=tuple(token for output in outputs for token in output.token_ids),
        text="".join(output.text for output in outputs),
        finish_reason=last.finish_reason or FinishReason.ABORT,
        logprobs=tuple(entry for output in outputs for entry in output.logprobs),
        cached_tokens=last.cached_tokens)
