"""What a client could have for nothing: names it gives to answers, lengths that are not counted, a ledger that fails,
an answer that outlives what was set aside for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from nearfield.node import arrears, exchange
from nearfield.node.accounts import key_payer
from nearfield.node.arrears import Arrears
from nearfield.node.credits import Credits
from nearfield.node.database import Database, LedgerError
from nearfield.node.ledger import Ledger
from nearfield.node.payment import Payment, Prepaid
from nearfield.node.prices import Prices
from nearfield.node.requested import CHAT, TEXT
from nearfield.node.usage import Usage
from nearfield.server.schema import ChatBody, CompletionBody
from tests.node.exchange_doubles import (
    MODEL,
    STREAM,
    USAGE,
    Answer,
    Engine,
    Stand,
    Till,
    chat,
    piece,
    reply,
    streaming,
)

KEY = "sk-" + "a" * 40
BEARER = [(b"authorization", f"Bearer {KEY}".encode())]
COST = 5 * 10 + 2 * 1 + 3 * 20      # of USAGE, at PRICES
PRICES = Prices(prompt=10, cached=1, completion=20)


@dataclass
class Failing(Till):
    """A payment whose ledger fails `failures` times; `kept`: the first failure was after the commit."""

    failures: int = 0
    kept: bool = False
    ids: list[str] = field(default_factory=list)

    def settle(self, usage: Usage) -> bool:
        if self.failures:
            self.failures -= 1
            if self.kept and not self.ids:
                self.ids.append(usage.id)
            raise LedgerError("the disk is full")
        if usage.id in self.ids:
            return False
        self.ids.append(usage.id)
        self.journal.append(usage)
        return True

    def release(self) -> None:
        if self.failures:
            self.failures -= 1
            raise LedgerError("the disk is full")
        super().release()


def run(stand: Stand, body: dict[str, Any], **options: Any) -> Answer:
    return asyncio.run(stand.post(body, **options))


def settled(stand: Stand) -> list[Any]:
    return [entry for entry in stand.journal if not isinstance(entry, tuple)]


def test_a_client_can_not_name_its_answer() -> None:
    for till in (None, Till([], affordable=50, priced=True)):
        engine = Engine([reply()])
        body = chat(request_id="mine", rid="mine", max_tokens=3)
        assert run(Stand(engine, till), body, headers=[(b"x-request-id", b"mine")]).status == 200
        assert engine.bodies == [chat(max_tokens=3)] and b"x-request-id" not in engine.seen[0]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_an_id_that_an_engine_repeats_is_neither_free_nor_signed(tmp_path: Path, stream: bool) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger = Ledger(database)
    Credits(ledger).grant("1", key_payer(KEY), 10**6)
    stand = Stand(streaming() if stream else Engine([reply()]))
    stand.use(replace(stand.parts, payment=Payment(ledger, PRICES, [Prepaid()])))
    answers = [run(stand, chat(stream=stream, max_tokens=9), headers=BEARER) for _ in range(3)]
    account = ledger.account(key_payer(KEY))
    assert account.reserved == 0 and len(stand.signatures) == 1
    if stream:
        # It has been sent: it is charged, under another name, and does not end as a whole one.
        assert account.spent == 3 * COST and ledger.totals()[0].responses == 3
        assert all(b"[DONE]" not in answer.body and b"server_error" in answer.body for answer in answers[1:])
    else:
        assert account.spent == COST and [answer.status for answer in answers] == [200, 502, 502]
    database.close()


@pytest.mark.parametrize("failures", [1, 2, 4])
@pytest.mark.parametrize("kept", [False, True], ids=["before the commit", "after it"])
def test_a_stream_at_whose_end_the_ledger_fails_is_charged_once_and_says_so(
        monkeypatch: pytest.MonkeyPatch, failures: int, kept: bool) -> None:
    monkeypatch.setattr(arrears, "FIRST_PAUSE", 0.001)
    stand = Stand(streaming(), Failing([], failures=failures, kept=kept))

    async def talk() -> Answer:
        answer = await stand.post(chat(stream=True))
        while len(stand.parts.arrears):
            await asyncio.sleep(0.001)
        return answer

    answer = asyncio.run(talk())
    assert b"[DONE]" not in answer.body and b'"type":"tier_unavailable"' in answer.body
    assert settled(stand) == ([] if kept else [Usage("chatcmpl-1", MODEL, 7, 2, 3)])
    assert len(stand.signatures) == 0


def test_a_json_answer_that_the_ledger_does_not_take_is_not_sent_and_free() -> None:
    stand = Stand(Engine([reply()]), Failing([], failures=1))
    assert run(stand, chat()).status == 503
    assert settled(stand) == ["released"]


def test_what_the_ledger_never_took_is_tried_at_the_end_and_named(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def write(number: int, failures: list[int]) -> None:
        if failures:
            failures.pop()
            raise LedgerError("no")
        done.append(number)

    async def talk() -> None:
        waiting = Arrears()
        for number, failures in ((1, [1]), (2, [1, 1])):
            await waiting.write(partial(write, number, failures))
        await waiting.aclose()

    asyncio.run(talk())
    assert done == [1] and "the end of 1 answers" in caplog.text


def test_who_leaves_while_the_end_is_written_is_charged_once() -> None:
    @dataclass
    class Slow(Till):
        def settle(self, usage: Usage) -> bool:
            assert stand.left is not None
            loops[0].call_soon_threadsafe(stand.left.set)
            return super().settle(usage)

    class Ending(Engine):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert (await receive())["type"] == "http.request"
            playing = asyncio.ensure_future(self._play(send))
            assert (await receive())["type"] == "http.disconnect"
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    async def talk() -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.wait_for(stand.post(chat(stream=True)), 5)

    loops: list[asyncio.AbstractEventLoop] = []
    stand = Stand(Ending(STREAM, "text/event-stream"), Slow([]))
    asyncio.run(talk())
    assert settled(stand) == [Usage("chatcmpl-1", MODEL, 7, 2, 3)]


def test_what_is_set_aside_is_renewed_while_an_answer_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "RENEW_SECONDS", 0.001)

    async def talk() -> None:
        gate = asyncio.Event()
        stand = Stand(streaming(STREAM[0], gate, *STREAM[1:]))
        asking = asyncio.ensure_future(stand.post(chat(stream=True)))
        while stand.journal.count("renewed") < 3:
            await asyncio.sleep(0.001)
        gate.set()
        assert (await asking).whole
        ended = len(stand.journal)
        await asyncio.sleep(0.02)
        assert len(stand.journal) == ended

    asyncio.run(talk())


@pytest.mark.parametrize(("given", "count"), [(3, 3), (4, 3), (9, 3)])
def test_a_stream_is_cut_where_it_is_paid_for(given: int, count: int) -> None:
    pieces = [piece("a") for _ in range(given)]
    stand = Stand(streaming(*pieces, *STREAM[2:]), Till([], affordable=3, priced=True))
    answer = run(stand, chat(stream=True))
    assert answer.body.count(b'"content":"a"') == count
    assert answer.whole == (given == count)
    if given > count:
        assert b"the length that is paid for" in answer.body
        assert settled(stand) == [Usage("chatcmpl-1", MODEL, 7, 0, 3)]


@pytest.mark.parametrize(("path", "field"), [
    ("/v1/chat/completions", name) for name in ("n_predict", "prompt", "documents", "chat_template", "use_beam_search")
] + [("/v1/completions", name) for name in ("n_predict", "messages", "suffix", "prompt_embeds", "echo")])
def test_what_is_not_counted_does_not_pass_where_it_is_paid(path: str, field: str) -> None:
    text = chat() if path == "/v1/chat/completions" else {"model": MODEL, "prompt": "Hi"}
    engine = Engine([reply()])
    answer = run(Stand(engine, Till([], affordable=9, priced=True)), {**text, field: 10**6}, path=path)
    assert answer.status == 400 and f"'{field}'" in answer.json()["error"]["message"] and engine.bodies == []
    assert run(Stand(engine, Till([], affordable=9, priced=True)), {**text, field: None}, path=path).status == 200
    assert engine.bodies == [{**text, "max_tokens": 9}]


def test_what_the_engine_of_ours_takes_passes() -> None:
    assert set(ChatBody.model_fields) <= CHAT and set(CompletionBody.model_fields) <= TEXT


def test_prompts_are_counted_by_the_endpoint() -> None:
    """A chat is its messages, whatever else stands in the body: the usage of a broken answer is reckoned from it."""
    asked: list[Any] = []

    class Counting(Engine):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def reading() -> Any:
                message = await receive()
                if scope["path"] == "/tokenize":
                    asked.append(orjson.loads(message["body"]))
                return message

            await super().__call__(scope, reading, send)

    for path, fields in (("/v1/chat/completions", {"prompt": [1]}), ("/v1/completions", {"messages": []})):
        body = {**chat(stream=True), **({} if "chat" in path else {"prompt": "Hi"}), **fields}
        run(Stand(Counting(STREAM[:1], "text/event-stream", ends=False)), body, path=path)
    assert asked == [chat(), {"model": MODEL, "prompt": "Hi"}]


@pytest.mark.parametrize("value", [1, 0, "true", [], {}, 1.0])
def test_stream_is_true_or_false(value: object) -> None:
    engine = Engine([reply()])
    answer = run(Stand(engine), chat(stream=value))
    assert answer.status == 400 and "stream" in answer.json()["error"]["message"] and engine.bodies == []


def test_an_engine_that_counts_more_than_could_be_foreseen_is_paid_from_what_is_left(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger = Ledger(database)
    Credits(ledger).grant("1", key_payer(KEY), 1000)
    usage = {**USAGE, "prompt_tokens": 60, "total_tokens": 63}
    stand = Stand(Engine([reply(usage=usage)], count=7))
    stand.use(replace(stand.parts, payment=Payment(ledger, PRICES, [Prepaid()])))
    assert run(stand, chat(max_tokens=3), headers=BEARER).status == 200
    assert ledger.account(key_payer(KEY)).spent == 58 * 10 + 2 * 1 + 3 * 20
    database.close()


def methods(stand: Stand, path: str, tried: Sequence[str]) -> list[int]:
    return [asyncio.run(stand.send(method, path)).status for method in tried]


def test_another_method_is_405_and_names_those_that_there_are() -> None:
    stand = Stand(Engine([reply()]))
    for path, allowed in (("/v1/chat/completions", b"POST"), ("/v1/models", b"GET"), ("/tokenize", b"POST"),
                          ("/v1/models/org/model", b"GET"), ("/v1/receipt/a", b"GET"), ("/metrics", b"GET")):
        for method in {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"} - {allowed.decode()}:
            answer = asyncio.run(stand.send(method, path))
            assert (answer.status, answer.headers[b"allow"]) == (405, allowed)
    assert methods(stand, "/none", ("GET", "HEAD", "OPTIONS")) == [404] * 3
