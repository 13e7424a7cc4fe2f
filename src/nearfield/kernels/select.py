"""Binding the best backend's function to each operation, once, at start."""

import logging

import torch

from nearfield.core.config import DType
from nearfield.kernels import cpu, reference
from nearfield.kernels.ops import OpTable

_OPERATIONS = ("prepare", "linear", "embed", "rms_norm", "rope", "silu_mul", "store_kv", "attend", "attend_dense",
               "sample")


def build(dtype: DType, formats: tuple[str, ...] = ("dense",), *, isa: str | None = None,
          threads: int | None = None) -> OpTable:
    """The table of operations for activations of `dtype` and weights of `formats`.

    The C++ kernels multiply by int8 and int4 weights, `reference` does the rest; where they were not
    built it does everything, and one line says so. Raises ConfigError for an isa or threads that cannot be had.
    """
    missing = [op for op in _OPERATIONS for fmt in formats if (op, dtype, fmt) not in reference.SUPPORTS]
    if missing:
        raise ValueError(f"no backend computes {', '.join(missing)} in {dtype} with {', '.join(formats)} weights")
    functions = {op: getattr(reference, op) for op in _OPERATIONS}
    if set(formats).isdisjoint(cpu.FORMATS):
        return OpTable(backend="reference", threads=torch.get_num_threads(), **functions)
    if isa is None and (reason := cpu.missing()):
        logging.getLogger("nearfield").warning("%s; the reference backend serves, slowly", reason)
        return OpTable(backend="reference", threads=torch.get_num_threads(), **functions)
    kernels = cpu.load(threads, isa)
    from nearfield.kernels.cpu.backend import CpuBackend

    backend = CpuBackend(kernels)
    functions |= {"prepare": backend.prepare, "linear": backend.linear}
    return OpTable(backend=f"cpu ({kernels.isa}, {kernels.threads} threads)", threads=kernels.threads, **functions)
