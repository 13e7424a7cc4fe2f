"""One exchange through the middleware: what is hashed is what is sent, what is signed is whole and in the ledger."""

import asyncio
from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.node.errors import NodeError
from nearfield.node.signing import verify_text
from nearfield.node.usage import Usage
from tests.node.exchange_doubles import MODEL, STREAM, Answer, Engine, Stand, Till, chat, piece, reply, streaming

USED = Usage("chatcmpl-1", MODEL, 7, 2, 3)
DONE = b"data: [DONE]\n\n"


def run(stand: Stand, body: dict[str, Any] | bytes, **options: Any) -> Answer:
    return asyncio.run(stand.post(body, **options))


def signed(stand: Stand, request: bytes, response: bytes, chat_id: str = "chatcmpl-1") -> None:
    for algo in ("ecdsa", "ed25519"):
        signature = stand.signatures.get(chat_id, algo)
        assert signature.text == f"{MODEL}:{sha256(request).hexdigest()}:{sha256(response).hexdigest()}"
        assert verify_text(signature)


def unsigned(stand: Stand) -> None:
    assert len(stand.signatures) == 0


def test_a_json_answer_is_signed_over_the_bytes_of_both_sides_and_recorded_before_it_leaves() -> None:
    stand = Stand(Engine([reply()[:10], reply()[10:]]))
    request = b'{ "messages":[{"role":"user","content":"Hi"}],\n "model" :"org/model" }'
    answer = run(stand, request)
    assert (answer.status, answer.body, answer.whole) == (200, reply(), True)
    assert answer.headers[b"content-length"] == str(len(reply())).encode()
    signed(stand, request, answer.body)
    assert stand.journal == [("authorised", 0, None), USED, ("sent", reply(), True)]


def test_a_stream_is_recorded_before_its_last_event_and_signed_up_to_it() -> None:
    stand = Stand(streaming())
    answer = run(stand, chat(stream=True))
    assert answer.whole and answer.body == b"".join(STREAM)
    signed(stand, orjson.dumps(chat(stream=True)), answer.body)
    at = stand.journal.index(USED)
    assert all(DONE not in entry[1] for entry in stand.journal[1:at])
    assert stand.journal[at + 1] == ("sent", DONE, False)


