"""Codes of compressed-tensors: layers that the library made mean the same floats here."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from compressed_tensors.compressors import IntQuantizationCompressor, PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams

from nearfield.core.errors import ModelError
from nearfield.formats.compressed import decode, encode, encoded, join, layout
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.formats.manifest import Scheme
from nearfield.kernels.ops import PackedWeight

ROWS, COLUMNS = 12, 512     # rows that are no multiple of the eight to a word


def meaning(weight: PackedWeight) -> npt.NDArray[np.float64]:
    """The floats of a packed weight, from its tensors' own definition."""
    codes = weight.tensors["codes"].numpy().astype(np.int64)
    scales = weight.tensors["scales"].double().numpy().reshape(len(codes), -1)
    if weight.format == "int4":
        codes = np.stack((codes % 16, codes // 16), axis=-1).reshape(len(codes), -1)
        zeros = weight.tensors["zeros"].numpy().astype(np.int64) if "zeros" in weight.tensors else 8
        zeros = np.broadcast_to(zeros, scales.shape)
        codes = codes - np.repeat(zeros, codes.shape[1] // scales.shape[1], axis=1)
    made: npt.NDArray[np.float64] = codes * np.repeat(scales, codes.shape[1] // scales.shape[1], axis=1)
    return made


def library_layer(scheme: Scheme, dtype: torch.dtype,
                  rows: int = ROWS) -> tuple[dict[str, torch.Tensor], npt.NDArray[np.float64]]:
    """A layer as the library stores it, and the floats that the library reads from it."""
    shared: dict[str, Any] = {"strategy": "group", "group_size": scheme.group} if scheme.group else {
        "strategy": "tensor" if scheme.per_tensor else "channel"}
    args = QuantizationArgs(num_bits=scheme.bits, type="int", symmetric=scheme.symmetric, **shared)
    described = QuantizationScheme(targets=["Linear"], weights=args)
    dense = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(1)) + 0.3
    parts = dense.view(1, 1, -1) if scheme.per_tensor else dense.view(rows, -1, scheme.group or COLUMNS)
    scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
    scale = scale.to(dtype)
    if scheme.per_tensor:
        scale, zero = scale.flatten(), zero.flatten()
    compressor = PackedQuantizationCompressor if scheme.packed else IntQuantizationCompressor
    state = {"weight": dense, "weight_scale": scale.float(), "weight_zero_point": zero.to(torch.int8)}
    stored = compressor.compress(state, described)
    floats = compressor.decompress(stored, described)["weight"].double().numpy()
    return {**stored, "weight_scale": scale}, floats


SCHEMES = [
    Scheme(8, None), Scheme(8, None, packed=True), Scheme(8, None, per_tensor=True), Scheme(8, 128, packed=True),
    Scheme(8, 64), Scheme(4, 32, packed=True), Scheme(4, 64, packed=True), Scheme(4, 128, packed=True),
    Scheme(4, 256, packed=True), Scheme(4, None, packed=True), Scheme(4, 128), Scheme(4, None, per_tensor=True),
    Scheme(4, 32, symmetric=False, packed=True), Scheme(4, 128, symmetric=False, packed=True),
    Scheme(4, None, symmetric=False, packed=True), Scheme(4, 64, symmetric=False), Scheme(4, None, symmetric=False),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s}{', packed' if s.packed else ''}")
def test_a_layer_of_the_library_means_the_same_floats(scheme: Scheme, dtype: torch.dtype) -> None:
    stored, floats = library_layer(scheme, dtype)
    expected = layout("x", scheme, ROWS, COLUMNS)
    assert {end: tuple(tensor.shape) for end, tensor in stored.items()} == {
        end: found.shape for end, found in expected.items()}
    assert all(stored[end].dtype in found.dtypes for end, found in expected.items())
    weight = decode("x", scheme, (ROWS, COLUMNS), stored)
    assert weight.format == scheme.format
    np.testing.assert_allclose(meaning(weight), floats, rtol=1e-6)     # the library's product is rounded to fp32
    scales = weight.tensors["scales"]
    if scheme.bits == 8 and scheme.group is None:
        assert scales.shape == (ROWS,) and scales.dtype == torch.float32
    else:
        assert scales.dtype == dtype and COLUMNS // scales.shape[1] in (32, 64, 128)
    assert ("zeros" in weight.tensors) != scheme.symmetric


def test_scales_in_fp32_become_fp16_in_groups() -> None:
    scheme = Scheme(4, 64, packed=True)
    stored, _ = library_layer(scheme, torch.float32)
    assert decode("x", scheme, (ROWS, COLUMNS), stored).tensors["scales"].dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("packer", "scheme"), [
    pytest.param(Int8(), Scheme(8, None), id="int8"),
    pytest.param(Int8(), Scheme(8, None, packed=True), id="int8, packed"),
    *(pytest.param(Int4(g), Scheme(4, g, packed=True), id=f"int4-{g}") for g in (32, 64, 128))])
def test_what_is_written_is_read_again_to_the_bit(packer: Any, scheme: Scheme, dtype: torch.dtype) -> None:
    weight = packer.pack(torch.randn(ROWS, COLUMNS).to(dtype))
    stored = encode(weight, scheme)
    told = encoded(scheme, ROWS, COLUMNS)
    assert {end: (tuple(t.shape), t.dtype) for end, t in stored.items()} == {
        end: (entry.shape, entry.dtype) for end, entry in told.items()}
    again = decode("x", scheme, (ROWS, COLUMNS), stored)
    assert again.tensors.keys() == weight.tensors.keys()
    for name, tensor in weight.tensors.items():
        assert torch.equal(again.tensors[name], tensor) and again.tensors[name].dtype == tensor.dtype


def test_parts_lie_one_below_the_other() -> None:
    scheme = Scheme(4, 64, symmetric=False, packed=True)
    found = [library_layer(scheme, torch.bfloat16, rows) for rows in (12, 20)]
    whole = join([decode("x", scheme, (len(floats), COLUMNS), stored) for stored, floats in found])
    assert whole.shape == (32, COLUMNS)
    np.testing.assert_allclose(meaning(whole), np.concatenate([floats for _, floats in found]), rtol=1e-6)


def test_numbers_that_no_layer_has_are_named() -> None:
    scheme = Scheme(4, 64, packed=True)
    stored, _ = library_layer(scheme, torch.bfloat16)
    broken: list[tuple[dict[str, Any], str]] = [
        ({"weight_shape": torch.tensor([12, 256])}, r"x\.weight_shape says \[12, 256\], .* makes it \[12, 512\]"),
        ({"weight_scale": stored["weight_scale"] * float("nan")}, r"x\.weight_scale holds a number that is not finite")]
    for change, message in broken:
        with pytest.raises(ModelError, match=message):
            decode("x", scheme, (ROWS, COLUMNS), {**stored, **change})
    stored, _ = library_layer(Scheme(4, 64), torch.bfloat16)
    with pytest.raises(ModelError, match=r"x\.weight holds codes that 4 bits cannot"):
        decode("x", Scheme(4, 64), (ROWS, COLUMNS), {**stored, "weight": stored["weight"] + 9})


@pytest.mark.parametrize(("scheme", "columns"), [
    (Scheme(4, 16, packed=True), 512), (Scheme(4, 128, packed=True), 192), (Scheme(8, None), 40)], ids=str)
def test_groups_that_no_kernel_knows_name_the_remedy(scheme: Scheme, columns: int) -> None:
    with pytest.raises(ModelError, match=rf"x: 8 x {columns} stored as int.* cannot be cut .* quantise the model"):
        layout("x", scheme, 8, columns)
