"""Calls of tools in a reply: the server's own parser takes them out of the answer's text again, ids and all."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfield.cli.asked import Asked
from nearfield.cli.delivered import compare
from nearfield.core.request import Output, Request
from nearfield.core.types import FinishReason
from nearfield.proof.receipt import sign
from nearfield.proof.report import Outcome
from nearfield.server.body import decode
from nearfield.server.prompt import chat_job
from nearfield.server.schema import ChatBody
from nearfield.server.service import make_service
from nearfield.server.tool_calls import CLOSE, OPEN
from tests.doubles import FakeEngineLoop, FakeLoaded
from tests.proof.signer import NodeKey
from tests.proof.test_receipt import OPEN as DISCLOSURE
from tests.proof.test_receipt import RECEIPT
from tests.server.serving import Serving, serving, started

CALL = OPEN + '{"name": "weather", "arguments": {"place": "Köln", "days": 2}}' + CLOSE
OTHER = OPEN + '{"name": "time", "arguments": {}}' + CLOSE
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
BODY = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 400}


class Says:
    """An engine that says `text`."""

    text = ""

    def __call__(self, _request: Request) -> tuple[int, ...]:
        return tuple(self.text.encode())


@pytest.fixture(scope="module")
def says() -> Iterator[tuple[Serving, Says]]:
    script = Says()
    with serving(loop=started(FakeEngineLoop(script=script))) as server:
        yield server, script


def reply(says: tuple[Serving, Says], text: str, **fields: Any) -> Any:
    server, script = says
    script.text = text
    answer = server.http.post("/v1/chat/completions", json=BODY | {"tools": TOOLS} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def outcome(text: str, body: Any, **fields: Any) -> Outcome:
    """Whether `body` is the reply of an engine that said `text`, and billed as the reply does."""
    receipt = replace(RECEIPT, response_id=body["id"], created=body["created"])
    usage = body["usage"]
    output = Output("a", (1,), text, (), FinishReason(STOPS.get(body["choices"][0]["finish_reason"], "length")),
                    usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"])
    service = make_service(FakeLoaded(), FakeEngineLoop(), name=None, created=0)
    chat = decode(json.dumps(BODY | {"tools": TOOLS} | fields).encode(), ChatBody)
    asked = Asked(service, chat, asyncio.run(chat_job(service, chat, "", body["created"])))
    return compare(asked, [replace(DISCLOSURE, signed=sign(receipt, NodeKey()))], [[output]],
                   json.dumps(body).encode()).outcome


STOPS = {"stop": "stop", "tool_calls": "stop"}


@given(st.lists(st.sampled_from([CALL, OTHER, "x ", "\n", " ", "ü", OPEN, CLOSE, OPEN + "{}" + CLOSE]), max_size=4))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_honest_reply_is_what_is_made_of_the_text(says: tuple[Serving, Says], parts: list[str]) -> None:
    text = "".join(parts)
    assert outcome(text, reply(says, text)) is Outcome.PASS


@pytest.mark.parametrize("change", [
    {"arguments": '{"place":"Bonn","days":2}'}, {"name": "time"}, {"arguments": None}, {"more": 1}, None])
def test_a_call_that_was_changed_differs(says: tuple[Serving, Says], change: dict[str, Any] | None) -> None:
    text = "I look. " + CALL
    body = reply(says, text)
    [call] = body["choices"][0]["message"]["tool_calls"]
    call["function"] = None if change is None else call["function"] | change
    assert outcome(text, body) is Outcome.FAIL


def test_a_call_that_was_left_out_or_made_up_differs(says: tuple[Serving, Says]) -> None:
    text = CALL + OTHER
    body = reply(says, text)
    first, second = body["choices"][0]["message"]["tool_calls"]
    for calls in ([first], [second, first], [first, second, second], [first, second | {"id": "call_1"}], []):
        body["choices"][0]["message"]["tool_calls"] = calls
        assert outcome(text, body) is Outcome.FAIL
    body["choices"][0]["message"]["tool_calls"] = [first, second]
    assert outcome(text, body) is Outcome.PASS


def test_calls_are_text_where_no_tools_were_given(says: tuple[Serving, Says]) -> None:
    plain = reply(says, CALL, tool_choice="none")
    assert outcome(CALL, plain, tool_choice="none") is Outcome.PASS
    assert outcome(CALL, plain) is Outcome.FAIL
    assert outcome(CALL, reply(says, CALL), tool_choice="none") is Outcome.FAIL
