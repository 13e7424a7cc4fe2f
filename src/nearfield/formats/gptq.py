"""The codes of GPTQ folders (AutoGPTQ, GPTQModel): int4 with zero points, or int8.

A linear layer of [N, K] is stored transposed: `qweight` int32 [K bits / 32, N], the first column's code in the lowest
bits, `qzeros` int32 [groups, N bits / 32], `scales` fp16 [groups, N], and `g_idx` int32 [K], the group of each
column; a weight is (code - zero) * scale. In the first version ("gptq") each stored zero point is one less than
meant, which is undone on whole words, carries and all, as it was done. Where columns were quantised in the order of
their activations (desc_act) a group's columns lie anywhere: no kernel here multiplies so, and such a layer is rounded
again. Source: GPTQModel, `nn_modules/qlinear` and `utils/model.py`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.compressed import Stored
from nearfield.formats.groups import GROUPS, kernel_group
from nearfield.formats.manifest import GPTQ, Scheme
from nearfield.kernels.ops import PackedWeight

_ONES = {4: 0x11111111, 8: 0x01010101}


def layout(layer: str, scheme: Scheme, rows: int, columns: int) -> dict[str, Stored]:
    """As compressed.layout."""
    word, size = 32 // scheme.bits, scheme.group or columns
    if rows % word or columns % word or columns % size or (kernel_group(size) is None and not scheme.rounded):
        raise ModelError(f"{layer}: {rows} x {columns} stored as {scheme} cannot be cut into words of {word} codes and "
                         f"groups of {', '.join(map(str, GROUPS))} columns; quantise the model again with such a group")
    groups = columns // size
    return {"qweight": Stored((columns // word, rows), (torch.int32,)),
            "qzeros": Stored((groups, rows // word), (torch.int32,)),
            "scales": Stored((groups, rows), (torch.float16, torch.bfloat16)),
            "g_idx": Stored((columns,), (torch.int32,))}


def decode(layer: str, scheme: Scheme, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> PackedWeight:
    """As compressed.decode: int4, with zero points where it is not symmetric, or int8; scales as stored.

    Raises ModelError for columns out of order, and for zero points where config.json, or int8, has none.
    """
    rows, columns = shape
    codes, zeros, scales, owner = _parts(layer, scheme, tensors)
    if not torch.equal(owner, torch.arange(columns) // (scheme.group or columns)):
        raise ModelError(f"{layer}.g_idx has columns out of order, which config.json does not say; set desc_act to "
                         "true in its quantization_config")
    middle = 1 << (scheme.bits - 1)
    if (scheme.symmetric or scheme.bits == 8) and bool((zeros != middle).any()):
        raise ModelError(f"{layer}.qzeros holds zero points, which are supported of 4 bits only, and where config.json "
                         "has sym false; `nearfield unpack` makes the floats of the model")
    found = {"scales": scales, "codes": (codes ^ middle).view(torch.int8) if scheme.bits == 8 else
             codes[:, 0::2] | (codes[:, 1::2] << 4)}
    if not scheme.symmetric and scheme.bits == 4:
        found["zeros"] = zeros
    size = scheme.group or columns
    repeats = size // (kernel_group(size) or size)
    return PackedWeight(scheme.format, (rows, columns), {
        name: held if name == "codes" else held.repeat_interleave(repeats, dim=1) for name, held in found.items()})


def floats(layer: str, scheme: Scheme, tensors: Mapping[str, Tensor]) -> Tensor:
    """The matrix [N, K] fp32, wherever the columns of a group are."""
    codes, zeros, scales, owner = _parts(layer, scheme, tensors)
    return (codes.float() - zeros.float()[:, owner]) * scales.float()[:, owner]


def _parts(layer: str, scheme: Scheme, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes uint8 [N, K], zero points uint8 and scales [N, groups], and the group of each column, int64 [K]."""
    scales, owner = tensors["scales"].T, tensors["g_idx"].long()
    if not bool(scales.isfinite().all()):
        raise ModelError(f"{layer}.scales holds a number that is not finite; copy the file again")
    if int(owner.min()) < 0 or int(owner.max()) >= scales.shape[1]:
        raise ModelError(f"{layer}.g_idx names a group that is not there; copy the file again")
    words = tensors["qzeros"] + (_ONES[scheme.bits] if scheme.layout == GPTQ else 0)          # wraps, as it was made
    return _codes(tensors["qweight"].T, scheme.bits), _codes(words, scheme.bits).T.contiguous(), scales, owner


def _codes(words: Tensor, bits: int) -> Tensor:
    """Words int32 [M, n] to their codes uint8 [M, n 32 / bits]."""
    held = words.contiguous().view(torch.uint8)
    return held if bits == 8 else torch.stack((held & 15, held >> 4), dim=-1).flatten(1)
