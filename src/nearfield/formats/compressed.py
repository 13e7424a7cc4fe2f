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
from nearfield.formats.groups import GROUPS, kernel_group
from nearfield.formats.manifest import Scheme
from nearfield.kernels.ops import PackedWeight
from nearfield.kernels.reference.quantized import INT4_ZERO, pack_int4, unpack_int4

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
    """The tensors, by the ends of their names, that store a weight as `scheme` says: int8, packed or with one scale a
    row, or packed int4, with zero points where it is not symmetric."""
    codes, scales = weight.tensors["codes"], weight.tensors["scales"]
    if not scheme.packed:
        return {"weight": codes, "weight_scale": scales[:, None]}
    unsigned = codes if scheme.bits == 4 else codes.contiguous().view(torch.uint8) ^ 128
    found = {"weight_packed": unsigned.contiguous().view(torch.int32), "weight_scale": scales.view(len(codes), -1),
             "weight_shape": torch.tensor(weight.shape)}
    return found if scheme.symmetric else {**found, "weight_zero_point": _packed_zeros(weight.tensors["zeros"])}


def encoded(scheme: Scheme, rows: int, columns: int, scales: torch.dtype = torch.float16) -> dict[str, Entry]:
    """What `encode` will return for a matrix of [rows, columns]. scales: the dtype of those of groups."""
    scale = Entry((rows, columns // scheme.group), scales) if scheme.group else Entry((rows, 1), torch.float32)
    if not scheme.packed:
        return {"weight": Entry((rows, columns), torch.int8), "weight_scale": scale}
    found = {"weight_packed": Entry((rows, columns * scheme.bits // 32), torch.int32), "weight_scale": scale,
             "weight_shape": Entry((2,), torch.int64)}
    return found if scheme.symmetric else {
        **found, "weight_zero_point": Entry((-(-rows // 8), scale.shape[1]), torch.int32)}


def split(packed: PackedWeight, parts: Mapping[str, tuple[int, int]]) -> dict[str, PackedWeight]:
    """The matrices that lie one below the other in `packed`, by name."""
    found, first = {}, 0
    for name, shape in parts.items():
        rows = slice(first, first + shape[0])
        found[name] = PackedWeight(packed.format, shape, {end: held[rows] for end, held in packed.tensors.items()})
        first += shape[0]
    return found


def join(parts: Sequence[PackedWeight]) -> PackedWeight:
    """Codes of as many columns, one below the other, which mean what they meant: int4 beside int8 becomes int8, and
    scales of larger groups are repeated beside those of smaller ones (in fp16 then, as groups have them)."""
    if len(parts) == 1:
        return parts[0]
    if len({part.format for part in parts}) > 1:
        parts = [_widened(part) for part in parts]
    groups = max(_groups(part) for part in parts)
    alike = [_spread(part, groups) for part in parts]
    if any("zeros" in held for held in alike):
        alike = [{"zeros": torch.full(held["scales"].shape, INT4_ZERO, dtype=torch.uint8), **held} for held in alike]
    shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
    return PackedWeight(parts[0].format, shape, {name: torch.cat([held[name] for held in alike]) for name in alike[0]})


def _groups(weight: PackedWeight) -> int:
    """Scales of a row; 0 where int8 has one, in fp32."""
    scales = weight.tensors["scales"]
    return 0 if scales.dim() == 1 else scales.shape[1]


def _spread(weight: PackedWeight, groups: int) -> dict[str, Tensor]:
    """The tensors with so many groups a row."""
    held = dict(weight.tensors)
    if groups and not _groups(weight):
        held["scales"] = held["scales"].half()[:, None].expand(-1, groups)
    elif groups:
        for name in held.keys() - {"codes"}:
            held[name] = held[name].repeat_interleave(groups // held[name].shape[1], dim=1)
    return held


def _widened(weight: PackedWeight) -> PackedWeight:
    """int4 as int8 of the same groups and scales: what is left when the zero point is taken off fits."""
    if weight.format != "int4":
        return weight
    held = dict(weight.tensors)
    codes = unpack_int4(held["codes"])
    if (zeros := held.pop("zeros", None)) is not None:
        taken = (INT4_ZERO - zeros.to(torch.int8)).repeat_interleave(codes.shape[1] // zeros.shape[1], dim=1)
        codes = codes + taken
    return PackedWeight("int8", weight.shape, {**held, "codes": codes})


def _group(scheme: Scheme, columns: int) -> int | None:
    """The largest group of the kernels that stored groups are made of."""
    return kernel_group(scheme.group or columns)


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


def _packed_zeros(zeros: Tensor) -> Tensor:
    """The inverse of `_zeros` for packed codes: [rows, groups] uint8 to int32 [rows / 8, groups]."""
    down = torch.nn.functional.pad(zeros.T, (0, -len(zeros) % 8))                      # [groups, rows]
    return (down[:, 0::2] | (down[:, 1::2] << 4)).contiguous().view(torch.int32).T.contiguous()