@settings(deadline=None)
@given(cuts=st.lists(st.integers(1, 400), max_size=12), ends=st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_stream_is_the_same_however_it_is_cut_and_its_lines_end(cuts: list[int], ends: str) -> None:
    plain = b"".join(STREAM)
    data = plain.replace(b"\n", ends.encode())
    points = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    stand = Stand(streaming(*(data[a:b] for a, b in zip(points, points[1:], strict=False))))
    answer = run(stand, chat(stream=True))
    assert answer.body == plain
    signed(stand, orjson.dumps(chat(stream=True)), plain)


def test_comments_pass_and_are_not_signed() -> None:
    stand = Stand(streaming(STREAM[0], b": keep-alive\n\n", *STREAM[1:]))
    answer = run(stand, chat(stream=True))
    assert b": keep-alive\n\n" in answer.body
    signed(stand, orjson.dumps(chat(stream=True)), b"".join(STREAM))


def test_each_event_leaves_when_it_comes() -> None:
    async def talk() -> None:
        gate = asyncio.Event()
        stand = Stand(streaming(STREAM[0], gate, *STREAM[1:]))
        stand.on_chunk = lambda chunk: gate.set()   # the second event waits until the first has arrived
        answer = await asyncio.wait_for(stand.post(chat(stream=True)), 5)
        assert answer.whole

    asyncio.run(talk())


@pytest.mark.parametrize("cut", range(4))
def test_a_stream_that_breaks_off_is_metered_for_what_left_and_never_signed(cut: int) -> None:
    stand = Stand(Engine(STREAM[:cut], "text/event-stream", ends=False))
    answer = run(stand, chat(stream=True))
    unsigned(stand)
    assert not answer.whole and DONE not in answer.body
    assert b'"server_error"' in answer.body
    expected = ["released", Usage("chatcmpl-1", MODEL, 7, 0, 1), Usage("chatcmpl-1", MODEL, 7, 0, 2), USED][cut]
    assert [entry for entry in stand.journal if not isinstance(entry, tuple)] == [expected]


def test_a_stream_that_ends_cleanly_without_done_is_not_whole() -> None:
    stand = Stand(streaming(*STREAM[:3]))
    answer = run(stand, chat(stream=True))
    unsigned(stand)
    assert not answer.whole and USED in stand.journal


def test_a_stream_with_an_error_is_not_signed_though_it_says_done() -> None:
    stand = Stand(streaming(STREAM[0], b'data: {"error":{"message":"boom"}}\n\n', DONE))
    answer = run(stand, chat(stream=True))
    unsigned(stand)
    assert b"boom" in answer.body
    assert stand.journal[-1] == Usage("chatcmpl-1", MODEL, 7, 0, 1)


def test_nothing_follows_done() -> None:
    stand = Stand(streaming(*STREAM, piece("more"), DONE))
    answer = run(stand, chat(stream=True))
    assert answer.body == b"".join(STREAM) and stand.journal.count(USED) == 1


class Leaving(Engine):
    """Ends, as our own server does, when it hears that the client has left."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await super().__call__(scope, receive, send)
        if scope["path"] != "/tokenize":
            assert (await receive())["type"] == "http.disconnect"


def test_a_client_that_leaves_stops_the_engine_and_pays_for_what_it_got() -> None:
    async def talk() -> None:
        stand = Stand(Leaving([STREAM[0]], "text/event-stream", ends=False))
        stand.on_chunk = lambda chunk: stand.left.set() if stand.left else None
        answer = await asyncio.wait_for(stand.post(chat(stream=True)), 5)
        assert not answer.whole
        unsigned(stand)
        assert Usage("chatcmpl-1", MODEL, 7, 0, 1) in stand.journal

    asyncio.run(talk())


@pytest.mark.parametrize("status", [400, 402, 404, 429, 500, 503])
def test_an_engines_error_passes_unsigned_and_free(status: int) -> None:
    stand = Stand(Engine([b'{"error":', b'{"message":"no"}}'], status=status, headers=[(b"Retry-After", b"3")]))
    answer = run(stand, chat())
    assert (answer.status, answer.json(), answer.whole) == (status, {"error": {"message": "no"}}, True)
    assert answer.headers[b"retry-after"] == b"3"
    unsigned(stand)
    assert stand.journal[1] == "released" and stand.journal[2][0] == "sent"


@pytest.mark.parametrize("body", [
    b"nonsense", b"[]", b'{"id":"a"}', reply(usage=None), reply(usage={"prompt_tokens": -1, "completion_tokens": 1}),
    reply(usage={"prompt_tokens": 1.5, "completion_tokens": 1})])
def test_an_answer_that_can_not_be_counted_does_not_go_out(body: bytes) -> None:
    stand = Stand(Engine([body]))
    answer = run(stand, chat())
    assert answer.status == 502 and answer.json()["error"]["type"] == "server_error"
    unsigned(stand)
    assert stand.journal[-2:] == ["released", ("sent", answer.body, True)]


def test_a_json_answer_that_breaks_off_is_an_error() -> None:
    stand = Stand(Engine([reply()[:20]], ends=False))
    assert run(stand, chat()).status == 502
    unsigned(stand)


def test_a_stream_of_nonsense_stops_the_engine() -> None:
    async def talk() -> None:
        engine = streaming(STREAM[0], b"data: {nonsense\n\n", asyncio.Event())
        stand = Stand(engine)
        answer = await asyncio.wait_for(stand.post(chat(stream=True)), 5)
        assert not answer.whole and engine.cancelled == 1
        unsigned(stand)

    asyncio.run(talk())


def test_an_engine_without_ids_gets_some() -> None:
    for engine in (Engine([reply(id=None)]), streaming(*(item.replace(b'"id":"chatcmpl-1",', b"") for item in STREAM))):
        stand = Stand(engine)
        answer = run(stand, chat(stream=True))
        first = answer.json() if answer.body.startswith(b"{") else orjson.loads(answer.body[6:].split(b"\n")[0])
        assert first["id"].startswith("chatcmpl-") and len(first["id"]) == 33
        assert answer.body.count(first["id"].encode()) == (1 if answer.body.startswith(b"{") else 3)
        signed(stand, orjson.dumps(chat(stream=True)), answer.body, first["id"])


def test_streams_carry_usage_whatever_the_client_says() -> None:
    for options in (None, {}, {"include_usage": False}, {"include_usage": None, "include_obfuscation": False}):
        engine = streaming()
        assert run(Stand(engine), chat(stream=True, stream_options=options)).whole
        assert engine.bodies[0]["stream_options"] == {**(options or {}), "include_usage": True}
    engine = Engine([reply()])
    run(Stand(engine), chat())
    assert engine.bodies == [chat()]


def test_what_the_node_has_read_is_what_the_engine_reads() -> None:
    engine = Engine([reply()])
    run(Stand(engine), b'{"model":"other","max_tokens":9,"model":"org/model","max_tokens":1}')
    assert engine.bodies == [{"model": MODEL, "max_tokens": 1}]


def test_the_engine_sees_neither_keys_nor_payments() -> None:
    engine = Engine([reply()])
    secret = [(b"authorization", b"Bearer sk-1"), (b"x-payments-signature", b"sig"), (b"x-model-pub-key", b"00")]
    run(Stand(engine), chat(), headers=[*secret, (b"x-receipt-nonce", b"ab" * 32), (b"x-request-id", b"me")])
    assert not {name for name, _ in secret} & set(engine.seen[0])
    assert engine.seen[0][b"x-receipt-nonce"] == b"ab" * 32 and b"x-request-id" not in engine.seen[0]
    assert int(engine.seen[0][b"content-length"]) == len(orjson.dumps(chat()))


def test_headers_may_come_in_the_body_for_routers_that_drop_them() -> None:
    engine = Engine([reply()])
    body = chat(near_headers={"X-Receipt-Nonce": "ab" * 32})
    stand = Stand(engine)
    assert run(stand, body).status == 200
    assert engine.seen[0][b"x-receipt-nonce"] == b"ab" * 32 and engine.bodies == [chat()]
    signed(stand, orjson.dumps(body), reply())


@pytest.mark.parametrize(("given", "word"), [
    ([], "object"), ({"x-receipt-nonce": 1}, "object"), ({"authorization": "Bearer x"}, "authorization"),
    ({"host": "x"}, "host"), ({"x-receipt-nonce": "a\nb"}, "printable"),
    ({"x-receipt-nonce": "a", "X-Receipt-Nonce": "b"}, "once"), ({"x-payments-signature": "b"}, "too")])
def test_headers_in_the_body_are_checked(given: object, word: str) -> None:
    answer = run(Stand(Engine([reply()])), chat(near_headers=given), headers=[(b"x-payments-signature", b"a")])
    assert answer.status == 400 and word in answer.json()["error"]["message"]


@pytest.mark.parametrize(("body", "status"), [
    (b"", 400), (b"[1]", 400), (b"{", 400), (b'{"model":NaN}', 400), (b"[" * 5000, 400), (b"{}", 404),
    (b'{"model":1}', 404), (b'{"model":"x"}', 404)])
def test_a_body_that_is_none(body: bytes, status: int) -> None:
    stand = Stand(Engine([reply()]))
    answer = run(stand, body)
    assert answer.status == status and set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert stand.journal == [("sent", answer.body, True)]


def test_other_content_types_are_refused() -> None:
    async def talk() -> None:
        stand = Stand(Engine([reply()]))
        path, data = "/v1/chat/completions", orjson.dumps(chat())
        json = (b"content-type", b"application/json")
        for headers in ([], [(b"content-type", b"text/plain")], [json, json], [json, (b"content-encoding", b"gzip")]):
            assert (await stand.send("POST", path, data, headers)).status == 400

    asyncio.run(talk())


def test_a_refused_payment_reaches_no_engine() -> None:
    engine = Engine([reply()])
    refusal = NodeError(402, "owed: 5", headers={"PAYMENT-REQUIRED": "abc"})
    answer = run(Stand(engine, Till([], refuse=refusal)), chat())
    assert (answer.status, answer.headers[b"payment-required"], engine.bodies) == (402, b"abc", [])
    assert answer.json()["error"]["type"] == "insufficient_credits"


@pytest.mark.parametrize(("asked", "sent"), [
    ({}, {"max_tokens": 20}), ({"max_tokens": 5}, {"max_tokens": 5}), ({"max_tokens": 50}, {"max_tokens": 20}),
    ({"max_tokens": 50, "max_completion_tokens": 60}, {"max_tokens": 20, "max_completion_tokens": 20}),
    ({"n": 4}, {"n": 4, "max_tokens": 5}), ({"max_tokens": None}, {"max_tokens": 20})])
def test_an_answer_is_no_longer_than_what_is_authorised(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    engine = Engine([reply()])
    stand = Stand(engine, Till([], affordable=20, priced=True))
    assert run(stand, chat(**asked)).status == 200
    assert engine.bodies == [chat(**sent)]
    assert stand.journal[0][:2] == ("authorised", 7)


def test_where_all_that_fits_is_paid_for_the_engine_decides() -> None:
    engine = Engine([reply()])
    assert run(Stand(engine, Till([], affordable=93, priced=True)), chat()).status == 200
    assert engine.bodies == [chat()]


def test_where_nothing_is_affordable_nothing_runs() -> None:
    engine = Engine([reply()])
    stand = Stand(engine, Till([], affordable=2, priced=True))
    assert run(stand, chat(n=3)).status == 402
    assert engine.bodies == [] and "released" in stand.journal


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n", "best_of"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "9", [], {}])
def test_a_limit_that_is_none_is_refused_where_it_is_paid(field: str, value: object) -> None:
    answer = run(Stand(Engine([reply()]), Till([], affordable=9, priced=True)), chat(**{field: value}))
    assert answer.status == 400 and field in answer.json()["error"]["message"]


@pytest.mark.parametrize(("prompt", "count", "expected"), [
    ("Hi", 7, 7), ([1, 2, 3], 7, 3), ([[1, 2], [3]], 7, None), (["a", "b"], 7, None), ("Hi", None, None),
    ("Hi", -1, None)])
def test_prompts_are_counted_by_the_engine_or_bounded(prompt: object, count: int | None, expected: int | None) -> None:
    stand = Stand(Engine([reply()], count=count), Till([], affordable=9, priced=True))
    body = {"model": MODEL, "prompt": prompt}
    assert run(stand, body, path="/v1/completions").status == 200
    counted = stand.journal[0][1]
    assert counted == expected if expected is not None else counted > len(orjson.dumps(body))


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/v1/embeddings"), ("GET", "/v1/models/../secret"), ("GET", "/x"),
    ("POST", "/v1/load_lora_adapter"), ("GET", "//v1/models"), ("GET", "/v1/models/other"), ("GET", "/v1/models/\0")])
def test_what_is_not_listed_does_not_reach_the_engine(method: str, path: str) -> None:
    engine = Engine([reply()])
    answer = asyncio.run(Stand(engine).send(method, path))
    assert answer.status == 404 and answer.json()["error"]["type"] == "not_found" and engine.bodies == []


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_stream_of_an_engine_ends_in_order(data: bytes) -> None:
    stand = Stand(streaming(data))
    answer = run(stand, chat(stream=True))
    assert answer.status == 200 and len(stand.signatures) <= data.count(b"[DONE]")


JSON = st.recursive(st.none() | st.integers(-2**63, 2**63) | st.text("a\u00e9\n\"", max_size=4), st.lists)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(["id", "usage", "choices", "object", "error"]), JSON))
def test_any_json_of_an_engine_is_answered(body: dict[str, Any]) -> None:
    data = orjson.dumps(body)
    answer = run(Stand(Engine([data])), chat())
    assert answer.status in (200, 502) and answer.whole
    stream = run(Stand(streaming(b"data: " + data + b"\n\n", DONE)), chat(stream=True))
    assert stream.status == 200
