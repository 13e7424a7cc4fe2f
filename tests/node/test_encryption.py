"""Encrypted requests and answers: a client on other libraries, every field, and nothing in clear."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nearfield.node.encryption import Encryption, Session
from nearfield.node.errors import NodeError
from nearfield.node.identity import Identity
from tests.node.e2ee_client import Client, OldClient, ecdsa_client, ed25519_client

ALL = {"x-encrypt-all-fields": "true"}
NODE = Identity("alice.near", SigningKey(bytes([7]) * 32), PrivateKey(bytes([7]) * 32))
KEY = bytes(SigningKey(bytes([9]) * 32).verify_key).hex()


def clients() -> list[Client]:
    return [ed25519_client(NODE.signing_public_key("ed25519")), ecdsa_client(NODE.signing_public_key("ecdsa"))]


def session(headers: dict[str, str]) -> Session:
    found = Encryption(NODE).session(headers)
    assert found is not None
    return found


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


Text = Callable[[str], str]


def chat(text: Text) -> dict[str, Any]:
    """A chat request whose base fields went through `text`."""
    return {
        "model": "m", "stream": True, "stop": ["\n"], "temperature": 0.5,
        "messages": [
            {"role": "system", "content": text("You are kind.")},
            {"role": "user", "content": text("[1, 2] and 🌍")},
            {"role": "assistant", "content": text("hm"), "reasoning_content": text("why"), "reasoning": text("because"),
             "audio": {"id": "a1", "data": text("UklGRg==")}},
            {"role": "user", "content": ""}, {"role": "assistant", "content": None},
        ]}


def with_tools(text: Text, as_json: Callable[[object], object]) -> dict[str, Any]:
    """The same, and the fields of X-Encrypt-All-Fields. as_json: what becomes of a tool's parameters."""
    body = chat(text)
    body["messages"].append({
        "role": "assistant", "name": text("bot"), "refusal": text("no"), "content": text("c"),
        "function_call": {"name": text("old"), "arguments": text("{}")},
        "tool_calls": [{"id": "c1", "function": {"name": text("f"), "arguments": text('{"a":1}')}}]})
    return body | {
        "tools": [{"type": "function", "function": {"name": text("f"), "description": text("does"), "parameters":
                                                    as_json({"type": "object", "properties": {"é": {}}})}}],
        "tool_choice": {"type": "function", "function": {"name": text("f")}}, "function_call": {"name": text("old")}}


@pytest.mark.parametrize("client", clients())
def test_requests_are_opened(client: Client) -> None:
    assert session(client.headers).open_request(chat(client.encrypt)) == chat(str)
    encrypted = with_tools(client.encrypt, lambda value: client.encrypt(compact(value)))
    before = json.dumps(encrypted)
    assert session(client.headers | ALL).open_request(encrypted) == with_tools(str, lambda value: value)
    assert json.dumps(encrypted) == before  # and the body that came is as it was


def test_an_old_clients_request_is_opened() -> None:
    client = OldClient(NODE.signing_public_key("ed25519"), SigningKey.generate())
    assert session(client.headers).open_request(chat(client.encrypt)) == chat(str)


@pytest.mark.parametrize("client", clients())
def test_content_parts_travel_as_json(client: Client) -> None:
    def opened(content: object) -> object:
        body = {"messages": [{"role": "user", "content": content}]}
        return session(client.headers).open_request(body)["messages"][0]["content"]

    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    assert opened(client.encrypt(compact(parts))) == parts
    for text in ("[]", "[1,2]", '[{"a": 1}]', "[broken", "", '{"type": "text"}', '["type"]'):
        assert opened(client.encrypt(text)) == text  # a user's own words
    for clear in (parts, [], {"a": 1}, 5, True):
        with pytest.raises(NodeError, match=r"messages\[0\]\.content is in the clear") as caught:
            opened(clear)
        assert caught.value.status == 400 and "what is it" not in caught.value.message
    assert opened(None) is None


