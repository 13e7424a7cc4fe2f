"""From logits to tokens: penalties and biases by each request's history, then the draw.

The order is vLLM's: bias, bans (min_tokens), penalties, temperature, filters. Log-probabilities
are those of the raw logits, before any of it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.core.request import Request, TokenLogprob
from nearfield.core.types import TokenId
from nearfield.kernels.ops import OpTable, SampleRow

Choice = tuple[TokenId, TokenLogprob | None]
"""A chosen token and, where asked for, its log-probability."""


@dataclass(frozen=True)
class SampleInput:
    """A row that samples: its request, its tokens so far, how many of them are the prompt, and the
    tokens that may not come yet."""

    request: Request
    seed: int
    tokens: Sequence[TokenId]
    prompt_len: int
    banned: Sequence[TokenId] = ()


class Sampler:
    """Stateless: everything a choice depends on is in its SampleInput."""

    def __init__(self, ops: OpTable) -> None:
        self._ops = ops

    @torch.inference_mode()
    def sample(self, logits: Tensor, rows: Sequence[SampleInput]) -> list[Choice | None]:
        """The next token of each row of logits [R, V] (fp32), and its log-probability where asked.

        None for a row that has no choice: its numbers overflowed. Its neighbours are not touched by it.
        """
        if not rows:
            return []
        adjusted = logits
        if any(_adjusts(row) for row in rows):
            adjusted = torch.stack([adjust(logits[i], row) for i, row in enumerate(rows)])
        chosen = self._ops.sample(adjusted, [_draw_row(row) for row in rows])
        return [None if token < 0 else (token, _logprob(logits, i, token, row.request.params.logprobs))
                for i, (token, row) in enumerate(zip(chosen, rows, strict=True))]


def _draw_row(row: SampleInput) -> SampleRow:
    p = row.request.params
    return SampleRow(p.temperature, p.top_k, p.top_p, p.min_p, row.seed, len(row.tokens),
                     row.request.sample_index)


def _adjusts(row: SampleInput) -> bool:
    p = row.request.params
    return bool(row.banned or p.logit_bias or p.repetition_penalty != 1.0
                or p.presence_penalty or p.frequency_penalty)


def adjust(logits: Tensor, row: SampleInput) -> Tensor:
    """logits [V] with the row's bias, bans and penalties applied; a new tensor.

    Repetition (Keskar et al. 2019) looks at prompt and answer, presence and frequency (OpenAI) at
    the answer alone.
    """
    p, out = row.request.params, logits.clone()
    if p.logit_bias:
        out[list(p.logit_bias)] += torch.tensor(list(p.logit_bias.values()))
    if row.banned:
        out[list(row.banned)] = float("-inf")
    if p.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(row.tokens)))
        value = out[seen]
        out[seen] = torch.where(value > 0, value / p.repetition_penalty, value * p.repetition_penalty)
    counts = Counter(row.tokens[row.prompt_len:])
    if counts and (p.presence_penalty or p.frequency_penalty):
        ids, times = list(counts), torch.tensor(list(counts.values()))
        out[ids] -= p.presence_penalty + p.frequency_penalty * times
    return out


def _logprob(logits: Tensor, row: int, token: TokenId, top: int | None) -> TokenLogprob | None:
    if top is None:
        return None
    logprobs = logits[row].log_softmax(-1)
    return TokenLogprob(token, float(logprobs[token]), _best(logprobs, top))


def _best(logprobs: Tensor, count: int) -> tuple[tuple[TokenId, float], ...]:
    """The `count` best tokens, best first, ties by id; without sorting the whole vocabulary."""
    if count == 0:
        return ()
    least = logprobs.topk(min(count, len(logprobs))).values[-1]
    ids = (logprobs >= least).nonzero().flatten()
    values, order = logprobs[ids].sort(descending=True, stable=True)
    return tuple(zip(ids[order][:count].tolist(), values[:count].tolist(), strict=True))
