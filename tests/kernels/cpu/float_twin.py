"""The float parts of the numeric profile written a second time, in numpy, float32 operation by operation."""

import numpy as np

from tests.kernels.cpu.twin import F32, Array, fused_multiply_add


def lanes(x: Array) -> Array:
    """x [M, N] padded with zeros to sixteens: [M, ceil(N / 16), 16]."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 16)))
    return padded.reshape(len(x), -1, 16)


def fold(a: Array) -> Array:
    """The sum of 16 lanes [M, 16], halves onto halves: [M]."""
    for half in (8, 4, 2, 1):
        a = a[:, :half] + a[:, half:]
    return np.asarray(a[:, 0])


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """x [M, N] float32 normalised, times weight [N]."""
    squares = np.zeros((len(x), 16), F32)
    for part in lanes(x).swapaxes(0, 1):
        squares = fused_multiply_add(part, part, squares)
    inverse = F32(1) / np.sqrt(fold(squares) / F32(x.shape[1]) + F32(eps))
    return np.asarray(x * inverse[:, None] * weight)


def exponential(x: Array) -> Array:
    """e^x of float32, as csrc/math_body.hpp says."""
    def full(value: float) -> Array:
        return np.full_like(x, F32(value))

    shift, bounded = 12582912.0, np.clip(x, F32(-87), F32(88))
    n = fused_multiply_add(bounded, full(1.44269504088896341), full(shift)) - F32(shift)
    r = fused_multiply_add(n, full(2.12194440e-4), fused_multiply_add(n, full(-0.693359375), bounded))
    p = full(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fused_multiply_add(p, r, full(coefficient))
    p = fused_multiply_add(p, r * r, r) + F32(1)
    return np.where(x < F32(-87), F32(0), p * np.ldexp(F32(1), n.astype(np.int32)))


def gate(x: Array) -> Array:
    """silu of the first half of x [M, 2 N] times the second: [M, N]."""
    gates, ups = np.split(x, 2, axis=1)
    return np.asarray(gates / (F32(1) + exponential(-gates)) * ups)
