"""What Python calls of the C++ kernels: tensors checked once, then handed over as plain addresses."""

import struct
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearfield.kernels.cpu import attention
from nearfield.kernels.ops import AttnPlan, Heads, KVLayer, KVShape, Norm, SampleRow
from nearfield.kernels.reference.rounding import not_finite

if TYPE_CHECKING:
    from nearfield.kernels.cpu import _native

DENSE_DTYPES = (torch.float32, torch.bfloat16)
VERSION = 2
"""Of the arithmetic that all profiles share: norms, attention, gates. Other bits are another version."""
PROFILES = {"int4": "w4a8", "int8": "w8a8"}
"""What the ids call formats. The table of w4a8 is int8 as well."""
SCALE_DTYPES = (torch.float16, torch.bfloat16)

_SAMPLE_ROW = struct.Struct("=3dq3Q")
"""csrc/sample.hpp's SampleRow."""


class CpuKernels:
    """Kernels of one instruction set on one pool of threads. Calls from several threads take turns."""

    def __init__(self, runtime: "_native.Runtime") -> None:
        self._runtime = runtime

    @property
    def runtime(self) -> "_native.Runtime":
        """The native kernels, which take addresses and check nothing."""
        return self._runtime

    @property
    def isa(self) -> str:
        return self._runtime.isa

    @property
    def threads(self) -> int:
        return self._runtime.threads

    @property
    def layout(self) -> str:
        """The name of the layout of packed weights; see csrc/job.hpp."""
        from nearfield.kernels.cpu import _native

        return f"cpu {_native.LAYOUT}"

    def blank(self, layout: Sequence[int]) -> "_native.PackedWeights":
        """Packed weights of zeros in the layout of others, to be filled through their buffer. Raises ValueError."""
        return self._runtime.blank(layout)

    def pack_int8(self, codes: Tensor, scales: Tensor) -> "_native.PackedWeights":
        """Weights of one scale a row. codes [N, K] int8, K a multiple of 32; scales [N] float32, finite.

        Raises ValueError for any other shape, dtype or scale.
        """
        n, k = _matrix("codes", codes, torch.int8)
        _check("scales", scales, (n,), torch.float32)
        codes, scales = codes.contiguous(), scales.contiguous()
        return self._runtime.pack_rows(codes.data_ptr(), scales.data_ptr(), n, k)

    def pack_int8_groups(self, codes: Tensor, scales: Tensor, group: int) -> "_native.PackedWeights":
        """Weights of one scale a group. codes [N, K] int8; scales [N, K / group] float16 or bfloat16, finite;
        group 32, 64 or 128. Raises ValueError for anything else."""
        n, k = _matrix("codes", codes, torch.int8)
        return self._pack_groups(8, codes, scales, None, n, k, group)

    def pack_int4(self, codes: Tensor, scales: Tensor, group: int,
                  zeros: Tensor | None = None) -> "_native.PackedWeights":
        """4-bit weights (code - zero point) * scale, the zero point being 8 where `zeros` is None.

        codes [N, K / 2] uint8, the column of even number in the low half; scales [N, K / group] float16 or
        bfloat16, finite; zeros [N, K / group] uint8, 0 .. 15; group 32, 64 or 128, of which K is a multiple.
        Raises ValueError for anything else.
        """
        n, half = _matrix("codes", codes, torch.uint8)
        return self._pack_groups(4, codes, scales, zeros, n, 2 * half, group)

    def _pack_groups(self, bits: int, codes: Tensor, scales: Tensor, zeros: Tensor | None, n: int, k: int,
                     group: int) -> "_native.PackedWeights":
        if group not in (32, 64, 128):
            raise ValueError(f"group {group} is not 32, 64 or 128")
        if k % group:
            raise ValueError(f"weights [{n}, {k}]: the columns are not a multiple of the group, {group}; "
                             "choose another group or format, or keep this matrix dense")
        if scales.dtype not in SCALE_DTYPES:
            raise ValueError(f"scales must be float16 or bfloat16, not {scales.dtype}")
        _check("scales", scales, (n, k // group), scales.dtype)
        if zeros is not None:
            _check("zeros", zeros, (n, k // group), torch.uint8)
            zeros = zeros.contiguous()
        codes, scales = codes.contiguous(), scales.contiguous()
        return self._runtime.pack_groups(bits, codes.data_ptr(), scales.data_ptr(),
                                         scales.dtype == torch.bfloat16,
                                         0 if zeros is None else zeros.data_ptr(), n, k, group)

    def pack_dense(self, weight: Tensor) -> "_native.PackedWeights":
        """Weights as they are. weight [N, K] float32 or bfloat16, any N and K of at least 1; ValueError otherwise."""
        if weight.dim() != 2 or weight.dtype not in DENSE_DTYPES:
            raise ValueError("weight must be a matrix of float32 or bfloat16, not "
                             f"{list(weight.shape)} {weight.dtype}; convert it to one of them")
        weight = weight.contiguous()
        n, k = weight.shape
        return self._runtime.pack_dense(weight.data_ptr(), weight.dtype == torch.bfloat16, n, k)

    def profile(self, formats: Collection[str], kv: torch.dtype) -> str:
        """The id of the arithmetic with weights of `formats` and K/V of dtype `kv`: equal ids give equal bits.

        Dense weights are of `kv`'s dtype. Quantised ones go with bf16 K/V; the id says so if they do not, and
        which dense ones are among them.
        """
        dense = self._runtime.dense_profile(kv == torch.bfloat16)
        coded = [name for format, name in PROFILES.items() if format in formats]
        parts = [dense]
        if coded:
            parts = [coded[0], *(["kvfp32"] if kv != torch.bfloat16 else []), *([dense] if "dense" in formats else [])]
        return f"cpu-{'-'.join(parts)}-v{VERSION}"

    def embed(self, tokens: Tensor, table: "_native.PackedWeights") -> Tensor:
        """Rows `tokens` [T] int64 of a packed table [N, K], dense or int8 with one scale a row: [T, K] float32.

        Raises IndexError for a token that the table does not have, ValueError for other tables and shapes.
        """
        if tokens.dim() != 1 or tokens.dtype != torch.int64:
            raise ValueError(f"tokens must be [T] int64, not {list(tokens.shape)} {tokens.dtype}")
        count, tokens = tokens.shape[0], tokens.contiguous()
        out = torch.empty((count, table.k), dtype=torch.float32)
        self._runtime.embed(table, tokens.data_ptr(), count, out.data_ptr())
        return out

    def linear(self, x: Tensor, weights: "_native.PackedWeights", bias: Tensor | None = None, *,
               norm: Norm | None = None, gated: bool = False, residual: Tensor | None = None,
               out: Tensor | None = None) -> Tensor:
        """x [M, K] float32, the last dimension contiguous, to [M, N] float32.

        Before it, `norm` of each row (weight [K] float32), or with `gated` silu_mul of x [M, 2 K]; after it, plus
        bias [N], plus residual [M, N], both float32. The result is written to `out` where given, which spares
        fresh memory its page faults. A token with a NaN or an infinity gets NaN in every output,
        except of dense weights, where they spread as IEEE 754 says. Raises ValueError for other shapes.
        """
        n, k = weights.n, weights.k
        m = _rows("x", x, 2 * k if gated else k)
        if norm is not None:
            _vector("norm.weight", norm.weight, k)
        if norm is not None and gated:
            raise ValueError("norm and gated cannot both come before one product")
        if bias is not None:
            _vector("bias", bias, n)
        if residual is not None and _rows("residual", residual, n) != m:
            raise ValueError(f"residual must be [{m}, {n}], not {list(residual.shape)}")
        if out is None:
            out = torch.empty((m, n), dtype=torch.float32)
        elif _rows("out", out, n) != m:
            raise ValueError(f"out must be [{m}, {n}], not {list(out.shape)}")
        self._runtime.linear(
            weights, x.data_ptr(), m, x.stride(0), 0 if norm is None else norm.weight.data_ptr(),
            0.0 if norm is None else norm.eps, gated, 0 if bias is None else bias.data_ptr(),
            0 if residual is None else residual.data_ptr(), 0 if residual is None else residual.stride(0),
            out.data_ptr(), out.stride(0))
        return out

    def rms_norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Each row of x [M, N] float32 over sqrt(mean of its squares + eps), times norm.weight [N] float32."""
        n = norm.weight.shape[0]
        m = _rows("x", x, n)
        _vector("norm.weight", norm.weight, n)
        out = torch.empty((m, n), dtype=torch.float32)
        self._runtime.rms_norm(x.data_ptr(), m, n, x.stride(0), norm.weight.data_ptr(), norm.eps, out.data_ptr())
        return out

    def new_kv(self, shape: KVShape, pages: int, dtype: torch.dtype) -> tuple[KVLayer, ...]:
        """As `attention.new_kv`: zeroed K and V of all layers."""
        return attention.new_kv(self._runtime, shape, pages, dtype)

    def attention(self, qkv: Tensor, heads: Heads, rotation: tuple[Tensor, Tensor], cache: KVLayer,
                  plan: AttnPlan) -> Tensor:
        """qkv [T, (H + 2G) d] float32 to [T, H d] float32, K and V written to `cache`, as `reference.attention`.

        rotation: cos and sin [T, d / 2] float32. cache: as `new_kv` makes it. d even, at most 256. What lies in
        pages beyond a row's end is not looked at. Raises ValueError for other shapes, and for rows or pages
        that do not fit.
        """
        return attention.attention(self._runtime, qkv, heads, rotation, cache, plan)

    def quantize(self, x: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
        """x [M, K] float32 to codes [M, K] int8, scales [M, K / group] float32 and the sums of each group's
        codes, [M, K / group] int32. group: a multiple of 32 that divides K, or K itself.

        scale = max|x| / 127, code = round-half-even(x * (127 / max|x|)), each operation rounded once.
        """
        m, k = _rows("x", x, x.shape[-1]), x.shape[-1]
        groups = k // group if group > 0 else 0
        codes = torch.empty((m, k), dtype=torch.int8)
        scales = torch.empty((m, groups), dtype=torch.float32)
        sums = torch.empty((m, groups), dtype=torch.int32)
        self._runtime.quantize(x.data_ptr(), m, k, x.stride(0), group, codes.data_ptr(), scales.data_ptr(),
                               sums.data_ptr())
        return codes, scales, sums

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        """As `reference.sample`: one token id for each row of logits [B, V] float32, whose columns lie side by
        side. A row's token depends on nothing but the row.

        Raises ValueError for other shapes.
        """
        size = logits.shape[-1]
        if _rows("logits", logits, size) != len(rows) or size == 0:
            raise ValueError(f"logits must be [{len(rows)}, V], not {list(logits.shape)}")
        how = b"".join(_SAMPLE_ROW.pack(row.temperature, row.top_p, row.min_p, row.top_k, row.seed & (2**64 - 1),
                                        row.position, row.sample_index) for row in rows)
        return self._runtime.sample(logits.data_ptr(), size, logits.stride(0), how)

    def round_to_nearest(self, dense: Tensor, group: int, low: int, high: int,
                         scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As `reference.round_to_nearest`, with the same bits: dense [N, K] bfloat16, float16 or float32 to codes
        [N, K] int8 and scales [N, K / group] float16 or float32.

        Raises ModelError for a weight that is not finite, ValueError for other shapes and dtypes.
        """
        if dense.dtype == torch.float16:
            dense = dense.float()
        if dense.dim() != 2 or dense.dtype not in (torch.bfloat16, torch.float32):
            raise ValueError("dense must be a matrix of bfloat16, float16 or float32, "
                             f"not {list(dense.shape)} {dense.dtype}")
        n, k = dense.shape
        if group < 1 or k % group:
            raise ValueError(f"a matrix [{n}, {k}] cannot be cut into groups of {group} columns")
        if scale_dtype not in (torch.float16, torch.float32):
            raise ValueError(f"scales must be float16 or float32, not {scale_dtype}")
        if not -128 <= low < 0 < high <= 127:
            raise ValueError(f"codes of {low} .. {high} are not int8 around zero")
        dense = dense if dense.stride(1) == 1 else dense.contiguous()
        codes, scales = torch.empty((n, k), dtype=torch.int8), torch.empty((n, k // group))
        finite = self._runtime.round_to_nearest(
            dense.data_ptr(), dense.dtype == torch.bfloat16, n, k, dense.stride(0), group, low, high,
            scale_dtype == torch.float16, codes.data_ptr(), scales.data_ptr())
        if not finite:
            raise not_finite()
        return codes, scales.to(scale_dtype)

    def memory(self, nbytes: int) -> "_native.Memory":
        """Memory advised for huge pages, zeroed; freed with the object."""
        return self._runtime.memory(nbytes)

    def read(self, memory: "_native.Memory") -> int:
        """Read all of it once, each thread one stream; the sum of its words, modulo 2**64."""
        return self._runtime.read(memory)

    def multiply(self, kind: str, rounds: int) -> float:
        """Nothing but multiply-adds of `kind` (int8, bf16, fp32), on every thread, as fast as the instruction
        set can. Returns their number; 0.0 where it has no such instruction."""
        return self._runtime.multiply(kind, rounds)


def _rows(name: str, x: Tensor, columns: int) -> int:
    if x.dim() != 2 or x.shape[1] != columns or x.dtype != torch.float32:
        raise ValueError(f"{name} must be [M, {columns}] float32, not {list(x.shape)} {x.dtype}")
    if x.stride(1) != 1 and x.shape[0] > 0:
        raise ValueError(f"the columns of {name} must lie side by side; pass {name}.contiguous()")
    return x.shape[0]


def _vector(name: str, value: Tensor, size: int) -> None:
    _check(name, value, (size,), torch.float32)
    if value.stride(0) != 1 and size > 1:
        raise ValueError(f"the numbers of {name} must lie side by side; pass {name}.contiguous()")


def _matrix(name: str, value: Tensor, dtype: torch.dtype) -> tuple[int, int]:
    if value.dim() != 2 or value.dtype != dtype:
        raise ValueError(f"{name} must be a matrix of {dtype}, not {list(value.shape)} {value.dtype}")
    return value.shape[0], value.shape[1]


def _check(name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(value.shape) != shape or value.dtype != dtype:
        raise ValueError(f"{name} must be {list(shape)} {dtype}, not {list(value.shape)} {value.dtype}")
