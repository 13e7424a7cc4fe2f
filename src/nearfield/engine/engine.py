"""The engine: requests in, outputs out, one step at a time. Not thread-safe; see loop.py.

A step is four statements: plan, run, sample, commit.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from nearfield.cache.manager import CacheManager
from nearfield.cache.store import KVStore
from nearfield.core.config import EngineConfig, format_bytes
from nearfield.core.errors import ConfigError, ContextLengthError, InvalidRequestError
from nearfield.core.plan import Row, StepPlan
from nearfield.core.request import EngineStats, Output, Request, TokenLogprob
from nearfield.core.types import FinishReason, RequestId, TokenId
from nearfield.engine.answer import AnswerRules
from nearfield.engine.pace import Pace
from nearfield.engine.runner import Runner, StepResult
from nearfield.engine.sampler import Choice, SampleInput, Sampler
from nearfield.engine.scheduler import Scheduler
from nearfield.engine.text import TextStream
from nearfield.kernels.ops import OpTable
from nearfield.models.decoder import Decoder
from nearfield.models.spec import ModelSpec
from nearfield.models.tokenizer import Tokenizer


@dataclass
class _Answer:
    """What the engine keeps of a request beside its tokens, which are the scheduler's."""

    request: Request
    seed: int
    rules: AnswerRules
    scores: list[float] = field(default_factory=list)


@dataclass
class _Counters:
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    max_batch: int = 0


def context_limit(spec: ModelSpec, config: EngineConfig, capacity: int) -> int:
    """Tokens of one request at most: what was asked for, what the model knows, what the cache holds.

    Raises ConfigError when more was asked for than the model knows or the cache holds.
    """
    if config.max_context is not None and config.max_context > spec.max_positions:
        raise ConfigError(f"max_context {config.max_context} is above the {spec.max_positions} positions "
                          "that the model knows")
    if config.max_context is not None and config.max_context > capacity:
        raise ConfigError(f"max_context {config.max_context} is above the {capacity} tokens that the KV cache "
                          f"of {format_bytes(config.kv_memory)} holds; give it more with --kv-memory")
    return config.max_context or min(spec.max_positions, capacity)


