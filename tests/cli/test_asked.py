"""What was delivered, read back: calls of tools beside the text, as a server has taken them out of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfield.cli.asked import Asked, with_reply
from nearfield.core.request import Request, SamplingParams
from nearfield.proof.verify import Known
from nearfield.server.tool_calls import CLOSE, OPEN
from tests.doubles import FakeEngineLoop
from tests.server.serving import Serving, serving, started

CALL = OPEN + '{"name": "weather", "arguments": {"place": "Köln", "days": 2}}' + CLOSE
OTHER = OPEN + '{"name": "time", "arguments": {}}' + CLOSE
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ASKED = Asked((Request("a", (1,), SamplingParams()),), options=True, tools=True)


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


def reply(says: tuple[Serving, Says], text: str) -> Any:
    server, script = says
    script.text = text
    answer = server.chat(tools=TOOLS, max_tokens=400)
    assert answer.status_code == 200, answer.text
    return answer.json()


@given(st.lists(st.sampled_from([CALL, OTHER, "x ", "\n", " ", "ü", OPEN, CLOSE, OPEN + "{}" + CLOSE]), max_size=6))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_honest_reply_is_what_is_made_of_the_text(says: tuple[Serving, Says], parts: list[str]) -> None:
    text = "".join(parts)
    known = with_reply(ASKED.known(0), reply(says, text), 0)
    assert known.text == known.as_delivered(text)


@pytest.mark.parametrize("change", [
    {"arguments": '{"place":"Bonn","days":2}'}, {"name": "time"}, {"arguments": None}, None])
def test_a_call_that_was_changed_differs(says: tuple[Serving, Says], change: dict[str, Any] | None) -> None:
    text = "I look. " + CALL
    body = reply(says, text)
    [call] = body["choices"][0]["message"]["tool_calls"]
    call["function"] = None if change is None else call["function"] | change
    known = with_reply(ASKED.known(0), json.loads(json.dumps(body)), 0)
    assert known.text is not None and known.text != known.as_delivered(text)


def test_a_call_that_was_left_out_or_made_up_differs(says: tuple[Serving, Says]) -> None:
    body = reply(says, CALL + OTHER)
    del body["choices"][0]["message"]["tool_calls"][1]
    known = with_reply(ASKED.known(0), body, 0)
    assert known.text != known.as_delivered(CALL + OTHER)
    assert known.text != Asked(ASKED.requests, options=True).known(0).as_delivered(CALL), "no tools were given"


def test_calls_are_not_looked_at_where_the_request_is_not_known(says: tuple[Serving, Says]) -> None:
    assert with_reply(Known(), reply(says, CALL), 0).text is None
