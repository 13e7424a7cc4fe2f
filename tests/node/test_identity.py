"""Keys: NEAR's text of them, and the files that keep them."""

import itertools
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_account import Account
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nearfield.node.errors import IdentityError
from nearfield.node.identity import FILES, Identity, create, default_home, import_credentials, load
from nearfield.node.keys import check_account, decode_key, ed25519_secret, secp256k1_secret, unhex

SEED = bytes(range(32))


def public_of(seed: bytes) -> bytes:
    """The ed25519 public key of a seed, by another library."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def near(curve: str, data: bytes) -> str:
    return f"{curve}:{base58.b58encode(data).decode()}"


def credentials(folder: Path, **changes: object) -> Path:
    """A credentials file as near-cli writes it, with some fields changed."""
    content = {"account_id": "alice.near", "public_key": near("ed25519", public_of(SEED)),
               "private_key": near("ed25519", SEED + public_of(SEED))} | changes
    file = folder / "alice.near.json"
    file.touch(0o600)
    file.write_text(json.dumps(content), "utf-8")
    return file


def test_created_keys_are_those_that_are_loaded(tmp_path: Path) -> None:
    made, home = create(tmp_path / "node"), tmp_path / "node"
    read = load(home)
    assert read.account_id == made.account_id == bytes(made.ed25519.verify_key).hex()
    assert bytes(read.ed25519) == bytes(made.ed25519) and read.secp256k1.secret == made.secp256k1.secret
    assert create(tmp_path / "named", "bob.near").account_id == "bob.near"


def test_files_are_near_cli_credentials(tmp_path: Path) -> None:
    made = create(tmp_path, "bob.near")
    ed25519, secp256k1 = (json.loads((tmp_path / name).read_bytes()) for name in FILES)
    secret = base58.b58decode(ed25519["private_key"].removeprefix("ed25519:"))
    assert ed25519["public_key"] == near("ed25519", public_of(secret[:32])) == made.public_key
    assert secret[32:] == public_of(secret[:32]) and ed25519["account_id"] == secp256k1["account_id"] == "bob.near"
    wallet = Account.from_key(base58.b58decode(secp256k1["private_key"].removeprefix("secp256k1:")))
    assert wallet.address.lower() == made.signing_address("ecdsa")
    assert base58.b58decode(secp256k1["public_key"].removeprefix("secp256k1:")) == made.signing_public_key("ecdsa")


def test_keys_are_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    link = os.link

    def linked(source: Path, target: Path) -> None:
        seen.append(stat.S_IMODE(source.stat().st_mode))
        link(source, target)

    monkeypatch.setattr(os, "link", linked)
    before = os.umask(0)
    try:
        create(tmp_path / "home")
    finally:
        os.umask(before)
    assert seen == [0o600, 0o600]
    assert [stat.S_IMODE((tmp_path / "home" / name).stat().st_mode) for name in FILES] == [0o600, 0o600]
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


@pytest.mark.parametrize(("call", "number"), [("fsync", 1), ("link", 1), ("fsync", 2), ("link", 2), ("fsync", 3)])
def test_a_disk_that_fails_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str,
                                              number: int) -> None:
    calls, works = itertools.count(1), getattr(os, call)

    def fails(*arguments: object) -> None:
        if next(calls) == number:
            raise OSError(28, "No space left on device")
        works(*arguments)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(IdentityError, match="No space left"):
        create(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_keys_are_never_overwritten(tmp_path: Path, name: str) -> None:
    home, source = tmp_path / "home", credentials(tmp_path)
    home.mkdir()
    (home / name).write_text("precious", "utf-8")
    with pytest.raises(IdentityError, match="never overwritten"):
        create(home)
    with pytest.raises(IdentityError, match="never overwritten"):
        import_credentials(home, source)
    assert [file.name for file in home.iterdir()] == [name] and (home / name).read_text("utf-8") == "precious"


def test_a_key_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILES[0]).write_text("precious", "utf-8")
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(IdentityError, match="File exists"):
        create(tmp_path)
    assert (tmp_path / FILES[0]).read_text("utf-8") == "precious"


@pytest.mark.parametrize("private", [SEED + public_of(SEED), SEED])
def test_import_of_near_cli(tmp_path: Path, private: bytes) -> None:
    made = import_credentials(tmp_path / "home", credentials(tmp_path, private_key=near("ed25519", private)))
    assert made.account_id == "alice.near" and bytes(made.ed25519) == SEED
    assert bytes(load(tmp_path / "home").ed25519) == SEED


@pytest.mark.parametrize(("changes", "reason"), [
    ({"public_key": near("ed25519", public_of(bytes(32)))}, "public_key is not"),
    ({"public_key": None}, "public_key is not"),
    ({"private_key": near("ed25519", SEED + bytes(32))}, "last 32 bytes"),
    ({"private_key": near("ed25519", SEED[:31])}, "this one has 31"),
    ({"private_key": near("secp256k1", SEED)}, "ed25519:<base58>"),
    ({"private_key": "ed25519:0OIl"}, "ed25519:<base58>"),
    ({"private_key": "ed25519:" + "1" * 10**4}, "ed25519:<base58>"),
    ({"private_key": ["x"]}, "ed25519:<base58>"),
    ({"account_id": "Alice"}, "not a NEAR account id"),
    ({"account_id": 7}, "not a NEAR account id"),
])
def test_import_refuses(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(IdentityError, match=reason) as caught:
        import_credentials(tmp_path / "home", credentials(tmp_path, **changes))
    assert not (tmp_path / "home").exists() and "alice.near.json" in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    source = credentials(tmp_path)
    source.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {source}"):
        import_credentials(tmp_path / "home", source)
    create(tmp_path / "node")
    (tmp_path / "node" / FILES[1]).chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        load(tmp_path / "node")


def test_without_keys_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="nearfield node init"):
        load(tmp_path)
    with pytest.raises(IdentityError, match="can not be read"):
        import_credentials(tmp_path / "home", tmp_path)


def test_files_of_two_nodes_do_not_mix(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create(tmp_path / name, f"{name}.near")
    (tmp_path / "a" / FILES[1]).write_bytes((tmp_path / "b" / FILES[1]).read_bytes())
    with pytest.raises(IdentityError, match="belongs to another"):
        load(tmp_path / "a")


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"account_id": "alice.near", "private_key": {}}')
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    home = tmp_path_factory.mktemp("home")
    for name in FILES:
        (home / name).touch(0o600)
        (home / name).write_bytes(data)
    with pytest.raises(IdentityError):
        load(home)


@pytest.mark.parametrize("name", ["ab", "alice.near", "a-b_c.d0.near", "0x" + "ab" * 20, "f" * 64, "100", "a.b.c"])
def test_account_ids(name: str) -> None:
    assert check_account(name) == name


@pytest.mark.parametrize("name", ["a", "", "Alice.near", "-a.near", "a-.near", "a..near", ".near", "near.", "a--b",
                                  "a_-b", "a b", "é.near", "٣٣", "f" * 65, "a/b", "alice.near\n", None, 3, b"ab"])
def test_no_account_ids(name: object) -> None:
    with pytest.raises(IdentityError):
        check_account(name)


@settings(deadline=None)
@given(st.text(max_size=150) | st.none() | st.integers() | st.from_regex(r"(ed25519|secp256k1):[1-9A-HJ-Za-z]{1,100}"))
@example("secp256k1:" + "1" * 32)
@example("secp256k1:" + base58.b58encode(b"\xff" * 32).decode())
def test_any_text_is_a_key_or_refused(text: object) -> None:
    readers: list[Callable[[object], object]] = [
        ed25519_secret, secp256k1_secret, lambda text: decode_key("ed25519", text)]
    for read in readers:
        try:
            read(text)
        except IdentityError as error:
            assert not isinstance(text, str) or len(text) < 24 or text not in str(error)


@settings(deadline=None)
@given(st.text(max_size=20))
@example("0a 0b")
@example("0x0a")
@example("é0")
def test_hex_is_strict(text: str) -> None:
    if unhex(text) is not None:
        assert set(text) <= set("0123456789abcdefABCDEF") and bytes.fromhex(text) == unhex(text)


def test_secrets_do_not_show(identity: Identity) -> None:
    shown = repr(identity) + str(identity)
    assert shown.count("alice.near") == 2
    for secret in (bytes(identity.ed25519), identity.secp256k1.secret):
        for form in (secret.hex(), repr(secret), base58.b58encode(secret).decode()):
            assert form not in shown


def test_addresses(identity: Identity) -> None:
    assert identity.signing_address("ed25519") == public_of(bytes([7]) * 32).hex()
    assert identity.signing_address("ecdsa") == Account.from_key(bytes([7]) * 32).address.lower()
    assert identity.signing_public_key("ecdsa").hex().startswith("989c0b76cb563971")  # as the SDK's vectors have it


def test_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEARFIELD_NODE_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("NEARFIELD_NODE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_home() == tmp_path / ".nearfield" / "node"
