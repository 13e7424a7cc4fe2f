"""Paged attention against a plain float64 loop over tokens, heads and positions."""

import math

import pytest
import torch

from nearfield.cache.store import DenseKV
from nearfield.core.plan import Row, StepPlan
from nearfield.engine.batch import build_inputs
from nearfield.kernels import reference, select
from nearfield.kernels.ops import KVShape
from nearfield.kernels.reference.attention import decode_groups

HEADS, KV_HEADS, SIZE, PAGE = 6, 2, 8, 4
OPS = select.plain("fp32")


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: int, window: int | None) -> torch.Tensor:
    """q [T, H, d] at start.., k and v [L, G, d] at 0..: each query by itself, in float64."""
    out = torch.zeros_like(q, dtype=torch.float64)
    for t in range(len(q)):
        first = 0 if window is None else max(0, start + t + 1 - window)
        for h in range(HEADS):
            g = h * KV_HEADS // HEADS
            keys, values = k[first:start + t + 1, g].double(), v[first:start + t + 1, g].double()
            weights = (keys @ q[t, h].double() / math.sqrt(SIZE)).softmax(0)
            out[t, h] = weights @ values
    return out


@pytest.mark.parametrize("window", [None, 1, 5, 100])
def test_mixed_batch_equals_a_plain_loop(window: int | None) -> None:
    torch.manual_seed(0)
    shape = KVShape(1, KV_HEADS, SIZE, PAGE)
    kv = DenseKV(OPS, shape, 40 * shape.page_bytes(torch.float32), torch.float32)
    spans = [(0, 7), (6, 5), (0, 1), (12, 1), (29, 1), (13, 1), (3, 1)]   # (start, new tokens) of each row
    pages = torch.randperm(kv.num_pages).tolist()
    rows, keys, values = [], [], []
    for i, (start, size) in enumerate(spans):
        count = -(-(start + size) // PAGE)
        own, pages = tuple(pages[:count]), pages[count:]
        keys.append(torch.randn(start + size, KV_HEADS, SIZE))
        values.append(torch.randn(start + size, KV_HEADS, SIZE))
        slots = torch.tensor([own[p // PAGE] * PAGE + p % PAGE for p in range(start)], dtype=torch.int64)
        reference.store_kv(kv.layer(0), keys[i][:start], values[i][:start], slots)
        rows.append(Row(str(i), (0,) * size, start, own, sample=True))
    step = build_inputs(StepPlan(tuple(rows)), kv, PAGE)
    new_k = torch.cat([k[start:] for k, (start, _) in zip(keys, spans, strict=True)])
    new_v = torch.cat([v[start:] for v, (start, _) in zip(values, spans, strict=True)])
    q = torch.randn(len(new_k), HEADS, SIZE)
    reference.store_kv(kv.layer(0), new_k, new_v, step.attn.slots)
    got = reference.attend(q, kv.layer(0), step.attn, window)
    offset = 0
    for (start, size), k, v in zip(spans, keys, values, strict=True):
        want = naive(q[offset:offset + size], k, v, start, window)
        assert (got[offset:offset + size].double() - want).abs().max() < 1e-5
        offset += size


def test_rows_of_unlike_length_decode_in_groups_of_their_own() -> None:
    shape = KVShape(1, KV_HEADS, SIZE, PAGE)
    kv = DenseKV(OPS, shape, 600 * shape.page_bytes(torch.float32), torch.float32)
    rows = tuple(Row(str(n), (0,), n - 1, tuple(range(-(-n // PAGE))), True) for n in (3, 2000, 5, 4, 1500))
    groups = decode_groups(build_inputs(StepPlan(rows), kv, PAGE).attn)
    assert [sorted(g.lengths.tolist()) for g in groups] == [[3, 4, 5], [1500, 2000]]
    for group in groups:
        assert [rows[i].end for i in group.index.tolist()] == group.lengths.tolist()


def test_what_a_page_held_before_does_not_leak_through() -> None:
    dtype = torch.float32
    shape = KVShape(1, KV_HEADS, SIZE, PAGE)
    rows = tuple(Row(str(n), (0,), n - 1, pages, True) for n, pages in ((5, (3, 4)), (8, (1, 2)), (10, (5, 6, 7))))
    outs = []
    for stale in (0.0, float("nan")):
        torch.manual_seed(0)
        kv = DenseKV(OPS, shape, 8 * shape.page_bytes(dtype), dtype)
        layer = kv.layer(0)
        layer.k.fill_(stale)
        layer.v.fill_(stale)
        for row in rows:
            slots = torch.tensor([row.pages[p // PAGE] * PAGE + p % PAGE for p in range(row.end)])
            reference.store_kv(layer, torch.randn(row.end, KV_HEADS, SIZE), torch.randn(row.end, KV_HEADS, SIZE), slots)
        plan = build_inputs(StepPlan(rows), kv, PAGE).attn
        outs.append(reference.attend(torch.randn(3, HEADS, SIZE), layer, plan, None))
    assert torch.equal(outs[0], outs[1])


def test_a_group_has_a_bounded_number_of_positions() -> None:
    shape = KVShape(1, KV_HEADS, SIZE, PAGE)
    kv = DenseKV(OPS, shape, 4 * shape.page_bytes(torch.float32), torch.float32)
    pages = tuple(range(5000))
    rows = tuple(Row(str(i), (0,), 9_999 + i, pages, True) for i in range(7))
    groups = decode_groups(build_inputs(StepPlan(rows), kv, PAGE).attn)
    assert [len(group.lengths) for group in groups] == [3, 3, 1]
    assert [group.shortest for group in groups] == [10_000, 10_003, 10_006]
    huge = (Row("huge", (0,), 99_999, tuple(range(25_000)), True),)
    assert len(decode_groups(build_inputs(StepPlan(huge), kv, PAGE).attn)) == 1
