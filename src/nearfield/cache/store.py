"""The bytes of the KV cache: one allocation, made at start, divided into pages."""

from typing import Protocol

import torch

from nearfield.core.config import format_bytes
from nearfield.core.errors import ConfigError
from nearfield.kernels.ops import KVLayer, KVShape, OpTable


class KVStore(Protocol):
    """Where K and V live. Formats of other widths implement the same."""

    num_pages: int
    nbytes: int

    @property
    def layers(self) -> tuple[KVLayer, ...]:
        """K and V of all layers."""
        ...

    def layer(self, index: int) -> KVLayer:
        """K and V of one layer, in the layout of the backend that attends to them."""
        ...


class DenseKV:
    """K and V in `dtype`. Never grows: a page more than `budget` bytes hold is not there.

    Raises ConfigError when the budget is below two pages or cannot be had.
    """

    def __init__(self, ops: OpTable, shape: KVShape, budget: int, dtype: torch.dtype) -> None:
        page_bytes = shape.page_bytes(dtype)
        self.num_pages = budget // page_bytes
        if self.num_pages < 2:
            raise ConfigError(f"kv_memory of {format_bytes(budget)} is below two pages of the KV cache "
                              f"({format_bytes(2 * page_bytes)}); give it more with --kv-memory")
        self.nbytes = self.num_pages * page_bytes
        try:
            self.layers = ops.new_kv(shape, self.num_pages, dtype)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        except (RuntimeError, MemoryError):
            raise ConfigError(f"a KV cache of {format_bytes(self.nbytes)} cannot be allocated on this machine; "
                              "ask for less with --kv-memory") from None

    def layer(self, index: int) -> KVLayer:
        """K and V of one layer, in the layout of the backend that attends to them."""
        return self.layers[index]
