"""End-to-end encryption: recorded vectors, an independent client, and what is malformed."""

import json
import secrets
from pathlib import Path
from typing import Any

import nacl.bindings as sodium
import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import Box
from nacl.signing import SigningKey

from nearfield.node.encryption import Encryption, Session
from nearfield.node.errors import NodeError
from nearfield.node.identity import Identity

NODE = Identity("node.near", SigningKey(b"\x07" * 32), PrivateKey(b"\x07" * 32))
WAYS = [("ed25519", "1"), ("ed25519", "2"), ("ecdsa", "1")]
TEXT = "Grüße, 世界 🌍"


def hkdf(shared: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, None, info).derive(shared)


class Client:
    """The other side, written with other libraries."""

    def __init__(self, algo: str, version: str = "2") -> None:
        self.algo, self.version = algo, version
        self.ed = SigningKey.generate()
        self.ec = ec.generate_private_key(ec.SECP256K1())

    @property
    def headers(self) -> dict[str, str]:
        key = bytes(self.ed.verify_key) if self.algo == "ed25519" else self.ec.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint)
        return {"x-signing-algo": self.algo, "x-client-pub-key": key.hex(), "x-encryption-version": self.version}

    def seal(self, text: str, node: Identity = NODE) -> str:
        data = text.encode()
        if self.algo == "ecdsa":
            ephemeral, nonce = ec.generate_private_key(ec.SECP256K1()), secrets.token_bytes(12)
            public = ec.EllipticCurvePublicKey.from_encoded_point(
                ec.SECP256K1(), b"\x04" + node.signing_public_key("ecdsa"))
            key = hkdf(ephemeral.exchange(ec.ECDH(), public), b"ecdsa_encryption")
            point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            return (point + nonce + AESGCM(key).encrypt(nonce, data, None)).hex()
        secret = X25519PrivateKey.generate()
        public25519 = bytes(node.ed25519.verify_key.to_curve25519_public_key())
        mine = secret.public_key().public_bytes_raw()
        nonce = secrets.token_bytes(24)
        if self.version == "1":   # the older clients' box, of XSalsa20
            return (mine + nonce + sodium.crypto_box(data, nonce, public25519, secret.private_bytes_raw())).hex()
        key = hkdf(secret.exchange(X25519PublicKey.from_public_bytes(public25519)), b"ed25519_encryption")
        return (mine + nonce + sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(data, None, nonce, key)).hex()

    def open(self, text: str) -> str:
        data = bytes.fromhex(text)
        if self.algo == "ecdsa":
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data[:65])
            key = hkdf(self.ec.exchange(ec.ECDH(), public), b"ecdsa_encryption")
            return AESGCM(key).decrypt(data[65:77], data[77:], None).decode()
        secret = X25519PrivateKey.from_private_bytes(bytes(self.ed.to_curve25519_private_key()))
        shared = secret.exchange(X25519PublicKey.from_public_bytes(data[:32]))
        key = hkdf(shared, b"ed25519_encryption") if self.version == "2" else hchacha20(shared)
        return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(data[56:], None, data[32:56], key).decode()


