"""A node's keys on disk, and what they refuse."""

import json
import stat
from pathlib import Path

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nearfield.node.errors import IdentityError
from nearfield.node.identity import FILES, create, import_credentials, load
from nearfield.node.keys import check_account, decode_key


def credentials(folder: Path, key: SigningKey, account: str = "alice.near", seed: bool = False) -> Path:
    public = bytes(key.verify_key)
    secret = bytes(key) if seed else bytes(key) + public
    file = folder / "alice.json"
    file.write_text(json.dumps({"account_id": account, "public_key": "ed25519:" + base58.b58encode(public).decode(),
                                "private_key": "ed25519:" + base58.b58encode(secret).decode()}))
    file.chmod(0o600)
    return file


def test_what_is_made_is_read_again(tmp_path: Path) -> None:
    made = create(tmp_path / "node", "alice.near")
    again = load(tmp_path / "node")
    assert again == made and again.public_key == made.public_key
    assert again.signing_address("ecdsa") == made.signing_address("ecdsa")
    for name in FILES:
        assert stat.S_IMODE((tmp_path / "node" / name).stat().st_mode) == 0o600
    assert sorted(file.name for file in (tmp_path / "node").iterdir()) == sorted(FILES)


def test_an_implicit_account_is_its_key(tmp_path: Path) -> None:
    made = create(tmp_path)
    assert made.account_id == bytes(made.ed25519.verify_key).hex()


@pytest.mark.parametrize("seed", [False, True])
def test_credentials_of_near_cli(tmp_path: Path, seed: bool) -> None:
    key = SigningKey.generate()
    taken = import_credentials(tmp_path / "node", credentials(tmp_path, key, seed=seed))
    assert taken.account_id == "alice.near" and bytes(taken.ed25519) == bytes(key)
    kept = json.loads((tmp_path / "node" / FILES[0]).read_text())
    assert set(kept) == {"account_id", "public_key", "private_key"}
    assert len(base58.b58decode(kept["private_key"].removeprefix("ed25519:"))) == 64


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    made = create(tmp_path)
    with pytest.raises(IdentityError, match="never overwritten"):
        create(tmp_path)
    with pytest.raises(IdentityError, match="never overwritten"):
        import_credentials(tmp_path, credentials(tmp_path, made.ed25519))
    assert load(tmp_path) == made


@pytest.mark.parametrize("name", FILES)
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    create(tmp_path)
    (tmp_path / name).chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        load(tmp_path)


def test_a_public_key_of_another(tmp_path: Path) -> None:
    file = credentials(tmp_path, SigningKey.generate())
    content = json.loads(file.read_text())
    content["public_key"] = "ed25519:" + base58.b58encode(bytes(SigningKey.generate().verify_key)).decode()
    file.write_text(json.dumps(content))
    with pytest.raises(IdentityError, match="public_key"):
        import_credentials(tmp_path / "node", file)
    assert not (tmp_path / "node").exists()


@given(data=st.binary(max_size=300))
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("damaged") / FILES[0]
    file.write_bytes(data)
    file.chmod(0o600)
    with pytest.raises(IdentityError, match=FILES[0]):
        load(file.parent)


def test_no_secret_in_any_message(tmp_path: Path) -> None:
    made = create(tmp_path)
    secrets = [json.loads((tmp_path / name).read_text())["private_key"] for name in FILES]
    shown = [repr(made), str(made)]
    for name, secret in zip(FILES, secrets, strict=True):
        (tmp_path / name).write_text(json.dumps({"account_id": made.account_id, "public_key": "x",
                                                 "private_key": secret}))
        with pytest.raises(IdentityError) as caught:
            load(tmp_path)
        shown.append(str(caught.value))
    for secret in secrets:
        assert not any(secret.partition(":")[2][:12] in text for text in shown)


@pytest.mark.parametrize("name", ["a", "A.near", "alice..near", "-a", "a_", "a" * 65, "ålice", "alice near", None, 3])
def test_names_that_are_no_accounts(name: object) -> None:
    with pytest.raises(IdentityError):
        check_account(name)


@given(text=st.text(max_size=140))
def test_texts_that_are_no_keys(text: str) -> None:
    try:
        decode_key("ed25519", "ed25519:" + text)
    except IdentityError as error:
        assert text == "" or len(text) < 6 or text not in str(error)
