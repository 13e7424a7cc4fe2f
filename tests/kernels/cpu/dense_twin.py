"""Dense weights of the numeric profile written a second time, in numpy: one fused multiply-add a column."""

import numpy as np
import torch
from torch import Tensor

from tests.kernels.cpu.twin import F32, Array, fused_multiply_add

NAN_BITS = 0x7FC00000


def linear(x: Tensor, weight: Tensor, bias: Array | None = None) -> Array:
    """x [M, K] float32, rounded to the dtype of weight [N, K] (float32 or bfloat16): [M, N].

    An odd K of bfloat16 has a column of zeros more, which makes a sum of -0 one of +0.
    """
    acts, rows = x.to(weight.dtype).float().numpy(), weight.float().numpy()
    if weight.dtype == torch.bfloat16 and acts.shape[1] % 2:
        acts, rows = (np.pad(matrix, ((0, 0), (0, 1))) for matrix in (acts, rows))
    sums = np.zeros((len(acts), len(rows)), F32)
    for column in range(acts.shape[1]):
        pair = np.broadcast_arrays(acts[:, column, None], rows[None, :, column])
        sums = fused_multiply_add(pair[0], pair[1], sums)
    with np.errstate(all="ignore"):
        y = sums if bias is None else sums + bias
    return np.asarray(np.where(np.isnan(y), np.uint32(NAN_BITS).view(F32), y))
