"""What was delivered against what the receipts' tokens make: the server's own code makes the reply again, and both are
compared as a whole. Nothing in a reply is passed over."""

import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from nearfield.cli.asked import Asked
from nearfield.core.request import Output
from nearfield.proof.difference import difference
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.errors import ReceiptError
from nearfield.proof.report import Check, failed, passed
from nearfield.server.answers import Usage, Whole
from nearfield.server.prompt import Job

_EVENT = re.compile(rb"^data: ?[\[{]", re.MULTILINE)
_COMMENT = re.compile(rb":[ -~]*")


def is_reply(data: bytes) -> bool:
    """Whether `data` is a reply in JSON or a stream of events, rather than an answer's text."""
    if _EVENT.search(data):
        return True
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "choices" in value


def compare(asked: Asked, receipts: Sequence[Disclosure], outputs: Sequence[Sequence[Output]], data: bytes, *,
            approximate: bool = False) -> Check:
    """Whether `data` is the reply that a server gives for a request, where the engine hands out `outputs` (answer by
    answer), which `receipts` are of. approximate: log-probabilities are passed over, since nobody repeats them."""
    receipt = receipts[0].signed.receipt
    job = asked.answered(receipt)
    try:
        pairs = _events(asked, job, receipts, outputs, data) if asked.stream else _reply(asked, job, outputs, data)
        for place, right, given in pairs:
            if approximate:
                right, given = _without_logprobs(right), _without_logprobs(given)
            if (found := difference(right, given, place)) is not None:
                return failed("reply", found)
    except ReceiptError as error:
        return failed("reply", str(error))
    return passed("reply", "approximate: log-probabilities are not compared" if approximate else "")


_Pairs = Iterator[tuple[str, Any, Any]]
"""A place, what is right there, and what was delivered."""


def _reply(asked: Asked, job: Job, outputs: Sequence[Sequence[Output]], data: bytes) -> _Pairs:
    whole = Whole(job, asked.form(job))
    for index, made in enumerate(outputs):
        for output in made:
            whole.add(index, output)
    yield "reply", _plain(whole.body()), _parsed(data)


def _events(asked: Asked, job: Job, receipts: Sequence[Disclosure], outputs: Sequence[Sequence[Output]],
            data: bytes) -> _Pairs:
    """The events of every answer come in their order, those of several answers in any. Then come those of no answer."""
    delivered = _read_events(data)
    form, usage = asked.form(job, usage=any("usage" in each for each in delivered)), Usage(job)
    expected: list[deque[Any]] = []
    for index, made in enumerate(outputs):
        expected.append(deque(_plain(each) for output in made for each in form.events(index, output)))
        usage.add(index, made[-1])
    end: deque[dict[str, Any]] = deque()
    if any(each.get("usage") is not None for each in delivered) or _asks_usage(asked):
        end.append({"usage": usage.body()})
    if any("receipts" in each for each in delivered):
        end.append({"receipts": [one.to_json() for one in receipts]})
    for number, each in enumerate(delivered):
        place = _index(each)
        if place is not None and place < len(expected) and expected[place]:
            yield f"event {number}", expected[place].popleft(), each
        elif not any(expected) and end:
            yield f"event {number}", _plain(form.closing_event(end.popleft())), each
        else:
            raise ReceiptError(f"event {number}: is one that the answer does not have")
    if any(expected) or end:
        raise ReceiptError(f"the stream ends after {len(delivered)} events, and the answer has more")


def _asks_usage(asked: Asked) -> bool:
    options = asked.body.stream_options
    return options is not None and options.include_usage is True


def _index(event: dict[str, Any]) -> int | None:
    """The answer that an event is of."""
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    index = first.get("index") if isinstance(first, dict) else None
    return index if type(index) is int and index >= 0 else None


def _read_events(data: bytes) -> list[dict[str, Any]]:
    """The objects of a stream of server-sent events, which ends as it should. Raises ReceiptError.

    Nothing stands in it that one client could read otherwise than another: one line of data an event, and comments of
    plain characters.
    """
    events: list[bytes] = []
    for block in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if line and not _COMMENT.fullmatch(line)]
        if len(lines) > 1 or not all(line.startswith(b"data:") for line in lines):
            raise ReceiptError(f"the stream has an event that is not one line of data: {block[:60]!r}")
        events += [line.removeprefix(b"data:").strip() for line in lines]
    if not events or events.pop() != b"[DONE]":
        raise ReceiptError("the stream does not end with data: [DONE]")
    return [_parsed(each) for each in events]


def _parsed(data: bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice: readers do not agree on which of two counts. Raises ReceiptError."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ReceiptError("the reply has an object in which a name stands twice")
        return made

    try:
        value = json.loads(data.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ReceiptError(f"the reply is not a JSON object: {data[:60]!r}")
    return value


def _plain(body: dict[str, Any]) -> Any:
    """`body` as its reader has it."""
    return json.loads(orjson.dumps(body))


def _without_logprobs(body: dict[str, Any]) -> dict[str, Any]:
    choices = body.get("choices")
    if not isinstance(choices, list):
        return body
    return body | {"choices": [each | {"logprobs": None} if isinstance(each, dict) else each for each in choices]}
