"""Decode attention over long contexts, as a share of the read bandwidth measured beside it."""

import time
from statistics import median
from typing import Any

import torch

from nearfield.bench.machine import Machine
from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import AttnPlan, AttnRow, Heads, KVShape

TOKENS, HEADS, KV_HEADS, SIZE, PAGE = 8192, 14, 2, 64, 16
"""Of a 0.5B model."""


def measure_attention(kernels: CpuKernels, machine: Machine, nbytes: int, rounds: int) -> dict[str, Any]:
    """A row like those of linear operations: one token attends to n positions of bf16 K and V, heads of size k.

    As many layers as make `nbytes` are attended to in turn, as in a model, so that no cache holds them.
    """
    shape = KVShape(1, KV_HEADS, SIZE, PAGE)
    pages, layer_bytes = TOKENS // PAGE, TOKENS // PAGE * shape.page_bytes(torch.bfloat16)
    shape = KVShape(max(2, nbytes // layer_bytes), KV_HEADS, SIZE, PAGE)
    caches = kernels.new_kv(shape, pages, torch.bfloat16)
    for cache in caches:
        cache.k.normal_()
        cache.v.normal_()
    plan = AttnPlan((AttnRow(0, 1, TOKENS - 1, tuple(range(pages))),), PAGE)
    qkv, rotation = torch.randn(1, (HEADS + 2 * KV_HEADS) * SIZE), (torch.ones(1, SIZE // 2), torch.zeros(1, SIZE // 2))
    times, shares, read = [], [], machine.read_gb_s()
    for _ in range(rounds):
        start = time.perf_counter()
        for cache in caches:
            kernels.attention(qkv, Heads(KV_HEADS, SIZE), rotation, cache, plan)
        times.append((time.perf_counter() - start) / len(caches))
        before, read = read, machine.read_gb_s()
        shares.append(layer_bytes / times[-1] / 1e9 / ((before + read) / 2))
    return {"op": "attention", "format": "bf16", "m": 1, "n": TOKENS, "k": SIZE, "us": round(median(times) * 1e6, 1),
            "share": round(median(shares), 3)}
