"""What one exchange comes to: charged and recorded once, then signed if its answer was whole.

An answer that broke off is charged for what was sent. Where the engine has not said how much that was, it is
counted: the prompt as the engine's tokenizer counts it, and one token for each piece of answer that was sent.

A ledger that fails loses nothing: the client hears of it, and the charge is kept and tried again (arrears.py). An
engine that gives one id to two answers gets nothing for free either: the second is charged under an id of the node's,
and neither signed nor ended.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nearfield.node.arrears import Arrears, Write
from nearfield.node.errors import NodeError
from nearfield.node.signing import SignatureStore, signed_text
from nearfield.node.usage import Usage, new_id, parse_usage

CountPrompt = Callable[[], Awaitable[int]]


class Authorised(Protocol):
    """What the client may spend (payment.Authorisation). Both calls write to the ledger, and end it; but `settle` of
    an id that is known changes nothing, and says False."""

    def settle(self, usage: Usage) -> bool: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Terms:
    """What is fixed before the engine is asked. most: tokens that all answers together may have; None: no bound."""

    model: str
    request_hash: str
    authorised: Authorised
    count_prompt: CountPrompt
    most: int | None = None


class Settlement:
    """Follows an answer (`saw`) and ends once, in `whole` or in `close`."""

    def __init__(self, terms: Terms, signatures: SignatureStore, arrears: Arrears) -> None:
        self._terms, self._signatures, self._arrears = terms, signatures, arrears
        self._id = ""
        self._usage: Usage | None = None
        self._pieces = 0
        self._held = self._ended = False
        self._settling: asyncio.Task[bool] | None = None

    def saw(self, chat_id: str, usage: dict[str, Any] | None, answers: int, *, held: bool = False) -> None:
        """Take note of a piece: its usage where it has one, and how many answers it carries text for.

        held: the piece is all there is, and leaves after `whole` only. Raises NodeError (502) for a piece that is
        beyond what may be sent, and for usage that can not be.
        """
        self._id = self._id or chat_id
        self._held = held
        if self._terms.most is not None and self._pieces + answers > self._terms.most:
            raise NodeError(502, "the engine went on beyond the length that is paid for; its answer is cut there")
        self._pieces += answers
        if usage is not None:
            self._usage = parse_usage(self._id, self._terms.model, usage)

    async def whole(self, response_hash: str) -> None:
        """Charge, record and sign. The last bytes may leave when this has returned.

        Raises:
            NodeError: 503, the ledger fails; 502, the id is another answer's. `close` does the rest.
        """
        if self._ended:
            return
        usage = self._usage or await self._counted()
        self._settling = asyncio.ensure_future(asyncio.to_thread(self._terms.authorised.settle, usage))
        # Whoever leaves now does not stop the write, and `close` waits for it.
        if not await asyncio.shield(self._settling):
            logging.getLogger("nearfield").error("the engine gave the id %r twice; its answer is not signed", self._id)
            raise NodeError(502, "the engine gave this answer the id of another, and it can not be signed")
        self._ended = True
        self._signatures.put(self._id, signed_text(self._terms.model, self._terms.request_hash, response_hash))

    async def close(self) -> None:
        """End what did not become whole: charge for what was sent, or let the reservation go."""
        if self._ended:
            return
        self._ended = True
        if (write := await self._rest()) is not None:
            await self._arrears.write(write)

    async def _rest(self) -> Write | None:
        """What is still to be written; None where `whole` has got so far."""
        known = failed = False
        if self._settling is not None:
            await asyncio.wait([self._settling])
            failed = self._settling.exception() is not None
            if not failed and self._settling.result():
                return None
            known = not failed
        if self._held or (self._usage is None and not self._pieces):
            return self._terms.authorised.release
        usage = self._usage or await self._counted()
        return _Charge(self._terms.authorised, replace(usage, id=new_id()) if known else usage, tried=failed)

    async def _counted(self) -> Usage:
        return Usage(self._id, self._terms.model, prompt_tokens=await self._terms.count_prompt(), cached_tokens=0,
                     completion_tokens=self._pieces)


class _Charge:
    """A charge that is tried until the ledger takes it. tried: whether an attempt has failed already."""

    def __init__(self, authorised: Authorised, usage: Usage, *, tried: bool) -> None:
        self._authorised, self._usage, self._tried = authorised, usage, tried

    def __call__(self) -> None:
        tried, self._tried = self._tried, True
        # After an attempt that failed it may be our own record that is known.
        if not self._authorised.settle(self._usage) and not tried:
            self._usage = replace(self._usage, id=new_id())
            self._authorised.settle(self._usage)
