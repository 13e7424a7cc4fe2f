"""Stand-ins for the floors below: a byte tokenizer, a chat template and an engine loop that plays a script.

They keep to the contracts of the real ones (errors, threads, last output) and cost no model, so that
tests of HTTP, text and tables run in milliseconds and can make an engine fail on purpose.
"""

import codecs
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

from nearfield.core.errors import (
    ContextLengthError,
    EngineStoppedError,
    InvalidRequestError,
    NearfieldError,
    QueueFullError,
)
from nearfield.core.request import EngineStats, Output, Request, TokenLogprob
from nearfield.core.types import FinishReason, RequestId, TokenId
from nearfield.models.generation import GenerationDefaults

SPECIALS = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
SENTENCE = "Hello from the engine double: caf\u00e9 \u2713 done"
PAGE = 16


class FakeTokenizer:
    """A byte is a token; four special tokens follow the 256 bytes."""

    vocab_size: int = 256 + len(SPECIALS)
    bos_id: int | None = 256
    eos_ids: tuple[int, ...] = (257, 259)
    special_tokens: tuple[str, ...] = SPECIALS

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        ids = [256] if add_special else []
        while text:
            found = [(text.find(s), i) for i, s in enumerate(SPECIALS) if s in text] if parse_special else []
            cut, which = min(found, default=(len(text), -1))
            ids.extend(text[:cut].encode("utf-8"))
            if which >= 0:
                ids.append(256 + which)
                cut += len(SPECIALS[which])
            text = text[cut:]
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        kept = (i for i in ids if i < 256 or not skip_special)
        return b"".join(self.token_bytes(i) for i in kept).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else SPECIALS[token_id - 256].encode()


class FakeTemplate:
    """ChatML by hand. `tools` and every variable show in the text, so that a test can look for them."""

    def render(self, messages: Sequence[Mapping[str, Any]], *,
               tools: Sequence[Mapping[str, Any]] | None = None, add_generation_prompt: bool = True,
               variables: Mapping[str, Any] | None = None) -> str:
        head = "".join(f"{k}={v!r};" for k, v in (variables or {}).items())
        if tools:
            head += "tools:" + ",".join(t["function"]["name"] for t in tools)
        turns = "".join(f"<|im_start|>{m['role']}\n{m.get('content')}<|im_end|>\n" for m in messages)
        return head + turns + ("<|im_start|>assistant\n" if add_generation_prompt else "")

    def encode(self, tokenizer: Any, messages: Sequence[Mapping[str, Any]], *,
               tools: Sequence[Mapping[str, Any]] | None = None, add_generation_prompt: bool = True,
               variables: Mapping[str, Any] | None = None, at: float | None = None) -> list[int]:
        text = self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt,
                           variables=variables)
        ids: list[int] = tokenizer.encode(text, add_special=False)
        return ids


@dataclass(frozen=True)
class FakeEngine:
    """The figures of an engine that the floors above read."""

    max_context: int = 512
    vocab_size: int = FakeTokenizer.vocab_size


@dataclass(frozen=True)
class FakeLoaded:
    """A loaded model without weights."""

    name: str = "fake"
    engine: FakeEngine = FakeEngine()
    tokenizer: FakeTokenizer = FakeTokenizer()
    template: FakeTemplate | None = FakeTemplate()
    generation: GenerationDefaults = GenerationDefaults()


Script = Callable[[Request], Sequence[TokenId] | NearfieldError]


def say(text: str) -> Script:
    """A script that answers `text`, whatever is asked."""
    return lambda _request: tuple(text.encode("utf-8"))


def default_script(request: Request) -> Sequence[TokenId]:
    """The sentence; answers after the first say which they are."""
    tail = f" #{request.sample_index}" if request.sample_index else ""
    return tuple((SENTENCE + tail).encode("utf-8"))


@dataclass
class _Play:
    """One request on stage: its tokens still to come, and what was said."""

    request: Request
    on_output: Callable[[Output | NearfieldError], None]
    tokens: deque[TokenId]
    cached: int
    count: int = 0
    text: str = ""
    shown: int = 0
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))


