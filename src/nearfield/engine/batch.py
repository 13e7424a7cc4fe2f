"""From a plan of integers to the tensors of a step."""

import torch
from torch import Tensor

from nearfield.cache.store import KVStore
from nearfield.core.plan import Row, StepPlan
from nearfield.kernels.ops import AttnPlan, AttnRow, DecodeGroup
from nearfield.layers.attention import StepInputs

_LIKE = 2
"""Rows whose contexts differ by less than this factor decode as one group: padding costs reads."""

_POSITIONS = 32768
"""Positions of a group in all: the reference backend copies their K and V, a layer at a time."""


def build_inputs(plan: StepPlan, kv: KVStore, page_size: int) -> StepInputs:
    """Lay the plan's rows end to end."""
    tokens = [token for row in plan.rows for token in row.token_ids]
    positions = [p for row in plan.rows for p in range(row.start, row.end)]
    slots = [row.pages[p // page_size] * page_size + p % page_size
             for row in plan.rows for p in range(row.start, row.end)]
    attn = AttnPlan(torch.tensor(slots), *_split(plan.rows, page_size))
    return StepInputs(torch.tensor(tokens), torch.tensor(positions), attn, kv)


def dense_inputs(tokens: Tensor) -> StepInputs:
    """Rows [B, T] of tokens that start at position 0 and use no cache, as training does."""
    count, length = tokens.shape
    none = torch.empty(0, dtype=torch.int64)
    rows = tuple(AttnRow(i * length, length, 0, none) for i in range(count))
    return StepInputs(tokens.flatten(), torch.arange(length).repeat(count), AttnPlan(None, rows), None)


def last_tokens(plan: StepPlan) -> list[int]:
    """The place in the step of the last token of each row that samples."""
    places, offset = [], 0
    for row in plan.rows:
        offset += len(row.token_ids)
        if row.sample:
            places.append(offset - 1)
    return places


def _split(rows: tuple[Row, ...], page_size: int) -> tuple[tuple[AttnRow, ...], tuple[DecodeGroup, ...]]:
    chunks, single, offset = [], [], 0
    for row in rows:
        used = row.pages[:-(-row.end // page_size)]
        if len(row.token_ids) == 1:
            single.append((row.end, offset, used))
        else:
            chunks.append(AttnRow(offset, len(row.token_ids), row.start, torch.tensor(used)))
        offset += len(row.token_ids)
    return tuple(chunks), _groups(sorted(single))


def _groups(rows: list[tuple[int, int, tuple[int, ...]]]) -> tuple[DecodeGroup, ...]:
    """Groups of (length, place, pages), shortest first, within the two limits above."""
    groups: list[list[tuple[int, int, tuple[int, ...]]]] = []
    for row in rows:
        fits = groups and row[0] <= _LIKE * groups[-1][0][0] and row[0] * (len(groups[-1]) + 1) <= _POSITIONS
        if fits:
            groups[-1].append(row)
        else:
            groups.append([row])
    return tuple(_group(rows) for rows in groups)


def _group(rows: list[tuple[int, int, tuple[int, ...]]]) -> DecodeGroup:
    width = max(len(pages) for _, _, pages in rows)
    table = [pages + (0,) * (width - len(pages)) for _, _, pages in rows]
    return DecodeGroup(torch.tensor([place for _, place, _ in rows]), torch.tensor(table),
                       torch.tensor([length for length, _, _ in rows]), rows[0][0])
