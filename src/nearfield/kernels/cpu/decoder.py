"""A model but its head as one native call."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from nearfield.kernels.ops import AttnPlan, DecoderWeights, KVLayer, LayerWeights, Norm, PackedWeight

if TYPE_CHECKING:
    from nearfield.kernels.cpu import _native
    from nearfield.kernels.cpu.kernels import CpuKernels


class CpuDecoder:
    """Checked once, when it is made; its tensors live as long as it does. Raises ValueError for what does not fit."""

    def __init__(self, kernels: "CpuKernels", weights: DecoderWeights) -> None:
        from nearfield.kernels.cpu import _native

        self._runtime = kernels.runtime
        self._weights = weights   # keeps norms, biases and angles, whose addresses the native decoder has
        self._size = size = weights.table.shape[1]
        half = weights.layers[0].heads.head_dim // 2
        _check("the last norm", weights.norm.weight, (size,))
        cos, sin = weights.angles
        _check("cos", cos, (len(cos), half))
        _check("sin", sin, (len(cos), half))
        if weights.layers[0].qkv.shape[1] != size:
            raise ValueError(f"a table of {size} columns and layers of {weights.layers[0].qkv.shape[1]} do not fit")
        self._decoder = _native.Decoder(
            cast("_native.PackedWeights", weights.table.prepared), [_native_layer(layer) for layer in weights.layers],
            weights.norm.weight.data_ptr(), weights.norm.eps, cos.data_ptr(), sin.data_ptr(), len(cos))
        self._caches: tuple[Sequence[KVLayer], _native.Caches] | None = None

    def __call__(self, tokens: Tensor, positions: Tensor, caches: Sequence[KVLayer], plan: AttnPlan) -> Tensor:
        """As ops.BoundDecoder; float32."""
        count = len(tokens)
        for name, numbers in (("tokens", tokens), ("positions", positions)):
            if numbers.shape != (count,) or numbers.dtype != torch.int64 or not numbers.is_contiguous():
                raise ValueError(f"{name} must be [{count}] int64 without gaps, "
                                 f"not {list(numbers.shape)} {numbers.dtype}")
        y = torch.empty((count, self._size))
        k = caches[0].k
        self._runtime.decode(self._decoder, self._native_caches(caches), tokens.data_ptr(), positions.data_ptr(), count,
                             k.dtype == torch.bfloat16, k.shape[0], plan.page_size, plan.spans.data_ptr(),
                             len(plan.rows), plan.pages.data_ptr(), len(plan.pages), y.data_ptr())
        return y

    def _native_caches(self, caches: Sequence[KVLayer]) -> "_native.Caches":
        """The addresses, gathered when the caches are others than the last time."""
        if self._caches is None or self._caches[0] is not caches:
            from nearfield.kernels.cpu import _native

            if len({(part.shape, part.dtype) for layer in caches for part in (layer.k, layer.v)}) > 2:
                raise ValueError("the caches of a model's layers must be alike")
            addresses = [(layer.k.data_ptr(), layer.v.data_ptr()) for layer in caches]
            self._caches = caches, _native.Caches(addresses)
        return self._caches[1]


def _native_layer(weights: LayerWeights) -> "_native.Layer":
    from nearfield.kernels.cpu import _native

    def matrix(weight: PackedWeight, bias: Tensor | None) -> tuple["_native.PackedWeights", int]:
        if bias is not None:
            _check("a bias", bias, weight.shape[:1])
        return cast("_native.PackedWeights", weight.prepared), 0 if bias is None else bias.data_ptr()

    def norm(name: str, norm: Norm | None, size: int) -> tuple[int, float]:
        if norm is None:
            return 0, 0.0
        _check(name, norm.weight, (size,))
        return norm.weight.data_ptr(), norm.eps

    w, heads, hidden = weights, weights.heads, weights.qkv.shape[1]
    size = heads.head_dim
    return _native.layer_of(
        *matrix(w.qkv, w.qkv_bias), *matrix(w.out, w.out_bias), *matrix(w.gate_up, w.gate_up_bias),
        *matrix(w.down, w.down_bias), *norm("attn_norm", w.attn_norm, hidden), *norm("mlp_norm", w.mlp_norm, hidden),
        *norm("q_norm", heads.q_norm, size), *norm("k_norm", heads.k_norm, size), w.out.shape[1] // size,
        heads.kv_heads, size, heads.window or 0)


def _check(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape or value.dtype != torch.float32 or not value.is_contiguous():
        raise ValueError(f"{name} must be {list(shape)} float32 without gaps, not {list(value.shape)} {value.dtype}")