class FakeEngineLoop:
    """An engine loop that plays `script` a token a step for each running request, in its own thread.

    A script that returns an error instead of tokens fails the request after two tokens.
    `step_s` is the time a step takes; `max_seqs` run at once and `max_waiting` wait; `seen` holds what
    was submitted and `cancelled` what was cancelled while it still ran or waited.
    """

    def __init__(self, engine: FakeEngine | None = None, script: Script = default_script, *,
                 step_s: float = 0.0, max_seqs: int = 64, max_waiting: int = 1024) -> None:
        self.engine = engine or FakeEngine()
        self.script = script
        self.step_s = step_s
        self.max_seqs, self.max_waiting = max_seqs, max_waiting
        self.seen: list[Request] = []
        self.cancelled: list[RequestId] = []
        self.alive, self.draining = False, False
        self._plays: dict[RequestId, _Play] = {}
        self._prompts: list[tuple[str, tuple[TokenId, ...]]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._counts = dict.fromkeys(("steps", "prompt", "cached", "generated", "batch"), 0)
        self._thread = threading.Thread(target=self._run, name="fake-engine", daemon=True)

    def start(self) -> None:
        self.alive = True
        self._thread.start()

    def submit(self, request: Request, on_output: Callable[[Output | NearfieldError], None]) -> None:
        with self._changed:
            self._check(request)
            tokens = self.script(request)
            if isinstance(tokens, NearfieldError):
                tokens = tuple(b"no")
            cached = self._match(request)
            self._counts["prompt"] += len(request.prompt_ids)
            self._counts["cached"] += cached
            self.seen.append(request)
            self._plays[request.request_id] = _Play(request, on_output, deque(tokens), cached)
            self._changed.notify_all()

    def cancel(self, request_id: RequestId) -> None:
        with self._changed:
            if self._plays.pop(request_id, None) is not None:
                self.cancelled.append(request_id)
            self._changed.notify_all()

    def drain(self, timeout: float | None) -> bool:
        with self._changed:
            self.draining = True
            self._changed.wait_for(lambda: not self._plays or self._stopping, timeout)
            return not self._plays

    def stop(self) -> None:
        self._end(EngineStoppedError("the engine has stopped"))

    def die(self) -> None:
        """Fail as a bug in a step would: every request hears of it and nothing runs any more."""
        self._end(NearfieldError("the engine has failed"))

    def stats(self) -> EngineStats:
        with self._changed:
            running = min(len(self._plays), self.max_seqs)
            return EngineStats(
                running=running, waiting=len(self._plays) - running, preemptions=0,
                pages_total=64, pages_free=64 - running, pages_cached=0,
                steps=self._counts["steps"], max_batch=self._counts["batch"],
                prompt_tokens=self._counts["prompt"], cached_tokens=self._counts["cached"],
                generated_tokens=self._counts["generated"])

    def _check(self, request: Request) -> None:
        if self.draining or not self.alive:
            raise EngineStoppedError("the engine takes no new requests")
        if not request.prompt_ids:
            raise InvalidRequestError("the prompt is empty", "prompt")
        if any(not 0 <= i < self.engine.vocab_size for i in request.prompt_ids):
            raise InvalidRequestError("a token id is outside the vocabulary", "prompt")
        length = len(request.prompt_ids) + (request.params.max_tokens or 1)
        if length > self.engine.max_context:
            raise ContextLengthError(
                f"prompt and answer need {length} tokens, the context holds {self.engine.max_context}",
                "max_tokens")
        if len(self._plays) >= self.max_seqs + self.max_waiting:
            raise QueueFullError(f"{self.max_waiting} requests are waiting already")

    def _match(self, request: Request) -> int:
        """Whole pages that this prompt shares with an earlier one of its tenant."""
        best = 0
        for tenant, prompt in self._prompts:
            if tenant == request.tenant:
                shared = commonprefix([prompt, request.prompt_ids[:-1]])
                best = max(best, len(shared) // PAGE * PAGE)
        self._prompts.append((request.tenant, request.prompt_ids))
        return best

    def _end(self, error: NearfieldError) -> None:
        with self._changed:
            self.alive, self._stopping = False, True
            plays, self._plays = list(self._plays.values()), {}
            self._changed.notify_all()
        for play in plays:
            play.on_output(error)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._plays or self._stopping)
                if self._stopping:
                    return
                batch = list(self._plays.values())[: self.max_seqs]
                self._counts["steps"] += 1
                self._counts["batch"] = max(self._counts["batch"], len(batch))
            time.sleep(self.step_s)
            for play in batch:
                self._advance(play)

    def _advance(self, play: _Play) -> None:
        result: Output | NearfieldError = self._next(play)
        if play.count >= 2 and isinstance(failure := self.script(play.request), NearfieldError):
            result = failure
        with self._changed:
            if play.request.request_id not in self._plays:
                return
            self._counts["generated"] += 1
            if isinstance(result, NearfieldError) or result.finish_reason:
                del self._plays[play.request.request_id]
                self._changed.notify_all()
        play.on_output(result)

    def _next(self, play: _Play) -> Output:
        params = play.request.params
        if not play.tokens and params.ignore_eos:
            play.tokens.extend(default_script(play.request))
        token = play.tokens.popleft() if play.tokens else 257
        play.count += 1
        room = self.engine.max_context - len(play.request.prompt_ids)
        ended = token == 257 or token in params.stop_token_ids or (not play.tokens and not params.ignore_eos)
        reason = FinishReason.STOP if ended else None
        if reason is None and play.count >= min(params.max_tokens or room, room):
            reason = FinishReason.LENGTH
        shown, stop = self._show(play, token, reason)
        return Output(
            request_id=play.request.request_id, token_ids=(token,), text=shown,
            logprobs=self._logprobs(token, params.logprobs),
            finish_reason=FinishReason.STOP if stop else reason,
            prompt_tokens=len(play.request.prompt_ids), cached_tokens=play.cached,
            completion_tokens=play.count, stop_text=stop)

    def _show(self, play: _Play, token: TokenId, reason: FinishReason | None) -> tuple[str, str | None]:
        """The text that may be shown now: nothing that could still become a stop string."""
        params = play.request.params
        play.text += play.decoder.decode(bytes([token]) if token < 256 else b"", final=reason is not None)
        hits = [(play.text.find(s), s) for s in params.stop if s in play.text]
        if hits:
            at, stop = min(hits)
            end = at + (len(stop) if params.include_stop_str_in_output else 0)
            return play.text[play.shown: end], stop
        held = 0 if reason else max(
            (n for s in params.stop for n in range(1, len(s)) if play.text.endswith(s[:n])), default=0)
        shown = play.text[play.shown: len(play.text) - held]
        play.shown += len(shown)
        return shown, None

    def _logprobs(self, token: TokenId, count: int | None) -> tuple[TokenLogprob, ...]:
        if count is None:
            return ()
        top = tuple(((token + i) % 256, -0.25 * (i + 1)) for i in range(count))
        return (TokenLogprob(token, -0.25, top),)
