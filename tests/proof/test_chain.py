"""The chain on the disk: it outlives the process, is one process's, and no crash leaves two receipts of one number."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nearfield.core.errors import ConfigError
from nearfield.proof.chain import ReceiptChain

ZEROS = bytes(32)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "home" / "receipts.chain"
    for number in range(3):
        chain = ReceiptChain(file)
        assert (chain.number, chain.last) == (number, bytes([number]) * 32)
        chain.advance(bytes([number + 1]) * 32)
        chain.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_one_process_holds_it(tmp_path: Path) -> None:
    chain = ReceiptChain(tmp_path / "receipts.chain")
    with pytest.raises(ConfigError, match="another process"):
        ReceiptChain(tmp_path / "receipts.chain")
    chain.close()
    ReceiptChain(tmp_path / "receipts.chain").close()


@pytest.mark.parametrize("text", ["", "nearfield receipts 1 5\n", "nearfield receipts 2 5 " + "0" * 64 + "\n",
                                  "nearfield receipts 1 5 " + "0" * 63 + "\n", "\0" * 97])
def test_a_damaged_file_is_no_new_beginning(tmp_path: Path, text: str) -> None:
    file = tmp_path / "receipts.chain"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"receipts\.chain: is not the end"):
        ReceiptChain(file)
    file.unlink()
    ReceiptChain(file).close()   # the lock was let go


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_changes_nothing(tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = ReceiptChain(tmp_path / "receipts.chain")
    chain.advance(b"a" * 32)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="no space"):
            chain.advance(b"b" * 32)
    assert (chain.number, chain.last) == (1, b"a" * 32)
    chain.close()
    again = ReceiptChain(tmp_path / "receipts.chain")
    assert (again.number, again.last) == (1, b"a" * 32)
    again.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["receipts.chain", "receipts.lock"]


WRITER = """
import sys
from pathlib import Path
from nearfield.proof.chain import ReceiptChain
chain = ReceiptChain(Path(sys.argv[1]))
while True:
    number = chain.number + 1
    chain.advance(number.to_bytes(32, "big"))
    print(number, flush=True)   # told only after it is on the disk
"""


def test_what_was_told_is_on_the_disk_after_a_kill(tmp_path: Path) -> None:
    file, told = tmp_path / "receipts.chain", 0
    for lines in (1, 7, 30):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                told = int(writer.stdout.readline())
            writer.kill()
            rest = [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            told = max([told, *rest])
        chain = ReceiptChain(file)
        assert told <= chain.number <= told + 1
        assert chain.last == chain.number.to_bytes(32, "big")
        chain.close()
