"""The three forms of an envelope: published vectors, and another library at the other end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from coincurve import PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nearfield.node.envelope import (
    Cipher,
    ecdsa_cipher,
    ed25519_cipher,
    hchacha20,
    hkdf,
    secretbox,
    secretbox_open,
)
from tests.node.e2ee_client import Client, OldClient, derive, ecdsa_client, ed25519_client

NODE = SigningKey(bytes([7]) * 32)
WALLET = PrivateKey(bytes([7]) * 32)

# libsodium, test/default/xchacha20.c: key, input, output.
HCHACHA20 = [
    ("24f11cce8a1b3d61e441561a696c1c1b7e173d084fd4812425435a8896a013dc", "d9660c5900ae19ddad28d6e06e45fe5e",
     "5966b3eec3bff1189f831f06afe4d4e3be97fa9235ec8c20d08acfbbb4e851e3"),
    ("80a5f6272031e18bb9bcd84f3385da65e7731b7039f13f5e3d475364cd4d42f7", "c0eccc384b44c88e92c57eb2d5ca4dfa",
     "6ed11741f724009a640a44fce7320954c46e18e0d7ae063bdbc8d7cf372709df"),
    ("cb1fc686c0eec11a89438b6f4013bf110e7171dace3297f3a657a309b3199629", "fcd49b93e5f8f299227e64d40dc864a3",
     "84b7e96937a1a0a406bb7162eeaad34308d49de60fd2f7ec9dc6a79cbab2ca34"),
]
# The same file, tv_secretbox_xchacha20poly1305: key, nonce, text, box.
SECRETBOX = [
    ("065ff46a9dddb1ab047ee5914d6d575a828b8cc1f454b24e8cd0f57efdc49a34",
     "f83262646ce01293b9923a65a073df78c54b2e799cd6c4e5", "", "4c72340416339dcdea01b760db5adaf7"),
    ("d3c71d54e6b13506e07aa2e7b412a17a7a1f34df3d3148cd3f45b91ccaa5f4d9",
     "943b454a853aa514c63cf99b1e197bbb99da24b2e2d93e47",
     "76bd706e07741e713d90efdb34ad202067263f984942aae8bda159f30dfccc72200f8093520b85c5ad124ff7c8b2d920946e5cfff4b819ab"
     "f84c7b35a6205ca72c9f8747c3044dd73fb4bebda1b476",
     "0384276f1cfa5c82c3e58f0f2acc1f821c6f526d2c19557cf8bd270fcde43fba1d88890663f7b2f5c6b1d7deccf5c91b4df5865dc55cc7e0"
     "4d6793fc2db8f9e3b418f95cb796d67a7f3f7e097150cb607c435dacf82eac3d669866e5092ace"),
]


def v1(client: bytes) -> Cipher:
    return ed25519_cipher(NODE, client, 1)


def v2(client: bytes) -> Cipher:
    return ed25519_cipher(NODE, client, 2)


def ecdsa(client: bytes) -> Cipher:
    return ecdsa_cipher(WALLET, client)


# The node's own cipher, for a client that has the node's own keys.
MIRRORS = [v1(bytes(NODE.verify_key)), v2(bytes(NODE.verify_key)),
           ecdsa(WALLET.public_key.format(compressed=False)[1:])]


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa"])
def test_vectors_of_near_ais_sdk(near_data: Path, algorithm: str) -> None:
    content = json.loads((near_data / "inference-sdk" / "e2ee-python.json").read_bytes())
    case = next(case for case in content["cases"] if case["algorithm"] == algorithm)
    seed, public = bytes.fromhex(case["private_seed"]), bytes.fromhex(case["public_key"])
    cipher = ed25519_cipher(SigningKey(seed), public, 2) if algorithm == "ed25519" \
        else ecdsa_cipher(PrivateKey(seed), public)
    assert cipher.open(bytes.fromhex(case["ciphertext"])).decode() == case["plaintext"]


@pytest.mark.parametrize(("key", "nonce", "out"), HCHACHA20)
def test_hchacha20(key: str, nonce: str, out: str) -> None:
    assert hchacha20(bytes.fromhex(key), bytes.fromhex(nonce)).hex() == out


@pytest.mark.parametrize(("key", "nonce", "text", "box"), SECRETBOX)
def test_secretbox(key: str, nonce: str, text: str, box: str) -> None:
    assert secretbox(bytes.fromhex(key), bytes.fromhex(nonce), bytes.fromhex(text)).hex() == box
    assert secretbox_open(bytes.fromhex(key), bytes.fromhex(nonce), bytes.fromhex(box)).hex() == text


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=64), st.binary(max_size=32))
def test_hkdf(shared: bytes, info: bytes) -> None:
    assert hkdf(shared, info) == derive(shared, info)


@pytest.mark.parametrize("make", [
    lambda: (ed25519_client(bytes(NODE.verify_key)), v2),
    lambda: (ecdsa_client(WALLET.public_key.format(compressed=False)[1:]), ecdsa)])
@pytest.mark.parametrize("text", ["x", "Hello 🌍", "é" * 10_000])
def test_with_another_library(make: Callable[[], tuple[Client, Callable[[bytes], Cipher]]], text: str) -> None:
    client, cipher_for = make()
    cipher = cipher_for(bytes.fromhex(client.headers["x-client-pub-key"]))
    assert cipher.open(bytes.fromhex(client.encrypt(text))).decode() == text
    assert client.decrypt(cipher.seal(text.encode()).hex()) == text


def test_an_old_clients_box_is_opened() -> None:
    client = OldClient(bytes(NODE.verify_key), SigningKey.generate())
    assert v1(bytes(client.key.verify_key)).open(bytes.fromhex(client.encrypt("salsa"))) == b"salsa"


@pytest.mark.parametrize("cipher", MIRRORS)
@settings(deadline=None)
@given(text=st.binary(max_size=100), data=st.data())
def test_any_change_is_noticed(cipher: Cipher, text: bytes, data: st.DataObject) -> None:
    envelope = cipher.seal(text)
    assert cipher.open(envelope) == text
    bit = data.draw(st.integers(0, 8 * len(envelope) - 1))
    changed = bytearray(envelope)
    changed[bit // 8] ^= 1 << bit % 8
    # X25519 has no use for the last bit of a key; it is authenticated by none of the forms.
    if len(envelope) - len(text) == 72 and bit == 255:
        return
    with pytest.raises(ValueError):
        cipher.open(bytes(changed))
    with pytest.raises(ValueError):
        cipher.open(envelope[:data.draw(st.integers(0, len(envelope) - 1))])


@pytest.mark.parametrize("cipher", MIRRORS)
@settings(deadline=None)
@given(envelope=st.binary(max_size=200))
@example(envelope=bytes(100))  # a point of low order
@example(envelope=b"\4" + bytes(100))
@example(envelope=b"\6" + WALLET.public_key.format(compressed=False)[1:] + bytes(40))
def test_anything_else_is_refused(cipher: Cipher, envelope: bytes) -> None:
    with pytest.raises(ValueError):
        cipher.open(envelope)


@pytest.mark.parametrize("cipher", MIRRORS)
def test_two_envelopes_of_a_text_differ(cipher: Cipher) -> None:
    one, other = cipher.seal(b"text"), cipher.seal(b"text")
    assert len(one) == len(other) and one[:32] != other[:32] and one[-20:] != other[-20:]


@pytest.mark.parametrize("client", [bytes(32), b"\1" + bytes(31), b"\xff" * 32, b"\2" + bytes(31)])
def test_keys_that_are_no_points(client: bytes) -> None:
    for cipher_for, key in ((v1, client), (v2, client), (ecdsa, client * 2)):
        with pytest.raises(ValueError):
            cipher_for(key)
