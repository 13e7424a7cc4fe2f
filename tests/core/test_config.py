"""Options of an engine, and sizes as people write them."""

from typing import Any

import pytest

from nearfield.core.config import EngineConfig, format_bytes, parse_bytes
from nearfield.core.errors import ConfigError


@pytest.mark.parametrize(("text", "count"), [
    ("4GiB", 4 << 30), ("512MiB", 512 << 20), ("1.5GB", 1_500_000_000), ("1048576", 1 << 20), ("2g", 2 << 30),
    (" 8 KiB ", 8192), ("7b", 7)])
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "4XB", "-1GiB", "0", "nan", "inf", "1e30GiB", "4 5GiB", "0x10"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="like 4GiB"):
        parse_bytes(text)


def test_sizes_for_people() -> None:
    assert [format_bytes(n) for n in (5, 2048, 3 << 20, 3 << 29)] == ["5 B", "2.00 KiB", "3.00 MiB", "1.50 GiB"]


@pytest.mark.parametrize("change", [
    {"dtype": "int3"}, {"kv_memory": 0}, {"page_size": 0}, {"max_seqs": -1}, {"max_step_tokens": 0},
    {"max_waiting": 0}, {"max_context": 0},
    {"max_seqs": "8"}, {"max_seqs": True}, {"max_context": 1.5}, {"threads": "2"}, {"threads": 1.5},
    {"group": 64}, {"group": 32, "weights": "dense"}])
def test_bad_options_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        EngineConfig(**change)
