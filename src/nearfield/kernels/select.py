"""Binding a backend's functions to the operations, once, at start."""

import logging
from typing import Any

import torch

from nearfield.core.config import DType
from nearfield.kernels import cpu, reference
from nearfield.kernels.ops import OpTable

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def build(dtype: DType, formats: tuple[str, ...] = ("dense",), *, isa: str | None = None,
          threads: int | None = None) -> OpTable:
    """The table that serves: activations of `dtype`, weights of `formats`.

    The C++ kernels multiply by int8 and int4 weights, `reference` does the rest; where they were not
    built it does everything, and one line says so. Raises ConfigError for an isa or threads that cannot be had.
    """
    if set(formats).isdisjoint(cpu.FORMATS):
        return plain(dtype)
    if isa is None and (reason := cpu.missing()):
        logging.getLogger("nearfield").warning("%s; the reference backend serves, slowly", reason)
        return plain(dtype)
    kernels = cpu.load(threads, isa)
    from nearfield.kernels.cpu.backend import CpuBackend

    backend = CpuBackend(kernels)
    functions = _reference() | {"prepare": backend.prepare, "blank": kernels.blank, "linear": backend.linear}
    return OpTable(backend=f"cpu ({kernels.isa}, {kernels.threads} threads)", threads=kernels.threads, profile=None,
                   activations=TORCH_DTYPES[dtype], layout=kernels.layout, **functions)


def plain(dtype: DType) -> OpTable:
    """The reference backend alone: in torch, differentiable, the same whatever was built. Training uses it."""
    return OpTable(backend="reference", threads=torch.get_num_threads(), profile=None,
                   activations=TORCH_DTYPES[dtype], layout="codes", **_reference())


def _reference() -> dict[str, Any]:
    names = ("prepare", "blank", "new_kv", "embed", "linear", "rms_norm", "attention", "sample")
    return {name: getattr(reference, name) for name in names}
