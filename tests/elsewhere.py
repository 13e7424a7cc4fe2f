"""A device that is none: tensors whose numbers are the CPU's and that say they are elsewhere ("meta").

As on a GPU, an operation refuses tensors of two devices, and numbers come back by `.cpu()`, `.item()` and their like
alone. So what would compute on a GPU can be tried without one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
"""What the code under test is given as a device; the only one but the CPU that any build of torch makes tensors of."""

_PRODUCTS = {f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "addmm_",
                                          "scaled_dot_product_attention")}


@contextmanager
def elsewhere() -> Iterator[list[str]]:
    """A block in which that device is to be had; gives the devices of all matrix products' operands."""
    products: list[str] = []
    # Optimisers have their one operation for the whole of a step on the devices of a list only.
    fused = patch.object(import_module("torch.optim.optimizer"), "_get_fused_kernels_supported_devices",
                         lambda: ["cpu", NAME])
    with fused, _Operations(products), _Functions():
        yield products


class _Held(Tensor):
    """A tensor that is elsewhere; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Self:
        with torch.inference_mode(False):       # or no view of it could be taken
            made = Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype,
                                                 storage_offset=held.storage_offset(), device=torch.device(NAME))
        made.held = held
        return made

    # torch gives a subclass this method to define, but its types call it a function of C that none may change.
    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


# torch leaves the class of all its modes, and what makes one, without types.
class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes and moves tensors where that is asked."""

    def __init__(self, products: list[str]) -> None:
        begin: Any = super().__init__
        begin()
        self._products = products

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in _PRODUCTS:
            self._products += [each.device.type for each in _tensors(args)]
        return _run(func, args, dict(kwargs or {}))


class _Functions(TorchFunctionMode):
    """What dispatch does not see: torch.tensor makes its numbers and moves them in one step, tolist reads memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.tensor:
            device = given.pop("device", "cpu")
            return torch.tensor(*args, **given).to(device)
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        return func(*args, **given)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, given = func._schema.name, _tensors((args, kwargs))
    away = any(isinstance(each, _Held) for each in given)
    if away and name not in ("aten::copy_", "aten::_to_copy"):
        # Indices may be on the CPU, and so may single numbers that are not changed.
        bound = [args[0], *args[2:]] if name.startswith(("aten::index", "aten::_index_put")) else (args, kwargs)
        for each in _tensors(bound):
            if not isinstance(each, _Held) and (each.dim() or name.endswith("_") and each is args[0]):
                raise RuntimeError(f"{func}: tensors of two devices")
    if kwargs.get("device") is not None:
        away = torch.device(kwargs["device"]).type == NAME
        kwargs["device"] = "cpu"
    inner = tree_map(lambda leaf: leaf.held if isinstance(leaf, _Held) else leaf, (args, kwargs))
    made = func(*inner[0], **inner[1])
    if isinstance(made, Tensor) and name.endswith("_"):
        return args[0]                  # changed in place
    return tree_map(lambda leaf: _Held(leaf) if away and isinstance(leaf, Tensor) else leaf, made)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
