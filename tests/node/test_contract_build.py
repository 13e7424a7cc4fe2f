"""The compiled contracts: what they may call, that NEAR's runtime can take them, and that the source gives them."""

import shutil
import subprocess
from pathlib import Path

import pytest
import wasmtime

from tests.node.contracts import FOLDER, wasm
from tests.node.near_vm import SIGNATURES, compiled

NAMES = ("registry", "channel")
METHODS = {
    "registry": {"register", "update", "remove", "get_agent", "get_agents"},
    "channel": {"open_channel", "topup", "withdraw", "close", "withdraw_and_close", "force_close_start",
                "force_close_finish", "channel"},
}


@pytest.mark.parametrize("name", NAMES)
def test_it_calls_host_functions_only_and_exports_its_methods_only(name: str) -> None:
    module = compiled(wasm(name))
    for item in module.imports:
        assert item.module == "env" and item.name in SIGNATURES
        assert isinstance(item.type, wasmtime.FuncType)
    assert {item.name for item in module.exports} == METHODS[name] | {"memory"}


@pytest.mark.parametrize("name", NAMES)
def test_it_has_no_start_function(name: str) -> None:
    assert 8 not in _sections(wasm(name)), "section 8 is the start function"


@pytest.mark.slow
def test_what_is_committed_is_what_the_source_gives(tmp_path: Path) -> None:
    if not (FOLDER / "node_modules" / ".bin" / "asc").is_file():
        pytest.skip("the AssemblyScript compiler is not installed: contracts/build installs it with npm")
    if shutil.which("node") is None:
        pytest.skip("the AssemblyScript compiler needs node, which is not here")
    subprocess.run([FOLDER / "build", tmp_path], check=True, capture_output=True, timeout=300)
    for name in NAMES:
        assert (tmp_path / f"{name}.wasm").read_bytes() == wasm(name), f"{name}.wasm is old: run contracts/build"


def test_the_lock_file_names_no_host() -> None:
    assert '"resolved"' not in (FOLDER / "package-lock.json").read_text("utf-8")


def _sections(code: bytes) -> list[int]:
    """The ids of a module's sections, in order: id, length in LEB128, content."""
    found, place = [], 8
    while place < len(code):
        found.append(code[place])
        length = shift = 0
        while True:
            place += 1
            length |= (code[place] & 0x7F) << shift
            shift += 7
            if code[place] < 0x80:
                break
        place += 1 + length
    assert place == len(code)
    return found
