"""The codes of any folder: which file knows a layout, and what becomes of codes that no format here can hold."""

from collections.abc import Mapping

from torch import Tensor

from nearfield.formats import awq, compressed, gguf_blocks, gptq
from nearfield.formats.compressed import Stored
from nearfield.formats.int8 import Int8
from nearfield.formats.manifest import AWQ, GPTQ, GPTQ_V2, METHOD, Scheme
from nearfield.kernels.ops import PackedWeight, Rounding
from nearfield.kernels.reference import round_to_nearest
from nearfield.kernels.reference.quantized import dequantize

ROUNDED = Int8(32)
"""What a `rounded` scheme becomes, at a relative error of half a percent: with it Q4_K's own of 7.8 % becomes 7.9 and
Q6_K's of 1.9 becomes 2.0. In int4, whose zero points are whole numbers, Q4_K's would become 11."""

_LAYOUTS = {METHOD: compressed.layout, AWQ: awq.layout, GPTQ: gptq.layout, GPTQ_V2: gptq.layout}
_DECODERS = {METHOD: compressed.decode, AWQ: awq.decode, GPTQ: gptq.decode, GPTQ_V2: gptq.decode}


def layout(layer: str, scheme: Scheme, rows: int, columns: int) -> dict[str, Stored]:
    """The tensors, by the ends of their names, that store a layer [rows, columns]. Raises ModelError where it cannot be
    stored so."""
    return _LAYOUTS.get(scheme.layout, gguf_blocks.layout)(layer, scheme, rows, columns)


def decode(layer: str, scheme: Scheme, shape: tuple[int, int], tensors: Mapping[str, Tensor],
           round: Rounding = round_to_nearest) -> PackedWeight:
    """The weight that a layer's `tensors`, which keep to `layout`, stand for, exactly, or of a `rounded` scheme
    nearly. Raises ModelError for numbers that no such layer has."""
    if scheme.rounded:
        return ROUNDED.pack(floats(layer, scheme, shape, tensors), round)
    return _DECODERS.get(scheme.layout, gguf_blocks.decode)(layer, scheme, shape, tensors)


def floats(layer: str, scheme: Scheme, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> Tensor:
    """The matrix fp32 of `shape` that the tensors stand for, exactly. Raises ModelError as `decode` does."""
    if scheme.layout in (GPTQ, GPTQ_V2):
        return gptq.floats(layer, scheme, tensors)
    if scheme.rounded:
        return gguf_blocks.floats(layer, scheme, shape, tensors)
    return dequantize(decode(layer, scheme, shape, tensors))