@pytest.mark.parametrize("client", clients())
def test_completions(client: Client) -> None:
    under = session(client.headers | ALL)
    assert under.open_request({"model": "m", "prompt": client.encrypt("Once")}) == {"model": "m", "prompt": "Once"}
    assert under.open_request({"prompt": [client.encrypt("a"), ""]}) == {"prompt": ["a", ""]}
    for ids in ([1, 2, 3], [[1, 2]], [client.encrypt("a"), [1, 2]], 5):     # token ids are text in the clear too
        with pytest.raises(NodeError, match="is in the clear"):
            under.open_request({"prompt": ids})
    sealed = under.seal_response({"id": "cmpl-1", "choices": [{"index": 0, "text": "upon"}, {"index": 1, "text": ""}]})
    assert client.decrypt(sealed["choices"][0].pop("text")) == "upon"
    assert sealed == {"id": "cmpl-1", "choices": [{"index": 0}, {"index": 1, "text": ""}]}
    with pytest.raises(NodeError, match="logprobs: ") as caught:
        under.open_request({"prompt": client.encrypt("Once"), "logprobs": 0})
    assert caught.value.status == 400


def message(text: Callable[[str], object], everything: bool) -> dict[str, Any]:
    """A message of an answer whose encrypted fields went through `text`."""
    other: Callable[[str], object] = text if everything else str
    return {
        "role": "assistant", "content": text("answer 🌍"), "reasoning": text("so"), "reasoning_content": text("think"),
        "audio": {"id": "a1", "data": text("UklGRg==")}, "refusal": other("never"),
        "tool_calls": [{"index": 0, "id": "c1", "function": {"name": other("f"), "arguments": other('{"a"')}}],
        "function_call": {"name": other("old"), "arguments": other("{}")}}


def logprobs(text: Callable[[str], object], raw: Callable[[list[int]], object]) -> dict[str, Any]:
    def entry(token: str) -> dict[str, Any]:
        return {"token": text(token), "logprob": -0.5, "bytes": raw(list(token.encode()))}

    return {"content": [entry("Hé") | {"top_logprobs": [entry("Hé"), entry("Ho") | {"bytes": None}]}],
            "refusal": [entry("no")]}


def decrypting(client: Client) -> Callable[[Any], Any]:
    """What a client does to the fields that it knows to be encrypted, in any JSON."""
    def visit(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: visit(item) for key, item in value.items()}
        if isinstance(value, list):
            return [visit(item) for item in value]
        return client.decrypt(value) if isinstance(value, str) and len(value) > 140 else value
    return visit


@pytest.mark.parametrize("client", clients())
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("name", ["message", "delta"])
def test_answers_are_sealed(client: Client, everything: bool, name: str) -> None:
    under = session(client.headers | (ALL if everything else {}))
    seal = under.seal_response if name == "message" else under.seal_chunk

    def answer(raw: Callable[[list[int]], object]) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": "stop", name: message(str, everything), "logprobs": logprobs(str, raw)}
        return {"id": "chatcmpl-1", "model": "m", "usage": {"total_tokens": 7}, "choices": [choice]}

    body = answer(list)
    sealed = seal(body)
    assert body == answer(list)  # as it was
    assert decrypting(client)(sealed) == answer(compact if everything else list)


    hidden: list[str] = []
    message(hidden.append, everything)
    left = json.dumps(sealed["choices"][0][name], ensure_ascii=False)
    assert len(hidden) == (9 if everything else 4) and not any(f'"{text}"' in left for text in hidden)


@pytest.mark.parametrize("client", clients())
def test_a_stream_is_sealed_delta_by_delta(client: Client) -> None:
    under = session(client.headers)
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""}, {"content": "Under"}, {"content": "stood."}, {}]
    sealed = [under.seal_chunk({"choices": [{"index": 0, "delta": delta}]})["choices"][0]["delta"] for delta in deltas]
    assert sealed[0] == deltas[0] and sealed[3] == {}
    assert [client.decrypt(delta["content"]) for delta in sealed[1:3]] == ["Under", "stood."]
    for chunk in ({"choices": [], "usage": {"total_tokens": 3}}, {"error": {"message": "x"}}, {}):
        assert under.seal_chunk(chunk) == chunk


