"""Calls found in text that comes in pieces, from a model that may write anything."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfield.server.tool_calls import CLOSE, OPEN, ToolCallParser

CALL = OPEN + '{"name": "f", "arguments": {"a": 1}}' + CLOSE


def parse(*pieces: str) -> tuple[str, list[tuple[str, str]]]:
    parser = ToolCallParser("chatcmpl-1 0")
    text, found = "", []
    for piece in pieces:
        shown, calls = parser.push(piece)
        text += shown
        found += [(call.name, call.arguments) for call in calls]
    return text + parser.finish(), found


def test_a_call_between_texts() -> None:
    assert parse("before " + CALL + " after") == ("before  after", [("f", '{"a":1}')])


def test_layout_between_calls_is_dropped() -> None:
    assert parse(CALL + "\n" + CALL + "\n") == ("", [("f", '{"a":1}')] * 2)


@given(st.lists(st.sampled_from(["x ", "<", "<tool", OPEN, CLOSE, CALL, "{", '{"name":']), max_size=8), st.data())
def test_pieces_make_no_difference(parts: list[str], data: st.DataObject) -> None:
    whole = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert parse(*pieces) == parse(whole)
    if CALL not in whole:
        assert parse(*pieces) == (whole, [])


def test_white_space_within_an_answer_after_a_call_stays() -> None:
    assert parse(CALL, "\n", "One", " ", "two", "\n") == ("\nOne two\n", [("f", '{"a":1}')])


@pytest.mark.parametrize("text", [
    OPEN + "not json" + CLOSE, OPEN + "[]" + CLOSE, OPEN + '{"name": 5}' + CLOSE, OPEN + "[" * 100_000 + CLOSE,
    OPEN + '{"name": "f", "arguments": "x"}' + CLOSE, OPEN + '{"name"', CLOSE, OPEN, OPEN + OPEN,
    OPEN + "__import__('os')" + CLOSE,
])
def test_what_is_no_call_is_text(text: str) -> None:
    assert parse(text) == (text, [])
    assert parse(*text[:100], text[100:]) == (text, [])


@pytest.mark.parametrize("text", [OPEN * 100_000, (OPEN + CLOSE) * 50_000, OPEN + "x" * 1_000_000, "<tool_" * 150_000])
def test_a_megabyte_takes_no_time(text: str) -> None:
    started = time.thread_time()
    assert parse(text)[0] == text
    assert time.thread_time() - started < 5     # of the processor, whatever else runs; squares of a megabyte take hours
