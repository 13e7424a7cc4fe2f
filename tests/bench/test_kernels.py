"""The bench of the kernels, on small shapes: its document's form, and a share that has a meaning."""

import pytest
import torch

from nearfield.kernels import cpu

if reason := cpu.missing():
    pytest.skip(reason, allow_module_level=True)

from nearfield.bench import kernels
from nearfield.cli.bench_kernels import table


def test_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SHAPES", ((128, 128), (96, 256)))
    said: list[str] = []
    result = kernels.run_kernels(1, None, kernels.KernelsParams((1, 8), 64, 2, 1 << 20), said.append)
    assert result["kind"] == "kernels" and result["limits"]["read_gb_s"] > 0 and len(said) == 9
    assert [(row["format"], row["m"], row["n"], row["k"]) for row in result["rows"][:-1]] == [
        (format, m, n, k) for format in kernels.RATES for n, k in ((128, 128), (96, 256)) for m in (1, 8)]
    assert tuple(kernels.RATES) == ("w8", "w4", "bf16", "fp32")
    assert set(result["limits"]) == {"read_gb_s", "int8_gmac_s", "bf16_gmac_s", "fp32_gmac_s"}
    assert [row["op"] for row in result["rows"]] == ["linear"] * 16 + ["attention"]
    for row in result["rows"]:
        assert row["us"] > 0 and 0 < row["share"] < 3
    assert len(table(result).splitlines()) == 2 + len(result["rows"])


def test_without_a_bf16_instruction_the_limit_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SHAPES", ((32, 32),))
    result = kernels.run_kernels(1, "scalar", kernels.KernelsParams((64,), 32, 1, 1 << 16), lambda _: None)
    assert result["limits"]["bf16_gmac_s"] is None and result["limits"]["fp32_gmac_s"] > 0
    assert "bf16 None" not in table(result)


def test_enough_copies() -> None:
    copies = kernels.Copies(cpu.load(1), "w8", 64, 64, kernels.KernelsParams((1,), 64, 1, 50_000))
    assert copies.nbytes == 4 * (64 * 16 + 64)
    assert copies.seconds(torch.ones(1, 64)) > 0
