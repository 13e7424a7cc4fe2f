"""One chat or completion: from the bytes of the request to the last byte of its answer.

Raw body, its hash, decryption, payment, a limit on what the engine may generate, the engine, and the way back
(answer.py). The engine reads what the node has read: the body is written anew, so that a key that stands twice
can not mean one thing here and another there.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearfield.node.answer import Answer, Outlet
from nearfield.node.errors import NodeError, no_model
from nearfield.node.ledger import RENEWAL
from nearfield.node.limits import LIMITS, Prompt, answers, capped, count_prompt, longest
from nearfield.node.parts import Allowance, Parts, Session
from nearfield.node.requested import passed_on
from nearfield.node.settlement import Settlement, Terms
from nearfield.node.wire import read_body, read_object, single_headers, unless

MAX_BODY = 40 << 20
"""Encryption doubles a text, in hexadecimal."""
LARGE = 64 << 10
"""Bodies above this are read and decrypted off the event loop: nobody should wait for another's megabytes."""
CARRIED = "near_headers"
"""Routers drop headers that they do not know and pass on fields that they do not know: this field holds headers."""
RECEIPT = ("x-receipt-nonce", "x-receipt-node-nonce", "x-receipt-event")
PRIVATE = ("authorization", "x-signing-algo", "x-client-pub-key", "x-encryption-version", "x-encrypt-all-fields",
           "x-model-pub-key", "x-payments-signature", "payment-signature")
CARRIABLE = frozenset({*RECEIPT, *PRIVATE} - {"authorization"})
# The engine has no business with the client's keys and payments, and a new body has another length.
# One who names the request could name the answer (requested.py).
NOT_SENT = frozenset({*PRIVATE, *RECEIPT, "x-request-id", "content-length", "transfer-encoding", "accept-encoding",
                      "expect"})


RENEW_SECONDS = RENEWAL
"""How often what is set aside for an answer is kept from lapsing: a slow reader is no reason to serve for nothing."""


@dataclass(frozen=True)
class Asked:
    """A request as the node has read it."""

    request_hash: str
    headers: dict[str, str]
    session: Session | None
    body: dict[str, Any]


@dataclass(frozen=True)
class Granted:
    """What may be spent on a request, its body with its answers limited to that, and how many tokens that are in all
    (None: no bound)."""

    allowance: Allowance
    body: dict[str, Any]
    tokens: int | None = None


class Exchange:
    """Serves one request. `run` raises NodeError when there is no answer, before a status is sent."""

    def __init__(self, engine: ASGIApp, parts: Parts) -> None:
        self._engine, self._parts = engine, parts

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        data = await read_body(receive, MAX_BODY)
        asked = await (asyncio.to_thread(self._read, scope, data) if len(data) > LARGE else self._now(scope, data))
        granted = await self._authorise(scope, asked)

        async def count() -> int:
            return (await count_prompt(self._engine, scope, asked.body)).tokens

        terms = Terms(self._parts.model, asked.request_hash, granted.allowance, count, granted.tokens)
        settlement = Settlement(terms, self._parts.signatures, self._parts.arrears)
        answer = Answer(Outlet(send, settlement, asked.session))
        renewing = asyncio.ensure_future(_renewed(granted.allowance))
        try:
            await self._ask(scope, receive, asked, granted.body, answer)
        except NodeError as error:
            await settlement.close()
            await answer.fail(error)
        finally:
            renewing.cancel()
            await settlement.close()

    async def _now(self, scope: Scope, data: bytes) -> Asked:
        return self._read(scope, data)

    def _read(self, scope: Scope, data: bytes) -> Asked:
        """Raises NodeError (400, 404)."""
        body = read_object(data)
        headers = single_headers(scope, (*PRIVATE, *RECEIPT))
        headers |= _carried(body.pop(CARRIED, {}), headers)
        session = self._parts.encryption.session(headers)
        if session is not None:
            if any(name in headers for name in RECEIPT):
                raise NodeError(400, "a receipt lists the answer's tokens in the clear; ask for receipts, or encrypt")
            body = session.open_request(body)
        if body.get("model") != self._parts.model:
            raise no_model(self._parts.model)
        if not isinstance(body.get("stream"), bool | None):
            # Engines that take 1 for true would stream what is counted as JSON.
            raise NodeError(400, "stream must be true or false")
        body = passed_on(body, scope["path"], priced=self._parts.payment.priced)
        return Asked(sha256(data).hexdigest(), headers, session, body)

    async def _authorise(self, scope: Scope, asked: Asked) -> Granted:
        """Raises NodeError (400, 401, 402, 503)."""
        payment, body = self._parts.payment, asked.body
        if body.get("stream") is True:
            options = body.get("stream_options")
            body = {**body, "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True}}
        if not payment.priced:
            return Granted(await payment.authorise(asked.headers, 0, None), body)
        wanted, many = longest(body), answers(body)
        prompt = await count_prompt(self._engine, scope, body)
        allowance = await payment.authorise(asked.headers, prompt.tokens, None if wanted is None else wanted * many)
        affordable = allowance.tokens_affordable(prompt.tokens)
        if affordable is None:
            return Granted(allowance, body)
        if affordable < many:
            await self._parts.arrears.write(allowance.release)
            raise NodeError(402, "what is authorised pays for the prompt at most, and for no token of an answer")
        return Granted(allowance, capped(body, affordable // many, _alone(prompt, body)), affordable)

    async def _ask(self, scope: Scope, receive: Receive, asked: Asked, body: dict[str, Any], answer: Answer) -> None:
        data = orjson.dumps(body)
        unread: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive_body() -> Message:
            return unread.pop() if unread else await receive()

        headers = [(name, value) for name, value in scope["headers"] if name.decode("latin-1") not in NOT_SENT]
        headers += [(name.encode(), asked.headers[name].encode("latin-1")) for name in RECEIPT if name in asked.headers]
        headers.append((b"content-length", str(len(data)).encode()))
        # The engine's receipts say so: who asked for a longer answer could not tell it from one that was cut short.
        held = any(body.get(name) != asked.body.get(name) for name in LIMITS)
        inner = {**scope, "headers": headers, "state": {**scope.get("state", {}), "held_by_payment": held}}
        await unless(answer.failed, self._engine(inner, receive_body, answer.take))
        if answer.failed.done():
            raise answer.failed.result()
        answer.check_whole()


async def _renewed(allowance: Allowance) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        with contextlib.suppress(NodeError):     # the ledger's, which has logged it
            await asyncio.to_thread(allowance.renew)


def _carried(given: object, headers: dict[str, str]) -> dict[str, str]:
    """The headers in the body's field. Raises NodeError (400)."""
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise NodeError(400, f"{CARRIED} must be an object of header names and their values")
    carried = {name.lower(): value.strip() for name, value in given.items()}
    if unknown := next((name for name in carried if name not in CARRIABLE), None):
        raise NodeError(400, f"{CARRIED}: {unknown[:64]!r} can not be given there; send it as a header")
    if twice := next((name for name in carried if name in headers), None):
        raise NodeError(400, f"the header {twice} stands in {CARRIED} too; send it once")
    if len(carried) != len(given) or not all(value.isascii() and value.isprintable() for value in carried.values()):
        raise NodeError(400, f"{CARRIED}: names stand once, and values are printable ASCII")
    return carried


def _alone(prompt: Prompt, body: dict[str, Any]) -> Prompt:
    """The size of one of many prompts, as far as the context is concerned: of many it is not known."""
    return prompt if isinstance(body.get("prompt"), str | None) else Prompt(prompt.tokens)
