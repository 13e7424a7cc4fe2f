"""Reading how much memory is left, on machines and in containers."""

from pathlib import Path

import pytest

from nearfield.core.machine import available_memory, keep_freed_memory


@pytest.mark.parametrize(("meminfo", "limit", "used", "want"), [
    ("MemTotal: 9 kB\nMemAvailable:    2048 kB\n", "max", "5", 2048 << 10),
    ("MemAvailable: 2048 kB\n", "1000000", "400000", 600_000),
    ("MemAvailable: 2048 kB\n", "1000", "4000", 0),
    ("MemTotal: 9 kB\n", None, None, None),
    (None, "3000", "1000", 2000),
    (None, None, None, None),
])
def test_the_least_of_machine_and_container(
        meminfo: str | None, limit: str | None, used: str | None, want: int | None, tmp_path: Path) -> None:
    for name, text in (("meminfo", meminfo), ("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert available_memory(tmp_path / "meminfo", tmp_path) == want


def test_keeping_freed_memory_is_harmless_twice() -> None:
    """The call itself; what it gains is a measurement (decision 004), not a test."""
    keep_freed_memory()
    keep_freed_memory()
    assert len(bytearray(8 << 20)) == 8 << 20
