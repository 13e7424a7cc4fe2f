"""The blocks in which GGUF stores weights: what each type's bytes mean.

A row is a chain of blocks of 32 weights, or of 256 in the types called K. Source: the dequantisation functions of ggml
(ggml-quants.c); `gguf.quants`, the same in numpy, is what the tests compare with, bit for bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.compressed import Stored
from nearfield.formats.manifest import Scheme
from nearfield.kernels.ops import PackedWeight


@dataclass(frozen=True)
class Block:
    """A type of weights: `nbytes` for so many `weights`. floats: blocks uint8 [B, nbytes] to fp32 [B, weights]."""

    name: str
    weights: int
    nbytes: int
    floats: Callable[[Tensor], Tensor]
    dtype: torch.dtype | None = None
    """Of a type that is floats as they are."""


def layout(layer: str, scheme: Scheme, rows: int, columns: int) -> dict[str, Stored]:
    """As compressed.layout: the blocks of a type, row by row."""
    block = _named(scheme)
    if columns % block.weights:
        raise ModelError(f"{layer}: {columns} columns are no whole number of {block.name} blocks; copy the file again")
    return {"weight": Stored((rows, columns // block.weights * block.nbytes), (torch.uint8,))}


def decode(layer: str, scheme: Scheme, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> PackedWeight:
    """As compressed.decode: Q4_0 and Q8_0 are int4 and int8 in groups of 32 with scales fp16."""
    blocks = tensors["weight"].view(shape[0], -1, _named(scheme).nbytes)
    scales = blocks[:, :, :2].contiguous().view(torch.float16).squeeze(-1)
    if not bool(scales.isfinite().all()):
        raise ModelError(f"{layer}.weight has a scale that is not finite; copy the file again")
    held = blocks[:, :, 2:]
    if scheme.bits == 8:
        return PackedWeight("int8", shape, {"codes": held.contiguous().view(torch.int8).flatten(1), "scales": scales})
    low, high = held & 15, held >> 4            # columns 0 .. 15 and 16 .. 31 of the block
    paired = torch.cat((low[:, :, 0::2] | (low[:, :, 1::2] << 4), high[:, :, 0::2] | (high[:, :, 1::2] << 4)), dim=-1)
    return PackedWeight("int4", shape, {"codes": paired.flatten(1), "scales": scales})


def floats(layer: str, scheme: Scheme, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> Tensor:
    """The matrix fp32 that the blocks stand for. Raises ModelError for a scale that is not finite."""
    found = unpack(_named(scheme), tensors["weight"]).view(shape)
    if not bool(found.isfinite().all()):
        raise ModelError(f"{layer}.weight has a scale that is not finite; copy the file again")
    return found


def unpack(block: Block, raw: Tensor) -> Tensor:
    """The weights fp32 [N, K] of rows of blocks, uint8 [N, bytes of a row]."""
    return block.floats(raw.reshape(-1, block.nbytes)).view(len(raw), -1)


def _named(scheme: Scheme) -> Block:
    return next(block for block in BLOCKS.values() if block.name == scheme.layout)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at byte `at` of each block, as fp32 [B, 1]."""
    return blocks[:, at:at + 2].contiguous().view(torch.float16).float()


def _dense(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda blocks: blocks.view(dtype).float()


def _nibbles(packed: Tensor) -> Tensor:
    """uint8 [..., n] to [..., 2 n] fp32: all low halves, then all high ones."""
    return torch.cat((packed & 15, packed >> 4), dim=-1).float()


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]) - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)


def _fifth(bits: Tensor) -> Tensor:
    """uint8 [B, 4] to [B, 32]: 16 where the bit of the weight is set."""
    return ((bits[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1).float() * 16


def _q5_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 6:]) + _fifth(blocks[:, 2:6]) - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 8:]) + _fifth(blocks[:, 4:8])) + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima of six bits each, fp32 [B, 8], out of 12 bytes."""
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), dim=1)
    minima = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), dim=1)
    return scales.float(), minima.float()


def _k_floats(blocks: Tensor, values: Tensor) -> Tensor:
    """values [B, 8, 32] times the scales less the minima that Q4_K and Q5_K begin with."""
    scales, minima = _six_bits(blocks[:, 4:16])
    step, low = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    return (step[:, :, None] * values - low[:, :, None]).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    return _k_floats(blocks, _nibbles(blocks[:, 16:].view(-1, 4, 32)).view(-1, 8, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    fifth = (blocks[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[None, :, None]) & 1      # [B, 8, 32]
    return _k_floats(blocks, _nibbles(blocks[:, 48:].view(-1, 4, 32)).view(-1, 8, 32) + fifth.float() * 16)


def _q6_k(blocks: Tensor) -> Tensor:
    low = blocks[:, :128].view(-1, 2, 64)
    low = torch.cat((low & 15, low >> 4), dim=-1).view(-1, 2, 4, 32)
    high = (blocks[:, 128:192].view(-1, 2, 1, 32) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]) & 3
    values = ((low | (high << 4)).view(-1, 16, 16).float() - 32)
    scales = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (scales[:, :, None] * values).flatten(1)


BLOCKS = {
    0: Block("F32", 1, 4, _dense(torch.float32), torch.float32),
    1: Block("F16", 1, 2, _dense(torch.float16), torch.float16),
    30: Block("BF16", 1, 2, _dense(torch.bfloat16), torch.bfloat16),
    2: Block("Q4_0", 32, 18, _q4_0), 3: Block("Q4_1", 32, 20, _q4_1),
    6: Block("Q5_0", 32, 22, _q5_0), 7: Block("Q5_1", 32, 24, _q5_1), 8: Block("Q8_0", 32, 34, _q8_0),
    12: Block("Q4_K", 256, 144, _q4_k), 13: Block("Q5_K", 256, 176, _q5_k), 14: Block("Q6_K", 256, 210, _q6_k),
}
"""The types that are read, by their numbers in a file: those asked for, and those that mixtures fall back to where a
matrix is no whole number of the larger blocks."""

OTHER_TYPES = {10: "Q2_K", 11: "Q3_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
               21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
"""Names of types that are not, for messages."""
