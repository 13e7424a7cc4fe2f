"""Where a compression computes: on the CPU, or on a GPU, which rounds otherwise and so makes other bits of the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nearfield.core.errors import ConfigError

DEVICES = ("cpu", "cuda")


def open_device(name: str) -> torch.device:
    """The device that a pass computes on: "cpu" or "cuda". Raises ConfigError where torch has no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device here; leave the option out to compute on the CPU, "
                          "or install a build of torch with CUDA on a machine with such a GPU")
    return torch.device(name)


def other_device(folder: Path, begun: str, device: str) -> ConfigError:
    """What is said of a run that was begun on one device and is to go on another: neither's bits would come of it."""
    return ConfigError(f"{folder}: has what this run finished with --device {begun}; on {device} other bits would come "
                       f"of the same. Continue with --device {begun}, or remove that folder to begin anew")


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Around what computes there. Raises ConfigError where a GPU's memory is too small.

    Attention on a GPU is made of plain products: torch's quicker ones add up gradients in whatever order they come.
    """
    if device.type != "cuda":
        yield
        return
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"--device cuda: the GPU's memory is too small ({str(error).partition('. ')[0]}); leave the "
                          "option out to compute on the CPU, or give less text") from None
