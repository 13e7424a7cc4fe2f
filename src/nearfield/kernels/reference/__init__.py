"""The reference backend: pure torch, on any device, differentiable (save `store_kv` and `sample`).

It is the specification of every operation and the backend that training uses. A faster backend is
right when it agrees with this one.
"""

from nearfield.kernels.reference.attention import attend, attend_dense, attention, new_kv, store_kv
from nearfield.kernels.reference.dense import blank, embed, linear, prepare, rms_norm, rope, silu_mul
from nearfield.kernels.reference.rounding import round_to_nearest
from nearfield.kernels.reference.sampling import sample

FORMATS = ("dense", "int8", "int4")
"""The weight formats that `linear` multiplies by."""

__all__ = ["FORMATS", "attend", "attend_dense", "attention", "blank", "embed", "linear", "new_kv", "prepare",
           "rms_norm", "rope", "round_to_nearest", "sample", "silu_mul", "store_kv"]
