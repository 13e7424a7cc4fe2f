"""What Python calls of attention in C++: the cache's memory, and a step's tensors checked and handed over.

K lies transposed inside a page: the lanes of a vector are keys, so that a score is one chain of products in one lane,
and no sum over lanes is taken. Of bfloat16, two rows lie in turn, as AMX multiplies them. The arithmetic is stated in
csrc/attention.hpp.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearfield.kernels.ops import AttnPlan, Heads, KVLayer, KVShape, Norm

if TYPE_CHECKING:
    from nearfield.kernels.cpu import _native

KV_DTYPES = (torch.bfloat16, torch.float32)
MAX_HEAD = 256


def new_kv(runtime: "_native.Runtime", shape: KVShape, pages: int, dtype: torch.dtype) -> tuple[KVLayer, ...]:
    """Zeroed K [pages, G, d, P] and V [pages, G, P, d] of all layers, in one memory advised for huge pages; of bfloat16
    K [pages, G, d / 2, P, 2] and V [pages, G, P / 2, d, 2].

    Raises ValueError for a dtype that is not bfloat16 or float32 and for sizes that it cannot have, MemoryError where
    memory cannot be had.
    """
    if dtype not in KV_DTYPES:
        raise ValueError(f"the KV cache must be bfloat16 or float32 for the C++ kernels, not {dtype}")
    k_sides, v_sides = _sides(shape.head_dim, shape.page_size, dtype)
    memory = runtime.memory(shape.page_bytes(dtype) * pages)
    data = memory.tensor().view(dtype).view(shape.layers, 2, pages, shape.kv_heads, -1)
    return tuple(KVLayer(k.unflatten(-1, k_sides), v.unflatten(-1, v_sides)) for k, v in data.unbind())


def _sides(size: int, page: int, dtype: torch.dtype) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a page has of one head's K, and of its V."""
    if dtype == torch.float32:
        return (size, page), (page, size)
    _check_size(size)
    if page % 2:
        raise ValueError(f"pages of a bfloat16 KV cache have an even size with the C++ kernels, not page_size {page}; "
                         "choose an even one, or --dtype fp32")
    return (size // 2, page, 2), (page // 2, size, 2)


def attention(runtime: "_native.Runtime", qkv: Tensor, heads: Heads, rotation: tuple[Tensor, Tensor],
              cache: KVLayer, plan: AttnPlan) -> Tensor:
    """As CpuKernels.attention."""
    tokens, size, kv_heads = qkv.shape[0], heads.head_dim, heads.kv_heads
    query_heads = _query_heads(qkv, heads)
    page = _check_cache(cache, heads, plan)
    norms = [_norm("q_norm", heads.q_norm, size), _norm("k_norm", heads.k_norm, size)]
    for name, angles in zip(("cos", "sin"), rotation, strict=True):
        if angles.shape != (tokens, size // 2) or angles.dtype != torch.float32 or not angles.is_contiguous():
            raise ValueError(f"{name} must be [{tokens}, {size // 2}] float32 without gaps, "
                             f"not {list(angles.shape)} {angles.dtype}")
    out = torch.empty((tokens, query_heads * size), dtype=torch.float32)
    if tokens == 0:
        return out
    runtime.attention(qkv.data_ptr(), tokens, qkv.stride(0), query_heads, *norms[0], *norms[1],
                      rotation[0].data_ptr(), rotation[1].data_ptr(), cache.k.data_ptr(), cache.v.data_ptr(),
                      cache.k.dtype == torch.bfloat16, cache.k.shape[0], kv_heads, size, page, heads.window or 0,
                      plan.spans.data_ptr(), len(plan.rows), plan.pages.data_ptr(), len(plan.pages), out.data_ptr())
    return out


def _check_size(size: int) -> None:
    if size < 2 or size % 2 or size > MAX_HEAD:
        raise ValueError(f"head size {size} is not even and at most {MAX_HEAD}; serve this model without the C++ "
                         "kernels")


def _query_heads(qkv: Tensor, heads: Heads) -> int:
    size = heads.head_dim
    _check_size(size)
    if qkv.dim() != 2 or qkv.dtype != torch.float32 or (len(qkv) > 0 and qkv.stride(1) != 1):
        raise ValueError("qkv must be [T, (H + 2 G) d] float32, its columns side by side, "
                         f"not {list(qkv.shape)} {qkv.dtype}")
    count = qkv.shape[1] // size - 2 * heads.kv_heads
    if qkv.shape[1] % size or count < 1 or count % heads.kv_heads:
        raise ValueError(f"qkv has {qkv.shape[1]} columns, which are not (H + 2 * {heads.kv_heads}) * {size} "
                         f"for H a multiple of {heads.kv_heads}")
    if heads.window is not None and heads.window < 1:
        raise ValueError(f"window must be at least 1, not {heads.window}")
    return count


def _check_cache(cache: KVLayer, heads: Heads, plan: AttnPlan) -> int:
    """The page size, of a cache that fits. Shapes alone can not tell K's layout where P == d."""
    page, size = plan.page_size, heads.head_dim
    pages = cache.v.shape[0]
    if cache.k.dtype != cache.v.dtype or cache.k.dtype not in KV_DTYPES:
        raise ValueError(f"k and v of the cache must be of one dtype, bfloat16 or float32, not {cache.k.dtype} and "
                         f"{cache.v.dtype}")
    for name, held, sides in zip("kv", (cache.k, cache.v), _sides(size, page, cache.k.dtype), strict=True):
        shape = (pages, heads.kv_heads, *sides)
        if held.shape != shape or not held.is_contiguous():
            raise ValueError(f"the cache's {name} must be {list(shape)} without gaps, as new_kv makes it, "
                             f"not {list(held.shape)}")
    return page


def _norm(name: str, norm: Norm | None, size: int) -> tuple[int, float]:
    if norm is None:
        return 0, 0.0
    weight = norm.weight
    if weight.shape != (size,) or weight.dtype != torch.float32 or not weight.is_contiguous():
        raise ValueError(f"{name}.weight must be [{size}] float32 without gaps, not {list(weight.shape)} "
                         f"{weight.dtype}")
    return weight.data_ptr(), norm.eps
