"""Computing an answer again: one pass over prompt and answer together, in chunks, that decodes nothing.

Every row of the pass is the state that one token of the answer was chosen from, with the bits that serving had,
since the numeric profile's bits do not depend on how tokens come together. The choice is made again from each, by the
sampler that serves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.cache.store import DenseKV
from nearfield.core.plan import Row, StepPlan
from nearfield.core.request import Request, SamplingParams, TokenLogprob
from nearfield.core.types import TokenId
from nearfield.engine.answer import AnswerRules
from nearfield.engine.batch import build_inputs
from nearfield.engine.build import Loaded
from nearfield.engine.sampler import Choice, SampleInput, Sampler
from nearfield.kernels.ops import KVShape
from nearfield.kernels.select import TORCH_DTYPES

CHUNK = 512
"""Tokens of the pass at once."""
_LOGIT_ROWS = 64
"""Positions whose logits exist at once: they are V floats each."""


@dataclass(frozen=True)
class Answer:
    """An answer as it was given: its prompt, its tokens, and what they were chosen by."""

    prompt_ids: tuple[TokenId, ...]
    output_ids: tuple[TokenId, ...]
    params: SamplingParams
    seed: int
    sample_index: int


@dataclass(frozen=True)
class Replayed:
    """By token of the answer: the bits of the state that it is chosen from, the token that comes of it after the
    tokens before it (None where nothing can be chosen), and its log-probability where the params ask for it."""

    states: tuple[bytes, ...]
    tokens: tuple[TokenId | None, ...]
    logprobs: tuple[TokenLogprob | None, ...]


@torch.inference_mode()
def replay(loaded: Loaded, answer: Answer) -> Replayed:
    """Compute `answer` again with the model of `loaded`, in K/V of its own. Ids must be in the vocabulary, and the
    answer within loaded.engine.max_context."""
    states: list[bytes] = []
    choices: list[Choice | None] = []
    sampler = Sampler(loaded.ops)
    for first, hidden in _states(loaded, answer):
        states.extend(row.numpy().tobytes() for row in hidden.float())
        for at in range(0, len(hidden), _LOGIT_ROWS):
            logits = loaded.model.logits(hidden[at:at + _LOGIT_ROWS])
            rows = [_row(loaded, answer, first + at + i) for i in range(len(logits))]
            choices.extend(sampler.sample(logits, rows))
    tokens, logprobs = zip(*(choice or (None, None) for choice in choices), strict=True)
    return Replayed(tuple(states), tokens, logprobs)


def _states(loaded: Loaded, answer: Answer) -> Iterator[tuple[int, Tensor]]:
    """The states that tokens first, first + 1, ... of the answer are chosen from, chunk by chunk."""
    spec, config = loaded.spec, loaded.engine.config
    known = (*answer.prompt_ids, *answer.output_ids[:-1])   # the last token was chosen and never run
    pages = max(2, -(-len(known) // config.page_size))
    shape, dtype = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, config.page_size), config.dtype
    kv = DenseKV(loaded.ops, shape, pages * shape.page_bytes(TORCH_DTYPES[dtype]), TORCH_DTYPES[dtype])
    before = len(answer.prompt_ids) - 1   # states that no token of the answer is chosen from
    for start in range(0, len(known), CHUNK):
        chunk = known[start:start + CHUNK]
        row = Row("replay", chunk, start, tuple(range(pages)), sample=True)
        hidden = loaded.model.hidden(build_inputs(StepPlan((row,)), kv, config.page_size))
        skipped = max(0, before - start)
        if skipped < len(chunk):
            yield max(0, start - before), hidden[skipped:]


def _row(loaded: Loaded, answer: Answer, index: int) -> SampleInput:
    """What token `index` of the answer was chosen by."""
    request = Request("replay", answer.prompt_ids, answer.params, sample_index=answer.sample_index)
    banned = AnswerRules(answer.params, loaded.engine.eos_ids, len(answer.output_ids), None).banned(index)
    return SampleInput(request, answer.seed, (*answer.prompt_ids, *answer.output_ids[:index]), len(answer.prompt_ids),
                       banned)
