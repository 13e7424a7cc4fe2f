"""Running a step through the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.cache.store import KVStore
from nearfield.core.plan import StepPlan
from nearfield.core.types import RequestId, TokenId
from nearfield.engine.batch import build_inputs, last_tokens
from nearfield.models.decoder import Decoder

_SCORE_ROWS = 64
"""Positions whose logits exist at once when a whole prompt is scored: they are V floats each."""


@dataclass(frozen=True)
class StepResult:
    """Hidden states [R, D] and logits [R, V] fp32 of the rows that sample, in the plan's order, and the scores
    of score rows."""

    hidden: Tensor
    logits: Tensor
    scores: Mapping[RequestId, list[float]]


class Runner:
    """A model and its cache. Keeps no state between steps but what lies in the cache."""

    def __init__(self, model: Decoder, kv: KVStore, page_size: int) -> None:
        self._model, self._kv, self._page_size = model, kv, page_size

    @torch.inference_mode()
    def run(self, plan: StepPlan, targets: Mapping[RequestId, Sequence[TokenId]]) -> StepResult:
        """Compute the plan's rows. `targets` has, for each score row, the token after each of its tokens
        (one fewer for the last row of a sequence)."""
        hidden = self._model.hidden(build_inputs(plan, self._kv, self._page_size))
        scores, offset = {}, 0
        for row in plan.rows:
            if row.score:
                scores[row.request_id] = self._score(hidden[offset:], targets[row.request_id])
            offset += len(row.token_ids)
        last = last_tokens(plan)
        chosen = hidden if len(last) == len(hidden) else hidden[last]   # each token samples: a step of decoding
        return StepResult(chosen, self._model.logits(chosen), scores)

    def _score(self, hidden: Tensor, targets: Sequence[TokenId]) -> list[float]:
        scores: list[float] = []
        for first in range(0, len(targets), _SCORE_ROWS):
            wanted = torch.tensor(targets[first:first + _SCORE_ROWS])
            logits = self._model.logits(hidden[first:first + len(wanted)])
            scores += logits.log_softmax(-1).gather(1, wanted[:, None]).flatten().tolist()
        return scores