@pytest.mark.parametrize("client", clients())
def test_answers_of_another_shape_are_sealed_too(client: Client) -> None:
    under = session(client.headers | ALL)
    calls = [{"function": {"name": "f", "arguments": {"city": "Graz"}}}]
    sealed = under.seal_response({"choices": [{"message": {
        "content": [{"type": "text", "text": "part"}, "loose"], "reasoning": ["step"], "tool_calls": calls}}]})
    assert not any(word in json.dumps(sealed) for word in ("part", "loose", "step", "Graz"))
    inside = sealed["choices"][0]["message"]
    assert client.decrypt(inside["content"][0]["text"]) == "part"
    assert json.loads(client.decrypt(inside["tool_calls"][0]["function"]["arguments"])) == {"city": "Graz"}


def test_seal_one_text() -> None:
    client = ed25519_client(NODE.signing_public_key("ed25519"))
    under = session(client.headers)
    assert client.decrypt(under.seal("[1, 2]")) == "[1, 2]" and under.seal("") == ""


def test_no_headers_no_session() -> None:
    assert Encryption(NODE).session({}) is None
    assert Encryption(NODE).session({"x-model-pub-key": "aa", "x-no-aliasing": "true"} | ALL) is None


ED = {"x-signing-algo": "ed25519", "x-client-pub-key": KEY}
WALLET = {"x-signing-algo": "ECDSA", "x-client-pub-key": NODE.signing_public_key("ecdsa").hex()}


@pytest.mark.parametrize("headers", [
    ED, ED | {"x-signing-algo": "Ed25519", "x-client-pub-key": KEY.upper()}, ED | {"x-encryption-version": "2"}, WALLET,
    WALLET | {"x-client-pub-key": "04" + WALLET["x-client-pub-key"], "x-encryption-version": "2"},
    ED | {"x-encrypt-all-fields": "TRUE"}, ED | {"x-encrypt-all-fields": "0"}])
def test_headers(headers: dict[str, str]) -> None:
    assert session(headers).all_fields == (headers.get("x-encrypt-all-fields") == "TRUE")


@pytest.mark.parametrize(("headers", "reason"), [
    ({"x-signing-algo": "ed25519"}, "Both X-Signing-Algo and X-Client-Pub-Key"),
    ({"x-client-pub-key": KEY}, "Both X-Signing-Algo and X-Client-Pub-Key"),
    (ED | {"x-signing-algo": "rsa"}, "X-Signing-Algo"), (ED | {"x-signing-algo": ""}, "X-Signing-Algo"),
    (ED | {"x-client-pub-key": "xx"}, "valid hex"), (ED | {"x-client-pub-key": "0x" + KEY}, "valid hex"),
    (ED | {"x-client-pub-key": KEY[:2] + " " + KEY[2:]}, "valid hex"),
    (ED | {"x-client-pub-key": KEY[2:]}, "32 bytes, this one 31"), (ED | {"x-client-pub-key": ""}, "this one 0"),
    (ED | {"x-client-pub-key": "00" * 32}, "not a public key"),
    (WALLET | {"x-client-pub-key": "11" * 64}, "not a public key"),
    (WALLET | {"x-client-pub-key": "05" + "11" * 64}, "this one has 65"),
    (WALLET | {"x-client-pub-key": KEY}, "this one has 32"),
    (ED | {"x-encryption-version": "3"}, "X-Encryption-Version"), (ED | {"x-encryption-version": ""}, "Version"),
    (ED | {"x-encrypt-all-fields": "yes"}, "X-Encrypt-All-Fields"),
])
def test_malformed_headers(headers: dict[str, str], reason: str) -> None:
    with pytest.raises(NodeError, match=reason) as caught:
        Encryption(NODE).session(headers)
    assert caught.value.status == 400 and KEY[:16] not in str(caught.value)