class Engine:
    """A model with its cache, scheduler and sampler.

    `eos_ids` end an answer; those outside the model's vocabulary never come. Without a tokenizer,
    outputs have token ids and no text.
    """

    def __init__(self, model: Decoder, kv: KVStore, ops: OpTable, config: EngineConfig,
                 tokenizer: Tokenizer | None, eos_ids: tuple[TokenId, ...] = ()) -> None:
        self._cache = CacheManager(kv.num_pages, config.page_size, prefix=config.prefix_cache)
        self._scheduler = Scheduler(self._cache, Pace(config.max_step_tokens),
                                    max_seqs=config.max_seqs, max_waiting=config.max_waiting)
        self._runner = Runner(model, kv, config.page_size)
        self._sampler = Sampler(ops)
        self._tokenizer = tokenizer
        self._eos = frozenset(i for i in eos_ids if i < model.spec.vocab_size)
        self._answers: dict[RequestId, _Answer] = {}
        self._counters = _Counters()
        self.config = config
        self.max_context = context_limit(model.spec, config, self._cache.capacity)
        self.vocab_size = model.spec.vocab_size

    @property
    def eos_ids(self) -> frozenset[TokenId]:
        """The ids that end an answer."""
        return self._eos

    @property
    def has_work(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._answers)

    def validate(self, request: Request) -> None:
        """Raise InvalidRequestError or ContextLengthError if the request can never be served.

        Looks only at what never changes, so that any thread may call it.
        """
        p, vocab = request.params, self.vocab_size
        if not request.prompt_ids:
            raise InvalidRequestError("the prompt is empty; give at least one token", "prompt")
        _check_ids("prompt", request.prompt_ids, vocab)
        _check_ids("stop_token_ids", p.stop_token_ids, vocab)
        _check_ids("logit_bias", tuple(p.logit_bias), vocab)
        if p.min_tokens and len(self._eos.union(p.stop_token_ids)) >= vocab:
            raise InvalidRequestError("min_tokens with these stop_token_ids bans every token", "stop_token_ids")
        if p.stop and self._tokenizer is None:
            raise InvalidRequestError("stop strings need a tokenizer; use stop_token_ids", "stop")
        room_for = "" if self.max_context < self._cache.capacity else (
            "; the KV cache holds no more: give it more with --kv-memory (kv_memory)")
        prompt, room = len(request.prompt_ids), self.max_context - len(request.prompt_ids)
        wanted = 0 if request.score else p.max_tokens or 1
        if wanted > room:
            raise ContextLengthError(
                f"the prompt has {prompt} tokens and max_tokens asks for {wanted} more, which is over the "
                f"context length of {self.max_context} tokens; shorten the prompt or lower max_tokens{room_for}"
                if room > 0 else f"the prompt has {prompt} tokens, which leaves no room in the context length "
                f"of {self.max_context} tokens; shorten the prompt{room_for}", "prompt")

    def add(self, request: Request) -> None:
        """Queue a request. Raises as `validate`, and QueueFullError."""
        self.validate(request)
        if request.request_id in self._answers:
            raise InvalidRequestError(f"request id {request.request_id} is in use", "request_id")
        self._scheduler.add(request)
        p = request.params
        last = request.prompt_ids[-1]
        text = TextStream(self._tokenizer, p, after=last) if self._tokenizer is not None else None
        limit = p.max_tokens or self.max_context - len(request.prompt_ids)
        self._answers[request.request_id] = _Answer(
            request, secrets.randbits(64) if p.seed is None else p.seed, AnswerRules(p, self._eos, limit, text))

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request and free what it holds; one that is not there is no error."""
        if self._answers.pop(request_id, None) is not None:
            self._scheduler.finish(request_id)

    def step(self) -> list[Output]:
        """Advance every request that the step has room for; what came of it, by request.

        A request whose logits are not finite ends with FinishReason.ABORT.
        """
        plan = self._scheduler.plan()
        if not plan.rows:
            return []
        result = self._runner.run(plan, self._score_targets(plan))
        sampled = self._sampler.sample(result.logits, self._sample_inputs(plan))
        return self._commit(plan, result, sampled)

    def stats(self) -> EngineStats:
        """Figures of this moment."""
        s, cache, c = self._scheduler, self._cache, self._counters
        return EngineStats(
            running=s.running, waiting=s.waiting, pages_total=cache.total, pages_free=cache.free,
            pages_cached=cache.evictable, steps=c.steps, preemptions=s.preemptions,
            prompt_tokens=c.prompt_tokens, cached_tokens=c.cached_tokens,
            generated_tokens=c.generated_tokens, max_batch=c.max_batch)

    def check(self) -> None:
        """Prove the invariants of scheduler and cache; for tests and idle moments."""
        self._scheduler.check()

    def _score_targets(self, plan: StepPlan) -> Mapping[RequestId, tuple[TokenId, ...]]:
        return {row.request_id: self._answers[row.request_id].request.prompt_ids[row.start + 1:row.end + 1]
                for row in plan.rows if row.score}

    def _sample_inputs(self, plan: StepPlan) -> list[SampleInput]:
        return [self._sample_input(row.request_id) for row in plan.rows if row.sample]

    def _sample_input(self, request_id: RequestId) -> SampleInput:
        answer, tokens = self._answers[request_id], self._scheduler.sequence(request_id).tokens
        prompt_len = len(answer.request.prompt_ids)
        banned = answer.rules.banned(len(tokens) - prompt_len)
        return SampleInput(answer.request, answer.seed, tokens, prompt_len, banned)

    def _commit(self, plan: StepPlan, result: StepResult, sampled: list[Choice | None]) -> list[Output]:
        drawing = [row.request_id for row in plan.rows if row.sample]
        drawn = {rid: choice for rid, choice in zip(drawing, sampled, strict=True) if choice is not None}
        lost = [rid for rid in drawing if rid not in drawn]
        for request_id in lost:
            self._scheduler.finish(request_id)   # before commit: nothing of it becomes shareable
        self._count(plan, len(drawn))
        self._scheduler.commit(plan, {rid: token for rid, (token, _) in drawn.items()})
        outputs = [Output(rid, finish_reason=FinishReason.ABORT) for rid in lost]
        hidden = self._observed(drawing, result.hidden)
        outputs += [self._advance(rid, token, logprob, hidden.get(rid)) for rid, (token, logprob) in drawn.items()]
        outputs += [output for row in plan.rows if row.score
                    for output in self._score(row, result.scores[row.request_id])]
        for output in outputs:
            if output.finish_reason is not None:
                self._scheduler.finish(output.request_id)
                del self._answers[output.request_id]
        return outputs

    def _observed(self, drawing: Sequence[RequestId], hidden: Tensor) -> dict[RequestId, bytes]:
        """The bits of the hidden states [R, D] of the requests that asked for them."""
        return {rid: hidden[i].float().numpy().tobytes() for i, rid in enumerate(drawing)
                if self._answers[rid].request.observe}

    def _advance(self, request_id: RequestId, token: TokenId, logprob: TokenLogprob | None,
                 hidden: bytes | None) -> Output:
        answer, sequence = self._answers[request_id], self._scheduler.sequence(request_id)
        prompt_len = len(answer.request.prompt_ids)
        count = len(sequence.tokens) - prompt_len
        if count == 1:
            self._counters.prompt_tokens += prompt_len
            self._counters.cached_tokens += sequence.cached_tokens or 0
        taken = answer.rules.take(token)
        return Output(request_id, (token,), taken.text, () if logprob is None else (logprob,), taken.reason,
                      prompt_len, sequence.cached_tokens or 0, count, stop_text=taken.stop_text, hidden=hidden)

    def _score(self, row: Row, scores: list[float]) -> list[Output]:
        answer = self._answers[row.request_id]
        if row.start == 0:
            answer.scores.clear()   # a request that was set back starts again
        answer.scores += scores
        prompt_len = len(answer.request.prompt_ids)
        if row.end < prompt_len:
            return []
        return [Output(row.request_id, finish_reason=FinishReason.LENGTH, prompt_tokens=prompt_len,
                       scores=tuple(answer.scores))]

    def _count(self, plan: StepPlan, sampled: int) -> None:
        c = self._counters
        c.steps += 1
        c.generated_tokens += sampled
        c.max_batch = max(c.max_batch, len(plan.rows))


def _check_ids(name: str, ids: tuple[TokenId, ...], vocab_size: int) -> None:
    """Ids must index the logits: one beyond them would read or bias another row's memory."""
    if ids and not (0 <= min(ids) and max(ids) < vocab_size):
        bad = next(i for i in ids if not 0 <= i < vocab_size)
        raise InvalidRequestError(f"{name}: token id {bad} is outside the vocabulary of {vocab_size}", name)
