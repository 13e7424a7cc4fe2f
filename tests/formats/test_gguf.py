"""GGUF: what the bytes mean, against the `gguf` library, and files that are cut, damaged or hostile."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfield.core.errors import ModelError
from nearfield.formats.codecs import decode, layout
from nearfield.formats.gguf import GgufFile
from nearfield.formats.gguf_blocks import BLOCKS, unpack
from nearfield.formats.manifest import EXACT_GGUF, Scheme
from nearfield.kernels.reference.quantized import dequantize
from tests.gguf_files import blocks

CODED = [(number, block) for number, block in BLOCKS.items() if block.dtype is None]


@pytest.mark.parametrize(("number", "block"), CODED, ids=lambda value: getattr(value, "name", ""))
def test_any_bytes_mean_the_floats_of_the_library(number: int, block: Any) -> None:
    """Bit for bit, whatever the codes; the scales are numbers."""
    kind = Type(number)
    assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (block.name, (block.weights, block.nbytes))
    raw = np.random.default_rng(number).integers(0, 256, (24, 3 * block.nbytes), dtype=np.uint8)
    view = raw.reshape(-1, block.nbytes)
    for at in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2)}.get(block.name, (0,)):
        view[:, at:at + 2] = np.random.default_rng(at).normal(size=(len(view), 1)).astype(np.float16).view(np.uint8)
    want = torch.from_numpy(quants.dequantize(raw, kind))
    assert torch.equal(unpack(block, torch.from_numpy(raw)), want)
    if block.name in EXACT_GGUF:
        scheme, shape = Scheme(EXACT_GGUF[block.name], 32, layout=block.name), (24, 3 * block.weights)
        assert layout("x", scheme, *shape)["weight"].shape == raw.shape
        weight = decode("x", scheme, shape, {"weight": torch.from_numpy(raw)})
        assert weight.format == f"int{scheme.bits}" and torch.equal(dequantize(weight), want)


@pytest.mark.parametrize("number", [0, 1, 30])
def test_floats_are_as_they_are(number: int) -> None:
    values = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    data = quants.quantize(values, Type(number))
    raw = torch.from_numpy(data.view(np.uint8).reshape(4, -1).copy())
    assert torch.equal(unpack(BLOCKS[number], raw), torch.from_numpy(quants.dequantize(data, Type(number))))


def test_a_scale_that_is_no_number_is_refused() -> None:
    raw = torch.zeros(2, 18, dtype=torch.uint8)
    raw[1, 1] = 0x7C
    with pytest.raises(ModelError, match=r"x\.weight has a scale that is not finite; copy the file again"):
        decode("x", Scheme(4, 32, layout="Q4_0"), (2, 32), {"weight": raw})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with keys of every kind and a few tensors."""
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    adders: dict[str, tuple[Callable[[str, Any], None], Any]] = {
        "a": (writer.add_uint8, 3), "b": (writer.add_int16, -3), "c": (writer.add_uint64, 1 << 40),
        "d": (writer.add_float32, 1e-6), "e": (writer.add_float64, 0.1), "f": (writer.add_bool, True),
        "g": (writer.add_string, "Grüße"), "h": (writer.add_array, ["x", "", "yz"]),
        "i": (writer.add_array, [1, -2]), "j": (writer.add_array, [0.5, 1.5]), "k": (writer.add_array, [True, False])}
    for key, (add, value) in adders.items():
        add(key, value)
    weight = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    for name, kind in (("q", Type.Q4_0), ("k", Type.Q8_0), ("f", Type.F32)):
        writer.add_tensor(name, blocks(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_keys_and_tensors_are_read(whole: Path) -> None:
    file = GgufFile.read(whole)
    assert {key: file.metadata[key] for key in "abcdefghijk"} == {
        "a": 3, "b": -3, "c": 1 << 40, "d": 1e-6, "e": 0.1, "f": True, "g": "Grüße", "h": ["x", "", "yz"],
        "i": [1, -2], "j": [0.5, 1.5], "k": [True, False]}
    assert {name: (found.shape, found.block.name) for name, found in file.tensors.items()} == {
        "q": ((6, 64), "Q4_0"), "k": ((6, 64), "Q8_0"), "f": ((6, 64), "F32")}
    weight = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    assert torch.equal(file.raw("f").view(torch.float32), torch.from_numpy(weight))
    assert torch.equal(file.raw("k"), torch.from_numpy(quants.quantize(weight, Type.Q8_0)))


def test_every_cut_is_an_error_that_names_the_file(whole: Path, tmp_path: Path) -> None:
    data, path = whole.read_bytes(), tmp_path / "cut.gguf"
    for size in (*range(0, len(data), 7), len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"cut\.gguf: .*(copy|give a \.gguf)"):
            GgufFile.read(path)


def test_a_file_that_shrinks_after_it_was_opened(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole.read_bytes())
    file = GgufFile.read(path)
    path.write_bytes(whole.read_bytes()[:file.tensors["f"].offset + 5])
    with pytest.raises(ModelError, match=r"cut\.gguf: tensor f is cut short"):
        file.raw("f")
    path.unlink()
    with pytest.raises(ModelError, match=r"cut\.gguf: tensor f cannot be read"):
        file.raw("f")


def header(*parts: bytes, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts) + bytes(64)


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


HOSTILE = [
    (header(keys=1 << 60), "states 1152921504606846976 items"),
    (header(tensors=1 << 40), "items at byte 8"),
    (header(struct.pack("<Q", 1 << 50), keys=1), "ends in its header"),
    (header(string(b"a"), struct.pack("<IIQ", 9, 0, 1 << 60), keys=1), "more than the file can hold"),
    (header(string(b"a"), struct.pack("<IIQ", 9, 8, 1 << 30), keys=1), "more than the file can hold"),
    (header(string(b"a"), struct.pack("<IIQ", 9, 9, 1), keys=1), "array of type 9"),
    (header(string(b"a"), struct.pack("<I", 77), keys=1), "unknown type 77"),
    (header(string(b"\xff\xfe"), struct.pack("<IB", 0, 1), keys=1), "not UTF-8"),
    (header(*[string(b"a") + struct.pack("<IB", 0, 1)] * 2, keys=2), "key a twice"),
    (header(string(b"t"), struct.pack("<I", 5), tensors=1), "has 5 dimensions"),
    (header(string(b"t"), struct.pack("<IQQIQ", 2, 32, 1 << 62, 0, 0), tensors=1), "cut short"),
    (header(string(b"t"), struct.pack("<IQQIQ", 2, 32, 0, 0, 0), tensors=1), "which is nothing"),
    (header(string(b"t"), struct.pack("<IQIQ", 1, 33, 2, 0), tensors=1), "no whole number of Q4_0 blocks"),
    (header(string(b"t"), struct.pack("<IQIQ", 1, 4, 0, 1 << 63), tensors=1), "cut short"),
    (header(string(b"general.alignment"), struct.pack("<II", 4, 3), keys=1), "must be a power of two"),
    (header(version=1), "version 1; versions 2 and 3"),
    (header(version=3 << 24), "is a big-endian GGUF file; little-endian"),
    (header(string(b"t"), struct.pack("<IQIQ", 1, 4, 0, 8), tensors=1), "tensor t begins at byte 8 .* alignment, 32"),
    (header(*[string(name) + struct.pack("<IQIQ", 1, 9, 0, offset) for name, offset in ((b"t", 32), (b"u", 0))],
            bytes(64), tensors=2), "tensors u and t lie over each other"),
    (b"PK\x03\x04" + bytes(100), "is not a GGUF file"), (b"", "cannot be read"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_what_a_file_states_is_not_believed(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message) as caught:
        GgufFile.read(path)
    assert str(caught.value).startswith(str(path))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_found_or_harmless(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    """A few bytes of the header are others: a ModelError, or a file whose tensors can all be read."""
    made = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(made)
    try:
        file = GgufFile.read(path)
        for name, found in file.tensors.items():
            assert file.raw(name).numel() == found.nbytes
    except ModelError as error:
        assert str(path) in str(error)
