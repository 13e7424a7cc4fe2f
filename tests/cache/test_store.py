"""The bytes of the cache: as many pages as fit, and not one byte more."""

import pytest
import torch

from nearfield.cache.store import DenseKV
from nearfield.core.errors import ConfigError
from nearfield.kernels import select
from nearfield.kernels.ops import KVShape

SHAPE = KVShape(layers=3, kv_heads=2, head_dim=8, page_size=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pages_fill_the_budget(dtype: torch.dtype) -> None:
    page = SHAPE.page_bytes(dtype)
    assert page == 2 * 3 * 2 * 8 * 4 * dtype.itemsize
    kv = DenseKV(select.plain("fp32"), SHAPE, 10 * page + page - 1, dtype)
    assert (kv.num_pages, kv.nbytes) == (10, 10 * page)
    held = {kv.layer(i).k.untyped_storage().data_ptr() for i in range(3)}
    assert len(held) == 1 and kv.layer(0).k.untyped_storage().nbytes() == kv.nbytes


def test_layers_do_not_overlap() -> None:
    kv = DenseKV(select.plain("fp32"), SHAPE, 4 * SHAPE.page_bytes(torch.float32), torch.float32)
    for i in range(3):
        kv.layer(i).k.fill_(2 * i)
        kv.layer(i).v.fill_(2 * i + 1)
    assert [float(kv.layer(i).k.mean()) for i in range(3)] == [0, 2, 4]
    assert [float(kv.layer(i).v.mean()) for i in range(3)] == [1, 3, 5]


def test_too_little_and_too_much_are_told() -> None:
    with pytest.raises(ConfigError, match="below two pages"):
        DenseKV(select.plain("fp32"), SHAPE, 2 * SHAPE.page_bytes(torch.float32) - 1, torch.float32)
    with pytest.raises(ConfigError, match="cannot be allocated"):
        DenseKV(select.plain("fp32"), SHAPE, 1 << 60, torch.float32)
