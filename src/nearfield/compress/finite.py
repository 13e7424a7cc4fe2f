"""Numbers that nothing can be made of, refused with the name of the tensor that holds them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.manifest import Scheme

_LARGEST = 7 * torch.finfo(torch.float16).max
"""int4's largest code times the largest scale that fp16 holds; beyond it weights would be clipped."""


def check_finite(folder: Path, parts: Mapping[str, tuple[int, ...]], dense: Tensor, done: str) -> None:
    """Raises ModelError where `dense`, the matrices `parts` of the model in `folder` one below the other, has a NaN or
    an infinity. done: what cannot be done to it, such as "pruned"."""
    if not bool(dense.isfinite().all()):
        name = _first(parts, ~dense.isfinite())
        raise ModelError(f"{folder}: tensor {name} holds a number that is not finite; such a model cannot be {done}")


def check_codable(folder: Path, parts: Mapping[str, tuple[int, ...]], dense: Tensor, scheme: Scheme) -> None:
    """Raises ModelError where codes of `scheme` cannot stand for the numbers of `dense`, as in `check_finite`."""
    check_finite(folder, parts, dense, "quantised")
    if scheme.group is not None and float(largest := dense.abs().max()) > _LARGEST:
        name = _first(parts, dense.abs() == largest)
        raise ModelError(f"{folder}: tensor {name} holds a number of the size {float(largest):.3g}; {scheme}, with "
                         f"scales in fp16, reaches {_LARGEST:.3g}; give --format w8")


def overflowing(folder: Path, layer: int) -> ModelError:
    """What is said of a layer whose output is not finite."""
    return ModelError(f"{folder}: layer {layer} makes numbers of the calibration text that are not finite; the "
                      "checkpoint is damaged, or the layer overflows")


def _first(parts: Mapping[str, tuple[int, ...]], found: Tensor) -> str:
    """The name of the first matrix with a True in `found`."""
    rows = [shape[0] for shape in parts.values()]
    return next(name for name, part in zip(parts, torch.split(found, rows), strict=True) if bool(part.any()))