VALUES = st.text(max_size=8) | st.binary(max_size=70).map(bytes.hex) | st.sampled_from(
    ["ed25519", "ecdsa", KEY, WALLET["x-client-pub-key"], "1", "2", "true"])
NAMES = ["x-signing-algo", "x-client-pub-key", "x-encryption-version", "x-encrypt-all-fields"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_any_headers_are_a_session_or_refused(headers: dict[str, str]) -> None:
    try:
        Encryption(NODE).session(headers)
    except NodeError as error:
        assert error.status == 400


PLACES: list[tuple[str, dict[str, Any]]] = [
    ("messages[1].content", {"messages": [{}, {"content": "BAD"}]}),
    ("messages[0].reasoning", {"messages": [{"reasoning": "BAD"}]}),
    ("messages[0].audio.data", {"messages": [{"audio": {"data": "BAD"}}]}),
    ("messages[0].tool_calls[1].function.arguments",
     {"messages": [{"tool_calls": [{}, {"function": {"arguments": "BAD"}}]}]}),
    ("tools[0].function.parameters", {"tools": [{"function": {"parameters": "BAD"}}]}),
    ("tool_choice.function.name", {"tool_choice": {"function": {"name": "BAD"}}}),
    ("prompt", {"prompt": "BAD"}), ("prompt[1]", {"prompt": ["", "BAD"]}),
]


@pytest.mark.parametrize("client", clients())
@pytest.mark.parametrize(("place", "template"), PLACES)
def test_every_failure_names_the_field_and_no_more(client: Client, place: str, template: dict[str, Any]) -> None:
    def refusal(text: str) -> str:
        body = json.loads(json.dumps(template).replace("BAD", text))
        with pytest.raises(NodeError) as caught:
            session(client.headers | ALL).open_request(body)
        assert caught.value.status == 400 and str(caught.value).startswith(f"{place}: ")
        return str(caught.value)

    secret = client.encrypt("my secret")
    assert "not encrypted" in refusal("Hello") and "Hello" not in refusal("Hello")
    others = {refusal(text) for text in (
        "00", secret[:-2], secret[:60], secret[:-2] + f"{int(secret[-2:], 16) ^ 1:02x}", "00" * 100, "04" * 200,
        client.encrypt("x")[:-8] + "00000000")}
    assert len(others) == 1 and "can not be decrypted" in others.pop()


@pytest.mark.parametrize("client", clients())
def test_parameters_that_are_not_json(client: Client) -> None:
    body = {"tools": [{"function": {"parameters": client.encrypt("{")}}]}
    with pytest.raises(NodeError, match=r"tools\[0\].function.parameters: .* not JSON"):
        session(client.headers | ALL).open_request(body)


JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", "00", "ab" * 90]),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        ["messages", "content", "tools", "function", "parameters", "prompt", "audio", "data", "choices",
                         "delta", "message", "text", "tool_calls", "logprobs", "token", "bytes", "top_logprobs"]),
                        inner, max_size=4), max_leaves=12)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["messages", "tools", "tool_choice", "prompt", "choices", "x"]), JSON))
@example({"messages": {"0": {"content": "x"}}})
@example({"messages": [["content"]]})
@example({"choices": [[{"message": 3}]]})
def test_any_body_is_opened_or_refused_and_sealed(body: dict[str, Any]) -> None:
    under = session(ED | ALL)
    try:
        under.open_request(body)
    except NodeError as error:
        assert error.status == 400
    under.seal_response(body)
    under.seal_chunk(body)


def test_a_session_shows_no_keys() -> None:
    shown = repr(session(ED)) + repr(session(WALLET))
    assert "07" * 8 not in shown and KEY[:16] not in shown
