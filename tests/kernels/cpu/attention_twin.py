"""Attention over bf16 K and V written a second time, in numpy: csrc/attention.hpp operation by operation."""

import math

import numpy as np
import torch

from tests.kernels.cpu.float_twin import fold
from tests.kernels.cpu.twin import F32, Array, fused_multiply_add

TILE, SPAN, DIMENSIONS, KEYS, LANES = 64, 512, 32, 16, 16


def attend(q: Array, k: Array, v: Array) -> Array:
    """One query [d] float32 that sees all of K and V [T, d] float32, all after rotation: [d]."""
    q = halves(q * F32(math.log2(math.e) / math.sqrt(len(q))))
    k, v = halves(k), halves(v)
    top, total, out = F32(-np.inf), F32(0), np.zeros(len(q), F32)
    for start in range(0, len(k), SPAN):
        m, s, o = _span(q, k[start:start + SPAN], v[start:start + SPAN])
        now = max(top, m)
        keep, add = power(np.array([top - now, m - now], F32))
        total = fused_multiply_add(np.array([s]), np.array([add]), np.array([total * keep]))[0]
        out = fused_multiply_add(o, np.full_like(o, add), out * keep)
        top = now
    return np.asarray(out / total)


def _span(q: Array, k: Array, v: Array) -> tuple[F32, F32, Array]:
    top, lanes, out = F32(-np.inf), np.zeros(LANES, F32), np.zeros(len(q), F32)
    for start in range(0, len(k), TILE):
        scores = chunks(k[start:start + TILE].T, q, DIMENSIONS)
        now = max(top, scores.max())
        less = power(np.array([top - now], F32))[0] if top < now else F32(1)
        weights = power(scores - now)
        lanes *= less
        for at in range(0, len(weights), LANES):
            part = weights[at:at + LANES]
            lanes[:len(part)] += part
        out = fused_multiply_add(out, np.full_like(out, less), chunks(v[start:start + TILE], rounded(weights), KEYS))
        top = now
    return top, fold(lanes[None])[0], out


def chunks(rows: Array, factors: Array, size: int) -> Array:
    """Rows [n, m] times factors [n], summed by chunks of `size` rows, in each the even and the odd ones apart: [m]."""
    sums = np.zeros(rows.shape[1], F32)
    for start in range(0, len(rows), size):
        apart = np.zeros((2, rows.shape[1]), F32)
        for i in range(start, min(start + size, len(rows))):
            apart[i % 2] = fused_multiply_add(rows[i], np.full(rows.shape[1], factors[i], F32), apart[i % 2])
        sums = sums + (apart[0] + apart[1])
    return sums


def power(x: Array) -> Array:
    """2^x of float32 up to 0, as csrc/math_body.hpp says."""
    bounded = np.maximum(x, F32(-64))
    shift = F32(12582912.0)
    n = (bounded + shift) - shift
    r, p = bounded - n, np.full_like(x, F32(1.3381302123889327e-3))
    for coefficient in (9.66636836528778e-3, 5.5503811687231064e-2, 2.402234971523285e-1, 6.931471824645996e-1, 1.0):
        p = fused_multiply_add(p, r, np.full_like(x, F32(coefficient)))
    return np.where(x < F32(-49), F32(0), p * np.ldexp(F32(1), n.astype(np.int32)))


def halves(x: Array) -> Array:
    """Rounded to bf16, below 2^-50 to zero."""
    return rounded(np.where(np.abs(x) < F32(2.0 ** -50), F32(0), x))


def rounded(x: Array) -> Array:
    """To bf16, half to even."""
    return np.asarray(torch.from_numpy(np.ascontiguousarray(x, F32)).bfloat16().float().numpy())
