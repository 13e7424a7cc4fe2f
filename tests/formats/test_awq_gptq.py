"""AWQ and GPTQ: layers packed here by loops, from the published layouts, mean their floats."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from compressed_tensors.entrypoints.convert import AutoAWQConverter

from nearfield.core.errors import ModelError
from nearfield.formats.codecs import decode, floats, layout
from nearfield.formats.compressed import join
from nearfield.formats.int4 import Int4
from nearfield.formats.manifest import AWQ, GPTQ, GPTQ_V2, Scheme
from nearfield.kernels.ops import PackedWeight
from nearfield.kernels.reference.quantized import dequantize
from tests.other_layouts import Layer, awq_layer, gptq_layer, random_layer

ROWS, COLUMNS = 16, 256


def read(scheme: Scheme, tensors: Mapping[str, torch.Tensor], rows: int = ROWS, columns: int = COLUMNS) -> PackedWeight:
    expected = layout("x", scheme, rows, columns)
    assert {end: tuple(tensor.shape) for end, tensor in tensors.items()} == {
        end: found.shape for end, found in expected.items()}
    assert all(tensors[end].dtype in found.dtypes for end, found in expected.items())
    return decode("x", scheme, (rows, columns), tensors)


@pytest.mark.parametrize("group", [32, 64, 128, 256, None])
def test_an_awq_layer_means_its_floats(group: int | None) -> None:
    layer = random_layer(ROWS, COLUMNS, group or COLUMNS, 4)
    weight = read(Scheme(4, group, symmetric=False, layout=AWQ), awq_layer(layer))
    assert weight.format == "int4" and weight.tensors["scales"].dtype == torch.float16
    assert np.array_equal(dequantize(weight).numpy(), layer.floats())


def test_an_awq_layer_is_the_one_that_the_library_makes_of_it() -> None:
    """compressed-tensors' converter, whose layer is then read as one of its own."""
    layer = random_layer(ROWS, COLUMNS, 64, 4)
    stored = {f"x.{end}": tensor for end, tensor in awq_layer(layer).items()}
    made = AutoAWQConverter(group_size=64).process(dict(stored))
    own = decode("x", Scheme(4, 64, symmetric=False, packed=True), (ROWS, COLUMNS),
                 {name.removeprefix("x."): tensor for name, tensor in made.items()})
    weight = read(Scheme(4, 64, symmetric=False, layout=AWQ), awq_layer(layer))
    for end, tensor in own.tensors.items():
        assert torch.equal(weight.tensors[end], tensor), end


@pytest.mark.parametrize("version", [GPTQ, GPTQ_V2])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 128, 256, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_gptq_layer_means_its_floats(version: str, bits: int, group: int | None, symmetric: bool) -> None:
    """Zero points of 0 as well: in the first version they are stored as words that were borrowed from."""
    layer = random_layer(ROWS, COLUMNS, group or COLUMNS, bits, symmetric=symmetric)
    tensors, scheme = gptq_layer(layer, version), Scheme(bits, group, symmetric=symmetric, layout=version)
    assert np.array_equal(floats("x", scheme, (ROWS, COLUMNS), tensors).numpy(), layer.floats())
    if bits == 8 and not symmetric:
        with pytest.raises(ModelError, match=r"x\.qzeros holds zero points, which are supported of 4 bits only"):
            read(scheme, tensors)
        return
    weight = read(scheme, tensors)
    assert (weight.format, "zeros" in weight.tensors) == (f"int{bits}", not symmetric)
    assert np.array_equal(dequantize(weight).numpy(), layer.floats())


def test_columns_out_of_order_are_rounded_again_or_refused() -> None:
    layer = random_layer(ROWS, COLUMNS, 32, 4, moved=True)
    tensors = gptq_layer(layer, GPTQ)
    scheme = Scheme(4, 32, layout=GPTQ, symmetric=False, rounded=True)
    assert np.array_equal(floats("x", scheme, (ROWS, COLUMNS), tensors).numpy(), layer.floats())
    weight = read(scheme, tensors)
    error = np.linalg.norm(dequantize(weight).numpy() - layer.floats()) / np.linalg.norm(layer.floats())
    assert (weight.format, scheme.format) == ("int8", "int8") and error < 0.01
    with pytest.raises(ModelError, match=r"x\.g_idx has columns out of order, .* set desc_act to true"):
        read(Scheme(4, 32, layout=GPTQ, symmetric=False), tensors)


