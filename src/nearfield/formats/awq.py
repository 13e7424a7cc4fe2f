"""The codes of AWQ folders (AutoAWQ's GEMM layout): int4 with zero points.

A linear layer of [N, K] is stored transposed: `qweight` int32 [K, N / 8], `qzeros` int32 [K / group, N / 8] and
`scales` fp16 [K / group, N]; a weight is (code - zero) * scale. The eight codes of a word, the lowest bits first,
are of the rows 0, 2, 4, 6, 1, 3, 5, 7 of its eight. Source: AutoAWQ, `awq/modules/linear/gemm.py`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.compressed import Stored
from nearfield.formats.groups import GROUPS, kernel_group
from nearfield.formats.manifest import Scheme
from nearfield.kernels.ops import PackedWeight

_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in its word the code of each of eight rows is."""


def layout(layer: str, scheme: Scheme, rows: int, columns: int) -> dict[str, Stored]:
    """As compressed.layout."""
    size = scheme.group or columns
    if rows % 8 or columns % size or kernel_group(size) is None:
        raise ModelError(f"{layer}: {rows} x {columns} stored as {scheme} cannot be cut into words of 8 rows and "
                         f"groups of {', '.join(map(str, GROUPS))} columns; quantise the model again with such a group")
    groups = columns // size
    return {"qweight": Stored((columns, rows // 8), (torch.int32,)),
            "qzeros": Stored((groups, rows // 8), (torch.int32,)),
            "scales": Stored((groups, rows), (torch.float16, torch.bfloat16))}


def decode(layer: str, scheme: Scheme, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> PackedWeight:
    """As compressed.decode: int4 with zero points, scales as stored."""
    rows, columns = shape
    scales = tensors["scales"].T
    if not bool(scales.isfinite().all()):
        raise ModelError(f"{layer}.scales holds a number that is not finite; copy the file again")
    codes = _unpacked(tensors["qweight"])                                                     # [N, K]
    repeats = columns // scales.shape[1] // (kernel_group(columns // scales.shape[1]) or columns)
    return PackedWeight("int4", (rows, columns), {
        "codes": codes[:, 0::2] | (codes[:, 1::2] << 4),
        "scales": scales.repeat_interleave(repeats, dim=1),
        "zeros": _unpacked(tensors["qzeros"]).repeat_interleave(repeats, dim=1)})


def _unpacked(words: Tensor) -> Tensor:
    """Words [M, N / 8] to what is in them, uint8 [N, M]."""
    halves = words.contiguous().view(torch.uint8)                                             # [M, N / 2]
    codes = torch.stack((halves & 15, halves >> 4), dim=-1).view(len(words), -1, 8)
    return codes[:, :, _PLACES].flatten(1).T.contiguous()
