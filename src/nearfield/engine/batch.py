"""From a plan of integers to the tensors of a step."""

from collections.abc import Sequence

import torch

from nearfield.cache.store import KVStore
from nearfield.core.plan import Row, StepPlan
from nearfield.core.types import TokenId
from nearfield.kernels.ops import AttnPlan, AttnRow
from nearfield.layers.attention import StepInputs


def build_inputs(plan: StepPlan, kv: KVStore, page_size: int) -> StepInputs:
    """Lay the plan's rows end to end."""
    tokens = [token for row in plan.rows for token in row.token_ids]
    positions = [p for row in plan.rows for p in range(row.start, row.end)]
    attn = AttnPlan(_rows(plan.rows, page_size), page_size)
    return StepInputs(torch.tensor(tokens), torch.tensor(positions), attn, kv)


def whole_inputs(tokens: Sequence[TokenId], kv: KVStore, page_size: int) -> StepInputs:
    """One row from position 0, in the first pages of a cache that nobody else uses: to look at a model by itself."""
    pages = tuple(range(-(-len(tokens) // page_size)))
    return build_inputs(StepPlan((Row("whole", tuple(tokens), 0, pages, sample=True),)), kv, page_size)


def last_tokens(plan: StepPlan) -> list[int]:
    """The place in the step of the last token of each row that samples."""
    places, offset = [], 0
    for row in plan.rows:
        offset += len(row.token_ids)
        if row.sample:
            places.append(offset - 1)
    return places


def _rows(rows: tuple[Row, ...], page_size: int) -> tuple[AttnRow, ...]:
    laid, offset = [], 0
    for row in rows:
        laid.append(AttnRow(offset, len(row.token_ids), row.start, row.pages[:-(-row.end // page_size)]))
        offset += len(row.token_ids)
    return tuple(laid)
