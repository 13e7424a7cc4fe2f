"""Rows 10 and 11 of the table in docs/receipts.md, as a client meets them: an honest node's replies, edited.

Whatever is changed in a reply that was kept, in JSON or as a stream, is found: it is compared as a whole.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfield.cli.asked import asked_by
from nearfield.cli.delivered import compare
from nearfield.cli.exchange import Verdict, Verifier
from nearfield.kernels import cpu
from nearfield.proof.claims import Known
from nearfield.proof.disclosure import Disclosure, read_receipts
from nearfield.proof.model_root import subject_of
from nearfield.proof.report import Outcome
from tests.cli.kept import CHAT, CHATS, COMPLETIONS, Files, opened, receipt_server
from tests.proof.signer import NodeKey
from tests.server.serving import Serving

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

OTHER = {"stop": "length", "length": "stop"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "pay", "arguments": '{"to": "evil.near"}'}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with receipt_server(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    loaded = opened()
    return Verifier(loaded, subject_of(loaded))


class Kept:
    """An honest exchange, and the verdict on another reply in its place."""

    def __init__(self, verifier: Verifier, files: Files) -> None:
        self.body = json.loads(files.request.read_text())
        self.receipts = read_receipts(files.receipt.read_bytes())
        self.reply = files.reply.read_bytes()
        self._verifier = verifier
        self._known = Known(client_nonce=b"\xab" * 32, node_nonce=bytes.fromhex(files.node_nonce),
                            public_key=NodeKey().public_key)
        honest = self.verdict(self.reply)
        assert honest.verified, honest.failures
        self._outputs = [report.outputs for report in honest.reports]

    def verdict(self, reply: bytes, receipts: list[Disclosure] | None = None) -> Verdict:
        return self._verifier.exchange(receipts or self.receipts, self.body, reply, self._known)

    def compared(self, reply: bytes, *, approximate: bool = False) -> Outcome:
        """The outcome of the comparison alone, without a replay for each."""
        asked = asked_by(self._verifier.loaded, self.body, self.receipts[0].signed.receipt.created)
        return compare(asked, self.receipts, self._outputs, reply, approximate=approximate).outcome

    def fault(self, reply: bytes, receipts: list[Disclosure] | None = None) -> str:
        """What is wrong with `reply`; something must be."""
        verdict = self.verdict(reply, receipts)
        assert not verdict.verified
        return "; ".join(f"{check.name}: {check.reason}" for check in verdict.failures)


@pytest.fixture(scope="module")
def chat(node: Serving, verifier: Verifier, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(verifier, Files(tmp_path_factory.mktemp("chat"), node, CHATS, **CHAT))


@pytest.fixture(scope="module")
def two(node: Serving, verifier: Verifier, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(verifier, Files(tmp_path_factory.mktemp("two"), node, COMPLETIONS, prompt="Once upon", n=2))


@pytest.fixture(scope="module")
def stream(node: Serving, verifier: Verifier, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(verifier, Files(tmp_path_factory.mktemp("stream"), node, CHATS, stream=True, n=2, **CHAT,
                                stream_options={"include_usage": True}))


def message(**fields: Any) -> Callable[[Any], None]:
    return lambda body: body["choices"][0]["message"].update(fields)


def choice(**fields: Any) -> Callable[[Any], None]:
    return lambda body: body["choices"][0].update(fields)


def usage(**fields: Any) -> Callable[[Any], None]:
    return lambda body: body["usage"].update(fields)


def top(**fields: Any) -> Callable[[Any], None]:
    return lambda body: body.update(fields)


CHAT_EDITS: dict[str, Callable[[Any], None]] = {
    "one letter": lambda body: message(content=body["choices"][0]["message"]["content"] + "!")(body),
    "no text": message(content=None), "empty text": message(content=""),
    "forged calls": message(content=None, tool_calls=[CALL]), "calls beside the text": message(tool_calls=[CALL]),
    "parts": message(content=[{"type": "text", "text": "EVIL"}]), "reasoning": message(reasoning_content="EVIL"),
    "refusal": message(refusal="no"), "role": message(role="system"), "unknown field": message(annotations=[]),
    "finish": lambda body: choice(finish_reason=OTHER[body["choices"][0]["finish_reason"]])(body),
    "no finish": choice(finish_reason=None), "index": choice(index=5),
    "text too": choice(text="EVIL"), "index of another type": choice(index=False), "logprobs": choice(logprobs={}),
    "a second choice": lambda body: body["choices"].append(body["choices"][0] | {"index": 1}),
    "no choices": top(choices=[]), "choices that are no list": top(choices={}), "model": top(model="gpt-5"),
    "id": top(id="chatcmpl-0"), "created": top(created=1), "object": top(object="text_completion"),
    "field": top(system_fingerprint="x"), "no usage": lambda body: body.pop("usage"), "null usage": top(usage=None),
    "more tokens": usage(completion_tokens=9999), "a fraction": usage(completion_tokens=24.0),
    "more prompt": usage(prompt_tokens=9999), "total": usage(total_tokens=1),
    "cached": usage(prompt_tokens_details={"cached_tokens": 1}), "more usage": usage(reasoning_tokens=5)}


@pytest.mark.parametrize("edit", CHAT_EDITS)
def test_an_edited_chat(chat: Kept, edit: str) -> None:
    body = json.loads(chat.reply)
    CHAT_EDITS[edit](body)
    assert chat.fault(json.dumps(body).encode())


@pytest.mark.parametrize("edit", [
    lambda body: body["choices"].pop(), lambda body: body["choices"].reverse(), top(choices=[]),
    lambda body: body["choices"][1].update(text=body["choices"][0]["text"]),
    lambda body: body["choices"][1].update(text={"evil": "the node writes what it likes"}),
    lambda body: body["choices"].append({"index": 2, "text": "EVIL", "finish_reason": "stop", "logprobs": None}),
    usage(prompt_tokens=9999, completion_tokens=9999, total_tokens=19998)])
def test_an_edited_reply_of_two_answers(two: Kept, edit: Callable[[Any], None]) -> None:
    body = json.loads(two.reply)
    edit(body)
    assert two.fault(json.dumps(body).encode()).startswith("reply: reply.")


def test_a_name_that_stands_twice(chat: Kept) -> None:
    """Readers that take the first of two and readers that take the last see different replies."""
    twice = chat.reply.replace(b'"content":', b'"content":"EVIL","content":', 1)
    assert "stands twice" in chat.fault(twice)
    assert chat.fault(chat.reply.decode().encode("utf-16"))


@pytest.mark.parametrize("data", [b"", b"EVIL", b"{}", b"[]", b'{"choices": []', b'{"choices": 1e999}', b"\xff\xfe",
                                  b"data: {}\n\ndata: [DONE]\n\n", b"[" * 100_000])
def test_what_is_no_reply_is_not_verified(chat: Kept, data: bytes) -> None:
    assert chat.fault(data).startswith("reply: ")


def test_receipts_that_are_left_out_or_given_twice(two: Kept, chat: Kept) -> None:
    first, second = two.receipts
    assert "asks for 2 answers, and there are 1" in two.fault(two.reply, [first])
    assert "asks for 1 answers, and there are 2" in chat.fault(chat.reply, chat.receipts * 2)
    assert "place: index" in two.fault(two.reply, [first, first])
    assert "place: index" in two.fault(two.reply, [second, first])
    assert "is not the same in all receipts" in two.fault(two.reply, [first, chat.receipts[0]])


def test_of_a_peer_whose_bits_nobody_repeats_all_but_log_probabilities_counts(
        node: Serving, verifier: Verifier, tmp_path: Path) -> None:
    kept = Kept(verifier, Files(tmp_path, node, COMPLETIONS, prompt="Once upon", logprobs=1))
    body = json.loads(kept.reply)
    body["choices"][0]["logprobs"]["token_logprobs"][0] -= 0.5
    near = json.dumps(body).encode()
    assert kept.compared(near) is Outcome.FAIL
    assert kept.compared(near, approximate=True) is Outcome.PASS
    body["choices"][0]["text"] += "!"
    assert kept.compared(json.dumps(body).encode(), approximate=True) is Outcome.FAIL
    told = [replace(one, sketches=bytes(32)) for one in kept.receipts]   # a sketch does not make a receipt approximate
    assert "logprobs" in kept.fault(near, told)


def parts(kept: Kept) -> list[bytes]:
    return kept.reply.removesuffix(b"\n\n").split(b"\n\n")


def test_an_edited_stream(stream: Kept) -> None:
    whole = parts(stream)
    texts = [i for i, part in enumerate(whole) if b'"content"' in part]
    edits = {
        "one is left out": whole[:texts[5]] + whole[texts[5] + 1:], "one comes twice": whole[:9] + whole[8:],
        "cut short": whole[:-1], "after the end": [*whole, whole[texts[1]]], "no usage": [*whole[:-2], whole[-1]],
        "a text": [whole[0], whole[texts[4]].replace(b'"content":"', b'"content":"EVIL'), *whole[1:]],
        "usage": [part.replace(b'"completion_tokens":', b'"completion_tokens":9') for part in whole],
        "model": [part.replace(b'"model":"', b'"model":"x') for part in whole],
        "one changed": [part.replace(b'"content":"', b'"content":"x') if i == texts[6] else part
                        for i, part in enumerate(whole)],
        "a third answer": [whole[0].replace(b'"index":0', b'"index":2'), *whole],
        "an event of a kind": [b"event: note", *whole], "an error": [b'data: {"error": {"message": "x"}}', *whole],
        "two choices": [whole[0].replace(b'"choices":[', b'"choices":[{"index":0,"delta":{"content":"x"}},'),
                        *whole[1:]],
        "hidden in a comment": [b": x\rdata: " + whole[texts[3]], *whole],
        "hidden by another line end": [b": x\x0bdata: " + whole[texts[3]], *whole],
        "two lines of an event": [whole[0] + b"\n" + whole[1], *whole[2:]],
        "a name twice": [part.replace(b'"content":', b'"content":"EVIL","content":') for part in whole],
        "receipts": [*whole[:-1], b'data: {"choices": [], "receipts": []}', whole[-1]]}
    for name, edited in edits.items():
        assert edited != whole, name
        assert stream.fault(b"\n\n".join(edited) + b"\n\n"), name
    assert stream.fault(json.dumps({"choices": []}).encode())


def test_what_is_no_word_of_the_stream_may_differ(stream: Kept) -> None:
    """Keep-alives come when they come, and answers take turns as the engine runs them."""
    whole = parts(stream)
    first = [part for part in whole if b'"index":0' in part]
    rest = [part for part in whole if b'"index":0' not in part]
    again = b": keep-alive\n\n" + b"\n\n".join([*first, b": keep-alive", *rest]) + b"\n\n"
    assert stream.verdict(again).verified
    assert stream.verdict(again.replace(b"\n", b"\r\n")).verified


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_a_reply_is_found(chat: Kept, data: st.DataObject) -> None:
    """Any value of the reply, replaced by any other."""
    body = json.loads(chat.reply)
    place: Any = body
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    before = place[key]
    after = data.draw(st.none() | st.booleans() | st.integers(-5, 99) | st.floats(0, 99) | st.text(max_size=5)
                      | st.lists(st.integers(), max_size=2) | st.just({}) | st.just({"x": None}))
    place[key] = after
    same = json.dumps(before) == json.dumps(after)
    assert (chat.compared(json.dumps(body).encode()) is Outcome.PASS) == same
