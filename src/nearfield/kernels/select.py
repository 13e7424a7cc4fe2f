"""Binding the best backend's function to each operation, once, at start."""

from nearfield.core.config import DType
from nearfield.kernels import reference
from nearfield.kernels.ops import OpTable

_OPERATIONS = ("linear", "embed", "rms_norm", "rope", "silu_mul", "store_kv", "attend", "attend_dense",
               "sample")


def build(dtype: DType, weight_format: str = "dense") -> OpTable:
    """The table of operations for activations of `dtype` and weights of `weight_format`.

    Backends are tried from the fastest to `reference`, which computes everything.
    """
    missing = [op for op in _OPERATIONS if (op, dtype, weight_format) not in reference.SUPPORTS]
    if missing:
        raise ValueError(f"no backend computes {', '.join(missing)} in {dtype} with {weight_format} weights")
    return OpTable(backend="reference", **{op: getattr(reference, op) for op in _OPERATIONS})
