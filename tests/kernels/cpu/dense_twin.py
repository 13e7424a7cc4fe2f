"""Dense weights of the numeric profile written a second time, in numpy: one fused multiply-add a column."""

import numpy as np
import torch
from torch import Tensor

from tests.kernels.cpu.twin import F32, Array, fused_multiply_add

NAN_BITS = 0x7FC00000
AMX = "cpu-bf16-amx-v2"


def linear(x: Tensor, weight: Tensor, bias: Array | None = None, profile: str = "") -> Array:
    """x [M, K] float32, rounded to the dtype of weight [N, K] (float32 or bfloat16): [M, N].

    An odd K of bfloat16 has a column of zeros more, which makes a sum of -0 one of +0. By AMX's profile, which
    this twin follows save in subnormals, each 32 columns have sums of their own, the even ones' and the odd ones'.
    """
    acts, rows = x.to(weight.dtype).float().numpy(), weight.float().numpy()
    step = 32 if profile == AMX else 2 if weight.dtype == torch.bfloat16 else 1
    acts, rows = (np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % step))) for matrix in (acts, rows))
    sums = np.zeros((len(acts), len(rows)), F32)
    if profile == AMX:
        for start in range(0, acts.shape[1], step):
            parts = [_chain(acts, rows, range(start + i, start + step, 2), np.zeros_like(sums)) for i in (0, 1)]
            with np.errstate(all="ignore"):
                sums = sums + (parts[0] + parts[1])
    else:
        sums = _chain(acts, rows, range(acts.shape[1]), sums)
    with np.errstate(all="ignore"):
        y = sums if bias is None else sums + bias
    return np.asarray(np.where(np.isnan(y), np.uint32(NAN_BITS).view(F32), y))


def _chain(acts: Array, rows: Array, columns: range, sums: Array) -> Array:
    for column in columns:
        pair = np.broadcast_arrays(acts[:, column, None], rows[None, :, column])
        sums = fused_multiply_add(pair[0], pair[1], sums)
    return sums
