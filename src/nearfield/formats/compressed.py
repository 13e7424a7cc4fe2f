"""Between the codes that kernels take and the tensors of a compressed-tensors folder.

A linear layer `x` of [N, K] is stored as `x.weight` int8 [N, K] (int-quantized) or `x.weight_packed` int32
[N, K bits / 32] with `x.weight_shape` (pack-quantized: codes without a sign, the first in the lowest bits),
`x.weight_scale` [N, groups], and with zero points `x.weight_zero_point`, packed down the rows. Source: the
compressed-tensors library (0.20), `compressors/pack_quantized` and `naive_quantized`.

Kernels know groups of 32, 64 and 128 columns: larger ones, and one scale a row in int4, become several
groups of the same scale, which means the same numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.checkpoint import Entry
from nearfield.formats.groups import GROUPS
from nearfield.formats.manifest import Scheme
from nearfield.kernels.ops import PackedWeight
from nearfield.kernels.reference.quantized import INT4_ZERO, pack_int4

_SCALES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Stored:
    """What a tensor is, without its bytes. dtypes: those it may be of, the usual one first."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]


def layout(layer: str, scheme: Scheme, rows: int, columns: int) -> dict[str, Stored]:
    """The tensors, by the ends of their names, of the linear layer of this name, [rows, columns].

    Raises ModelError where the columns cannot be cut into groups that kernels know.
    """
    if columns % (scheme.group or columns) or _group(scheme, columns) is None:
        raise ModelError(f"{layer}: {rows} x {columns} stored as {scheme} cannot be cut into groups of "
                         f"{', '.join(map(str, GROUPS))} columns, which is all that the kernels multiply by; "
                         "quantise the model again with such a group")
    groups = columns // (scheme.group or columns)
    found = {"weight_scale": Stored((1,) if scheme.per_tensor else (rows, groups), _SCALES)}
    if scheme.packed:
        found["weight_packed"] = Stored((rows, columns * scheme.bits // 32), (torch.int32,))
        found["weight_shape"] = Stored((2,), (torch.int64, torch.int32))
    else:
        found["weight"] = Stored((rows, columns), (torch.int8,))
    if not scheme.symmetric:
        found["weight_zero_point"] = (Stored((-(-rows * scheme.bits // 32), groups), (torch.int32,))
                                      if scheme.packed else Stored((rows, groups), (torch.int8,)))
    return found


def decode(layer: str, scheme: Scheme, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> PackedWeight:
    """The weight of `shape` that a layer's `tensors`, which keep to `layout`, stand for.

    int4: codes [N, K / 2] uint8, scales [N, K / group] as stored (fp16 where that is fp32) and, with zero
    points, zeros [N, K / group] uint8. int8: codes [N, K] int8 and scales, [N] fp32 or [N, K / group] as in int4.
    Raises ModelError for numbers that no such layer has.
    """
    rows, columns = shape
    if scheme.packed and tensors["weight_shape"].tolist() != [rows, columns]:
        raise ModelError(f"{layer}.weight_shape says {tensors['weight_shape'].tolist()}, "
                         f"config.json makes it {[rows, columns]}")
    scales = tensors["weight_scale"].expand(rows, -1) if scheme.per_tensor else tensors["weight_scale"]
    if not bool(scales.isfinite().all()):
        raise ModelError(f"{layer}.weight_scale holds a number that is not finite; copy the file again")
    codes = _codes(layer, scheme, tensors)
    if scheme.bits == 8 and scheme.group is None:
        return PackedWeight("int8", shape, {"codes": codes, "scales": scales.flatten().float()})
    group = _group(scheme, columns)
    repeats = columns // scales.shape[1] // (group or columns)
    narrow = scales.half() if scales.dtype == torch.float32 else scales
    found = {"codes": codes, "scales": narrow.repeat_interleave(repeats, dim=1)}
    if not scheme.symmetric:
        found["zeros"] = _zeros(scheme, rows, tensors["weight_zero_point"]).repeat_interleave(repeats, dim=1)
    return PackedWeight(scheme.format, shape, found)


def encode(weight: PackedWeight, scheme: Scheme) -> dict[str, Tensor]:
    """The tensors, by the ends of their names, that store as `scheme` says a symmetric weight: int8 of one scale a
    row, or int4."""
    codes, scales = weight.tensors["codes"], weight.tensors["scales"]
    if not scheme.packed:
        return {"weight": codes, "weight_scale": scales[:, None]}
    unsigned = codes if scheme.bits == 4 else codes.view(torch.uint8) ^ 128
    return {"weight_packed": unsigned.view(torch.int32), "weight_scale": scales.view(len(codes), -1),
            "weight_shape": torch.tensor(weight.shape)}


def encoded(scheme: Scheme, rows: int, columns: int) -> dict[str, Entry]:
    """What `encode` will return for a matrix of [rows, columns]."""
    scales = (Entry((rows, columns // scheme.group), torch.float16) if scheme.group
              else Entry((rows, 1), torch.float32))
    if not scheme.packed:
        return {"weight": Entry((rows, columns), torch.int8), "weight_scale": scales}
    return {"weight_packed": Entry((rows, columns * scheme.bits // 32), torch.int32), "weight_scale": scales,
            "weight_shape": Entry((2,), torch.int64)}


def join(parts: Sequence[PackedWeight]) -> PackedWeight:
    """Weights of one format and as many columns, one below the other."""
    if len(parts) == 1:
        return parts[0]
    shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
    return PackedWeight(parts[0].format, shape, {
        name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


def _group(scheme: Scheme, columns: int) -> int | None:
    """The largest group of the kernels that stored groups are made of."""
    return next((group for group in sorted(GROUPS, reverse=True) if (scheme.group or columns) % group == 0), None)


def _codes(layer: str, scheme: Scheme, tensors: Mapping[str, Tensor]) -> Tensor:
    if scheme.packed:
        packed = tensors["weight_packed"].contiguous().view(torch.uint8)
        return packed if scheme.bits == 4 else (packed ^ 128).view(torch.int8)
    codes = tensors["weight"]
    if scheme.bits == 8:
        return codes
    if codes.numel() and (int(codes.min()) < -INT4_ZERO or int(codes.max()) >= INT4_ZERO):
        raise ModelError(f"{layer}.weight holds codes that 4 bits cannot; copy config.json and the weights again, "
                         "from one model")
    return pack_int4(codes)


def _zeros(scheme: Scheme, rows: int, stored: Tensor) -> Tensor:
    """Zero points [rows, groups] uint8, of codes without a sign."""
    if not scheme.packed:
        return (stored + INT4_ZERO).to(torch.uint8)
    down = stored.T.contiguous().view(torch.uint8)                                     # [groups, rows / 2, padded]
    return torch.stack((down & 15, down >> 4), dim=-1).flatten(1)[:, :rows].T.contiguous()
