"""int8 and int4 formats: what their codes mean, what they lose, and how the kernels agree with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nearfield import LLM, SamplingParams
from nearfield.core.config import Weights
from nearfield.core.errors import ConfigError
from nearfield.formats.base import WeightFormat
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.kernels import cpu, reference, select
from nearfield.kernels.ops import PackedWeight
from nearfield.kernels.reference import round_to_nearest
from nearfield.kernels.reference.quantized import dequantize, dequantize_rows, pack_int4, unpack_int4
from nearfield.kernels.reference.rounding import SHRINK
from nearfield.models.loader import weight_formats

FORMATS: dict[str, WeightFormat] = {
    "int8": Int8(), "int8-32": Int8(32), "int8-64": Int8(64), "int8-128": Int8(128),
    "int4-32": Int4(32), "int4-64": Int4(64), "int4-128": Int4(128)}

BITS = {"int8": 8 + 32 / 256, "int8-32": 8.5, "int8-64": 8.25, "int8-128": 8.125,
        "int4-32": 4.5, "int4-64": 4.25, "int4-128": 4.125}


def needs_kernels() -> None:
    if reason := cpu.missing():
        pytest.skip(reason)


@pytest.mark.parametrize("name", FORMATS)
def test_the_error_is_within_half_a_step_or_clipped(name: str) -> None:
    torch.manual_seed(0)
    fmt, dense = FORMATS[name], torch.randn(24, 256)
    weight = fmt.pack(dense)
    error = (fmt.unpack(weight) - dense).abs()
    scales = weight.tensors["scales"].float().view(24, -1)
    step = scales.repeat_interleave(256 // scales.shape[1], dim=1)
    high = 127 if fmt.name == "int8" else 7
    clipped = dense.abs() > step * (high + 0.5) * 0.999
    assert bool(((error <= step / 2 * 1.0001) | clipped).all())
    assert clipped.float().mean() < 0.05
    assert fmt.bits_per_weight(weight) == pytest.approx(BITS[name])


@pytest.mark.parametrize(
    ("group", "low", "high", "dtype"), [(256, -127, 127, torch.float32), (32, -8, 7, torch.float16)])
def test_the_search_finds_the_least_squares_of_its_candidates(
        group: int, low: int, high: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    dense = torch.randn(8, 256) ** 3
    codes, scales = round_to_nearest(dense, group, low, high, dtype)
    for row in range(8):
        for g in range(256 // group):
            part = dense[row, g * group:(g + 1) * group].double()
            tried = [float((part.abs().max() / high * share).to(dtype)) for share in SHRINK]
            errors = [float(((part / s).round().clamp(low, high) * s - part).square().sum()) for s in tried]
            got = float((codes[row, g * group:(g + 1) * group].double() * float(scales[row, g]) - part).square().sum())
            assert got == pytest.approx(min(errors), rel=1e-4)


def test_zeros_stay_zeros() -> None:
    for fmt in FORMATS.values():
        assert not fmt.unpack(fmt.pack(torch.zeros(4, 128))).any()


def test_int4_codes_pack_low_half_first() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8).view(2, 8)
    packed = pack_int4(codes)
    assert packed[0].tolist() == [0x10, 0x32, 0x54, 0x76]
    assert torch.equal(unpack_int4(packed), codes)


@pytest.mark.parametrize("group", [0, 16, 65, 256])
def test_a_group_that_no_kernel_knows_is_refused(group: int) -> None:
    for make in (Int4, Int8):
        with pytest.raises(ConfigError, match="one of 32, 64, 128"):
            make(group)


def test_a_matrix_that_cannot_be_cut_names_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"10 x 96 cannot be cut into groups of 64 .* --weights w8"):
        Int4(64).pack(torch.randn(10, 96))
    with pytest.raises(ConfigError, match=r"10 x 96 cannot be cut into groups of 64 .* leave --group out"):
        Int8(64).pack(torch.randn(10, 96))
    with pytest.raises(ConfigError, match=r"10 x 40 cannot be cut into blocks of 32 .* serve it dense"):
        Int8().pack(torch.randn(10, 40))


def test_reference_linear_and_embed_read_the_codes() -> None:
    torch.manual_seed(2)
    x, bias = torch.randn(3, 128), torch.randn(20)
    for fmt in FORMATS.values():
        weight = fmt.pack(torch.randn(20, 128))
        want = x.double() @ fmt.unpack(weight).double().T + bias.double()
        assert (reference.linear(x, weight, bias) - want).abs().max() < 1e-4
    rows = torch.tensor([3, 19, 3])
    for fmt in FORMATS.values():
        table = fmt.pack(torch.randn(20, 128))
        assert torch.equal(dequantize_rows(table, rows), fmt.unpack(table)[rows])
    assert reference.embed(rows, table, torch.bfloat16).dtype == torch.bfloat16


def with_zeros(rows: int, columns: int, group: int) -> PackedWeight:
    """An int4 weight with zero points, as a folder made by others brings it."""
    shape = (rows, columns // group)
    return PackedWeight("int4", (rows, columns), {
        "codes": torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8),
        "scales": torch.rand(shape).to(torch.bfloat16), "zeros": torch.randint(0, 16, shape, dtype=torch.uint8)})


def test_a_zero_point_is_what_its_code_stands_for() -> None:
    torch.manual_seed(4)
    weight = with_zeros(6, 64, 32)
    dense = dequantize(weight)
    codes, scales, zeros = (weight.tensors[name] for name in ("codes", "scales", "zeros"))
    for row in range(6):
        for column in range(64):
            code = int(codes[row, column // 2]) >> 4 * (column % 2) & 15
            group = column // 32
            assert dense[row, column] == (code - int(zeros[row, group])) * float(scales[row, group])


def test_the_kernels_honour_zero_points() -> None:
    needs_kernels()
    torch.manual_seed(5)
    ops = select.build("fp32", ("int4",))
    x, weight = torch.randn(5, 128), with_zeros(40, 128, 32)
    want = reference.linear(x, weight)
    got = ops.linear(x, ops.prepare(weight))
    assert (got - want).norm() / want.norm() < 0.015


@pytest.mark.parametrize("name", FORMATS)
def test_the_kernels_make_the_same_codes(name: str) -> None:
    needs_kernels()
    dense = torch.randn(40, 256, generator=torch.Generator().manual_seed(6), dtype=torch.float32).bfloat16()
    ops = select.build("bf16", (FORMATS[name].name,))
    ours, theirs = FORMATS[name].pack(dense, ops.round_to_nearest), FORMATS[name].pack(dense)
    assert ops.round_to_nearest is not round_to_nearest
    assert all(torch.equal(ours.tensors[part], theirs.tensors[part]) for part in ("codes", "scales"))


@pytest.mark.parametrize("name", FORMATS)
def test_the_kernels_agree_with_the_reference(name: str) -> None:
    """Activations are rounded to int8 on the way: the difference is theirs, about a hundredth of the output."""
    needs_kernels()
    torch.manual_seed(3)
    fmt = FORMATS[name]
    ops = select.build("fp32", (fmt.name,))
    x, bias = torch.randn(9, 256), torch.randn(40)
    weight = fmt.pack(torch.randn(40, 256))
    want = reference.linear(x, weight, bias)
    prepared = ops.prepare(weight)
    assert not prepared.tensors and prepared.nbytes > 0
    got = ops.linear(x, prepared, bias)
    assert (got - want).norm() / want.norm() < 0.015
    assert torch.equal(ops.linear(x[2:3], prepared, bias), got[2:3])


QUANTIZED: list[dict[str, Any]] = [{"weights": "w8"}, {"weights": "w8", "group": 32}, {"weights": "w4", "group": 32}]


@pytest.mark.parametrize("options", QUANTIZED, ids=["w8", "w8-32", "w4"])
def test_a_quantised_model_is_still_itself(options: dict[str, Any], pocket: Path) -> None:
    """Close to the dense model on its own greedy text, the same on every instruction set."""
    needs_kernels()
    plain = LLM(pocket, dtype="fp32", kv_memory="16MiB")
    ids = plain.encode_chat([{"role": "user", "content": "Tell me a story about a dog named Rex."}])
    answer = plain.generate(ids, SamplingParams(max_tokens=100, temperature=0))[0]
    text = ids + answer.token_ids
    want = torch.tensor(plain.score(text)[len(ids) - 1:])
    scores = []
    for isa in cpu.supported():
        llm = LLM(pocket, dtype="fp32", kv_memory="16MiB", isa=isa, threads=2, **options)
        scores.append(torch.tensor(llm.score(text)[len(ids) - 1:]))
        assert llm.loaded.ops.backend == f"cpu ({isa}, 2 threads)"
    assert (scores[0].mean() - want.mean()).abs() < {"w8": 0.02, "w4": 0.25}[options["weights"]]
    for other in scores[1:]:
        assert (other - scores[0]).abs().max() < 1e-4


@pytest.mark.parametrize(("weights", "group", "scales"), [
    ("w8", None, (4,)), ("w8", 32, (4, 4)), ("w4", None, (4, 2)), ("w4", 128, (4, 1))])
def test_what_a_group_means(weights: Weights, group: int | None, scales: tuple[int, ...]) -> None:
    formats = weight_formats(weights, group)
    assert formats.inner.pack(torch.randn(4, 128)).tensors["scales"].shape == scales
    assert formats.table.pack(torch.randn(4, 128)).tensors["scales"].shape == (4,)


def test_options_are_checked(pocket: Path) -> None:
    with pytest.raises(ConfigError, match="weights must be one of dense, w8, w4"):
        LLM(pocket, weights="w3", kv_memory="16MiB")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one of 32, 64, 128"):
        LLM(pocket, weights="w4", group=48, kv_memory="16MiB")
    needs_kernels()
    with pytest.raises(ConfigError, match=r"unknown isa 'avx51'.*avx512"):
        LLM(pocket, weights="w8", isa="avx51", kv_memory="16MiB")


def test_without_kernels_the_reference_serves_and_says_so(
        pocket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cpu, "missing", lambda: "the C++ kernels are not built (test)")
    llm = LLM(pocket, weights="w8", dtype="fp32", kv_memory="16MiB")
    assert llm.loaded.ops.backend == "reference"
    assert "not built (test); the reference backend serves, slowly" in caplog.text
    ids = llm.encode("Once upon a time")
    assert len(llm.generate(ids, replace(SamplingParams(max_tokens=4), temperature=0))[0].token_ids) == 4