def hchacha20(key: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha, 2.2, step by step, of sixteen zeros."""
    words = [int.from_bytes((b"expand 32-byte k" + key + bytes(16))[i:i + 4], "little") for i in range(0, 64, 4)]

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for first, second, third, shift in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            words[first] = (words[first] + words[second]) % 2**32
            turned = words[third] ^ words[first]
            words[third] = (turned << shift | turned >> (32 - shift)) % 2**32

    for _ in range(10):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for row in range(4):
            quarter(row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4)
    return b"".join(word.to_bytes(4, "little") for word in words[:4] + words[12:])


def session(client: Client, **more: str) -> Session:
    found = Encryption(NODE).session({**client.headers, **more})
    assert found is not None
    return found


def test_the_recorded_ciphertexts_of_the_sdk_open(shared_data: Path) -> None:
    cases = json.loads((shared_data / "near" / "inference-sdk" / "e2ee-python.json").read_text())["cases"]
    assert {case["algorithm"] for case in cases} == {"ed25519", "ecdsa"}
    for case in cases:
        seed = bytes.fromhex(case["private_seed"])
        node = Identity("n.near", SigningKey(seed), PrivateKey(seed))
        assert node.signing_public_key(case["algorithm"]).hex() == case["public_key"]
        opened = Encryption(node).session(Client(case["algorithm"]).headers)
        assert opened is not None
        assert opened.open_request({"prompt": case["ciphertext"]}) == {"prompt": case["plaintext"]}


@pytest.mark.parametrize(("algo", "version"), WAYS)
def test_a_request_opens_and_its_answer_opens_at_the_client(algo: str, version: str) -> None:
    client = Client(algo, version)
    talk = session(client)
    parts = [{"type": "text", "text": TEXT}]
    sent = {"model": "m", "messages": [{"role": "user", "content": client.seal(TEXT)}, {"role": "user", "content": ""},
                                       {"role": "user", "content": client.seal(json.dumps(parts))}]}
    assert talk.open_request(sent)["messages"] == [
        {"role": "user", "content": TEXT}, {"role": "user", "content": ""}, {"role": "user", "content": parts}]
    said = {"content": TEXT, "reasoning": "r"}
    answer = talk.seal_response({"id": "1", "choices": [{"message": said}, {"text": "t"}]})
    message = answer["choices"][0]["message"]
    assert [client.open(message["content"]), client.open(message["reasoning"])] == [TEXT, "r"]
    assert client.open(answer["choices"][1]["text"]) == "t"
    delta = talk.seal_chunk({"choices": [{"delta": {"role": "assistant", "content": ""}}, {"delta": {"content": "a"}}]})
    assert delta["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert client.open(delta["choices"][1]["delta"]["content"]) == "a"


def test_version_1_opens_the_box_of_chacha_too() -> None:
    """What a node of version 1 seals, a node of version 1 opens: the key is NaCl's, as its steps give it."""
    one, other = Client("ed25519", "1"), Identity("c.near", SigningKey(b"\x09" * 32), PrivateKey())
    one.ed = other.ed25519
    sealed = session(one).seal_response({"choices": [{"text": TEXT}]})["choices"][0]["text"]
    back = Encryption(other).session(one.headers)
    assert back is not None and back.open_request({"prompt": [sealed, [1, 2]]}) == {"prompt": [TEXT, [1, 2]]}


def test_a_salsa_box_is_what_pynacl_makes() -> None:
    mine = SigningKey.generate().to_curve25519_private_key()
    box = Box(mine, NODE.ed25519.verify_key.to_curve25519_public_key()).encrypt(TEXT.encode())
    sent = bytes(mine.public_key) + bytes(box)
    assert session(Client("ed25519", "1")).open_request({"prompt": sent.hex()}) == {"prompt": TEXT}


@pytest.mark.parametrize(("algo", "version"), WAYS)
def test_all_fields(algo: str, version: str) -> None:
    client = Client(algo, version)
    talk = session(client, **{"x-encrypt-all-fields": "true"})
    call = {"id": "c", "function": {"name": client.seal("f"), "arguments": client.seal("{}")}}
    body = {"messages": [{"role": "assistant", "name": client.seal("Ann"), "tool_calls": [call]}],
            "tools": [{"type": "function", "function": {"name": client.seal("f"), "description": client.seal("d"),
                                                        "parameters": client.seal('{"type":"object"}')}}],
            "tool_choice": {"type": "function", "function": {"name": client.seal("f")}}}
    clear = talk.open_request(body)
    assert clear["messages"][0]["name"] == "Ann"
    assert clear["messages"][0]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert clear["tools"][0]["function"] == {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert clear["tool_choice"]["function"]["name"] == "f"
    answer = talk.seal_response({"choices": [{"message": {"refusal": "no", "tool_calls": [
        {"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, "logprobs": {"content": []}}]})
    choice = answer["choices"][0]
    assert client.open(choice["message"]["tool_calls"][0]["function"]["name"]) == "f"
    assert json.loads(client.open(choice["logprobs"])) == {"content": []}


def test_without_all_fields_tools_stay_in_the_clear() -> None:
    body = {"tools": [{"function": {"name": "f", "description": "d"}}], "messages": []}
    assert session(Client("ed25519")).open_request(body) == body


@pytest.mark.parametrize("headers", [
    {"x-signing-algo": "ed25519"}, {"x-client-pub-key": "00" * 32}, {"x-encryption-version": "2"},
    {"x-encrypt-all-fields": "true"},
    {"x-signing-algo": "rsa", "x-client-pub-key": "00" * 32},
    {"x-signing-algo": "ed25519", "x-client-pub-key": "zz" * 32},
    {"x-signing-algo": "ed25519", "x-client-pub-key": "01" * 31},
    {"x-signing-algo": "ed25519", "x-client-pub-key": "ff" * 32},
    {"x-signing-algo": "ecdsa", "x-client-pub-key": "01" * 32},
    {"x-signing-algo": "ecdsa", "x-client-pub-key": "01" * 64},
    {"x-signing-algo": "ecdsa", "x-client-pub-key": "02" + "01" * 64},
    {**Client("ed25519").headers, "x-encryption-version": "3"},
    {**Client("ed25519").headers, "x-encrypt-all-fields": "yes"},
], ids=str)
def test_malformed_headers(headers: dict[str, str]) -> None:
    with pytest.raises(NodeError) as caught:
        Encryption(NODE).session(headers)
    assert caught.value.status == 400


@pytest.mark.parametrize(("algo", "version"), WAYS)
def test_one_error_for_all_that_does_not_open(algo: str, version: str) -> None:
    client = Client(algo, version)
    whole = bytes.fromhex(client.seal(TEXT))
    other = Identity("o.near", SigningKey.generate(), PrivateKey())
    bad = [whole[:i] for i in (1, 31, 32, 55, 56, 70, len(whole) - 1)]
    bad += [bytes([*whole[:i], whole[i] ^ 1, *whole[i + 1:]]) for i in (0, 1, 40, 66, len(whole) - 1)]
    bad += [bytes.fromhex(client.seal(TEXT, other)), bytes(len(whole))]
    said = set()
    for data in bad:
        with pytest.raises(NodeError) as caught:
            session(client).open_request({"messages": [{"role": "user", "content": data.hex()}]})
        said.add((caught.value.status, caught.value.message))
    assert len(said) == 1 and said.pop()[1].startswith("messages[0].content: Decryption failed")


@given(text=st.text(max_size=200), way=st.sampled_from(WAYS))
def test_any_text_is_a_400(text: str, way: tuple[str, str]) -> None:
    if text:
        with pytest.raises(NodeError) as caught:
            session(Client(*way)).open_request({"prompt": text})
        assert caught.value.status == 400


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.just(""), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["content", "function", "name", "audio", "data", "text"]), inner,
                                      max_size=3), max_leaves=12)


@given(body=st.fixed_dictionaries(dict.fromkeys(("messages", "tools", "tool_choice", "prompt", "choices"), JSON)))
def test_bodies_of_any_shape_pass(body: dict[str, Any]) -> None:
    """Whatever is not text where text is expected is left for the engine to refuse."""
    talk = session(Client("ed25519"), **{"x-encrypt-all-fields": "true"})
    assert talk.open_request(body) == body
    talk.seal_response(body)
