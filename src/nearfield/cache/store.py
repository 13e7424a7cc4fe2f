"""The bytes of the KV cache: one allocation, made at start, divided into pages."""

from dataclasses import dataclass
from typing import Protocol

import torch

from nearfield.core.config import format_bytes
from nearfield.core.errors import ConfigError
from nearfield.kernels.ops import KVLayer


@dataclass(frozen=True)
class KVShape:
    """What decides the size of a page: layers, key/value heads, head size, positions in a page."""

    layers: int
    kv_heads: int
    head_dim: int
    page_size: int

    def page_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of one page of K and V over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.page_size * dtype.itemsize


class KVStore(Protocol):
    """Where K and V live. Formats of other widths implement the same."""

    num_pages: int
    nbytes: int

    def layer(self, index: int) -> KVLayer:
        """K and V of one layer, each [pages, kv_heads, page_size, head_dim]."""
        ...


class DenseKV:
    """K and V in the activations' dtype. Never grows: a page more than `budget` bytes hold is not there.

    Raises ConfigError when the budget is below two pages or cannot be had.
    """

    def __init__(self, shape: KVShape, budget: int, dtype: torch.dtype) -> None:
        page_bytes = shape.page_bytes(dtype)
        self.num_pages = budget // page_bytes
        if self.num_pages < 2:
            raise ConfigError(f"kv_memory of {format_bytes(budget)} is below two pages of the KV cache "
                              f"({format_bytes(2 * page_bytes)}); give it more with --kv-memory")
        self.nbytes = self.num_pages * page_bytes
        size = (shape.layers, 2, self.num_pages, shape.kv_heads, shape.page_size, shape.head_dim)
        try:
            data = torch.zeros(size, dtype=dtype)
        except RuntimeError:
            raise ConfigError(f"a KV cache of {format_bytes(self.nbytes)} cannot be allocated on this machine; "
                              "ask for less with --kv-memory") from None
        self._layers = tuple(KVLayer(data[i, 0], data[i, 1]) for i in range(shape.layers))

    def layer(self, index: int) -> KVLayer:
        """K and V of one layer, each [pages, kv_heads, page_size, head_dim]."""
        return self._layers[index]
