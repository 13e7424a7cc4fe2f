"""API keys: the file, and whom they let in."""

from pathlib import Path

import pytest

from nearfield.core.errors import ConfigError
from nearfield.server.keys import KeyRing, read_keys


def test_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# team\nalpha\n\n  beta  \n#gamma\n", "utf-8")
    ring = read_keys(file)
    assert ring.tenant(b"Bearer alpha") and ring.tenant(b"Bearer beta")
    assert ring.tenant(b"Bearer #gamma") is None and ring.tenant(b"Bearer ") is None


@pytest.mark.parametrize(("content", "reason"), [(b"", "no API key"), (b"# x\n\n", "no API key"), (b"\xff", "UTF-8"),
                                                   (b"alpha # mine\n", "a space in it")])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        read_keys(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(tmp_path / "absent")


def test_a_tenant_is_one_key_and_does_not_show_it() -> None:
    ring = KeyRing(["alpha", "beta"])
    first, second = ring.tenant(b"Bearer alpha"), ring.tenant(b"Bearer beta")
    assert first and second and first != second and "alpha" not in first
    assert ring.tenant(b"bearer alpha") == first
    assert "alpha" not in repr(vars(ring))


def test_without_keys_everyone_is_one_tenant() -> None:
    assert not KeyRing() and KeyRing().tenant(None) == KeyRing().tenant(b"Bearer x") == ""