def broken(end: str, change: Any) -> dict[str, torch.Tensor]:
    tensors = gptq_layer(random_layer(ROWS, COLUMNS, 64, 4), GPTQ)
    tensors[end] = change(tensors[end].clone())
    return tensors


def test_broken_numbers_are_named() -> None:
    scheme = Scheme(4, 64, symmetric=False, layout=GPTQ)
    for end, change, message in (
            ("scales", lambda t: t.fill_(float("nan")), r"x\.scales holds a number that is not finite"),
            ("g_idx", lambda t: t.fill_(4), r"x\.g_idx names a group that is not there"),
            ("g_idx", lambda t: t.fill_(-1), r"x\.g_idx names a group that is not there")):
        with pytest.raises(ModelError, match=message):
            read(scheme, broken(end, change))
    with pytest.raises(ModelError, match=r"x\.qzeros holds zero points"):
        read(Scheme(4, 64, layout=GPTQ), gptq_layer(random_layer(ROWS, COLUMNS, 64, 4, symmetric=False), GPTQ))
    tensors = awq_layer(random_layer(ROWS, COLUMNS, 64, 4))
    tensors["scales"][0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"x\.scales holds a number that is not finite"):
        read(Scheme(4, 64, symmetric=False, layout=AWQ), tensors)


@pytest.mark.parametrize("kind", [AWQ, GPTQ])
@pytest.mark.parametrize(("rows", "columns", "group"), [(12, 256, 64), (16, 240, 64), (16, 256, 16)])
def test_shapes_that_cannot_be_cut_are_refused(kind: str, rows: int, columns: int, group: int) -> None:
    with pytest.raises(ModelError, match=rf"x: {rows} x {columns} stored as int4, groups of {group}.* cannot be cut"):
        layout("x", Scheme(4, group, symmetric=False, layout=kind), rows, columns)


def test_what_goes_together_keeps_its_meaning() -> None:
    """int4 with and without zero points, of other groups, and beside int8."""
    random = torch.Generator().manual_seed(0)
    plain = Int4(128).pack(torch.randn(8, 256, generator=random))
    zeros = read(Scheme(4, 64, symmetric=False, layout=AWQ), awq_layer(random_layer(ROWS, COLUMNS, 64, 4)))
    fine = read(Scheme(8, 32, layout=GPTQ), gptq_layer(random_layer(ROWS, COLUMNS, 32, 8, symmetric=True), GPTQ))
    for parts in ([plain, zeros], [zeros, plain], [plain, fine], [fine, zeros], [plain, zeros, fine]):
        whole = join(parts)
        assert whole.format == ("int8" if fine in parts else "int4")
        assert torch.equal(dequantize(whole), torch.cat([dequantize(part) for part in parts]))


def test_the_packer_here_is_the_published_one() -> None:
    """One word by hand: in AWQ rows 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits, in GPTQ columns in order."""
    codes: npt.NDArray[np.int64] = np.arange(8)[:, None].repeat(32, axis=1)
    layer = Layer(codes, np.full((8, 1), 8), np.ones((8, 1), np.float16), np.zeros(32, np.int64), 4)
    assert int(awq_layer(layer)["qweight"][0, 0]) & 0xFFFFFFFF == 0x75316420
    turned = Layer(np.arange(32)[None].repeat(8, axis=0) % 8, *layer[1:])
    assert int(gptq_layer(turned, GPTQ)["qweight"][0, 0]) & 0xFFFFFFFF == 0x76543210
    assert int(gptq_layer(turned, GPTQ)["qzeros"][0, 0]) & 0xFFFFFFFF == 0x77777777
