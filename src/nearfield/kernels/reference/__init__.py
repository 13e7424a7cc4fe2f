"""The reference backend: pure torch, on any device, differentiable (save `store_kv` and `sample`).

It is the specification of every operation and the backend that training uses. A faster backend is
right when it agrees with this one.
"""

from nearfield.kernels.reference.attention import attend, attend_dense, store_kv
from nearfield.kernels.reference.dense import embed, linear, prepare, rms_norm, rope, silu_mul
from nearfield.kernels.reference.sampling import sample

DTYPES = ("bf16", "fp16", "fp32")
FORMATS = ("dense", "int8", "int4")

SUPPORTS = {(op, dtype, fmt)
            for op in ("linear", "embed", "rms_norm", "rope", "silu_mul", "store_kv", "attend",
                       "attend_dense", "sample", "prepare")
            for dtype in DTYPES for fmt in FORMATS}
"""The (operation, dtype, weight format) triples this backend computes, on any device."""

__all__ = ["SUPPORTS", "attend", "attend_dense", "embed", "linear", "prepare", "rms_norm", "rope", "sample",
           "silu_mul", "store_kv"]
