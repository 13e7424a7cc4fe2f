"""Binding a backend's functions to the operations, once, at start."""

import logging

import torch

from nearfield.core.config import DType
from nearfield.core.errors import ConfigError
from nearfield.kernels import cpu, reference
from nearfield.kernels.ops import OpTable

_OPERATIONS = ("round_to_nearest", "prepare", "blank", "new_kv", "embed", "linear", "rms_norm", "attention", "sample")

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def build(dtype: DType, formats: tuple[str, ...] = ("dense",), *, isa: str | None = None,
          threads: int | None = None) -> OpTable:
    """The table that serves: K/V and dense weights of `dtype`, weights of `formats`.

    The C++ kernels, where they were built; `reference` for fp16, and where there are none, of which one line
    warns. Raises ConfigError for an isa or threads that cannot be had, and for fp16 with quantised weights.
    """
    if dtype == "fp16":
        if set(formats) != {"dense"} or isa is not None:
            raise ConfigError("fp16 has no kernels of its own and works with dense weights alone, without isa; "
                              "choose bf16 or fp32")
        return plain(dtype)
    if isa is None and (reason := cpu.missing()):
        logging.getLogger("nearfield").warning("%s; the reference backend serves, slowly", reason)
        return plain(dtype)
    kernels = cpu.load(threads, isa)
    from nearfield.kernels.cpu.backend import CpuBackend

    backend = CpuBackend(kernels)
    return OpTable(backend=f"cpu ({kernels.isa}, {kernels.threads} threads)", threads=kernels.threads,
                   profile=kernels.profile(formats, TORCH_DTYPES[dtype]), activations=torch.float32,
                   layout=kernels.layout, bind=backend.bind,
                   **{name: getattr(backend, name) for name in _OPERATIONS})


def plain(dtype: DType) -> OpTable:
    """The reference backend alone: in torch, differentiable, the same whatever was built. Training uses it."""
    return OpTable(backend="reference", threads=torch.get_num_threads(), profile=None,
                   activations=TORCH_DTYPES[dtype], layout="codes",
                   **{name: getattr(reference, name) for name in _OPERATIONS})
