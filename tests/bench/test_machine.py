"""The machine's limits, on little memory: every number is there, and more threads are listed."""

import pytest

from nearfield.kernels import cpu

if reason := cpu.missing():
    pytest.skip(reason, allow_module_level=True)

from nearfield.bench.machine import limits, middle


def test_limits_of_each_number_of_threads() -> None:
    said: list[str] = []
    result = limits(2, "scalar", 1, 1 << 22, said.append)
    assert (result["kind"], result["isa"], len(said)) == ("limits", "scalar", 2)
    assert [row["threads"] for row in result["rows"]] == [1, 2]
    for row in result["rows"]:
        assert row["read_gb_s"] > 0 and row["int8_gmac_s"] > 0 and row["fp32_gmac_s"] > 0
        assert row["bf16_gmac_s"] is None


def test_middle() -> None:
    assert middle([3.0, None, 1.0, 2.0]) == 2.0
    assert middle([None]) is None
