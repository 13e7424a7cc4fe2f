"""What one exchange comes to: charged and recorded once, then signed if its answer was whole.

An answer that broke off is charged for what was delivered. Where the engine has not said how much that was, it is
counted: the prompt as the engine's tokenizer counts it, and one token for each piece of answer that left, which is
never more than the client has got.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from nearfield.node.signing import SignatureStore, signed_text
from nearfield.node.usage import Usage, parse_usage

CountPrompt = Callable[[], Awaitable[int]]


class Authorised(Protocol):
    """What the client may spend (payment.Authorisation). Both calls write to the ledger, and end it."""

    def settle(self, usage: Usage) -> bool: ...
    def release(self) -> None: ...


@dataclass(frozen=True)
class Terms:
    """What is fixed before the engine is asked."""

    model: str
    request_hash: str
    authorised: Authorised
    count_prompt: CountPrompt


class Settlement:
    """Follows an answer (`saw`) and ends once, in `whole` or in `close`."""

    def __init__(self, terms: Terms, signatures: SignatureStore) -> None:
        self._terms, self._signatures = terms, signatures
        self._id = ""
        self._usage: Usage | None = None
        self._pieces = 0
        self._ended = False

    def saw(self, chat_id: str, usage: dict[str, Any] | None, answers: int) -> None:
        """Take note of a piece: its usage where it has one, and how many answers it carries text for."""
        self._id = self._id or chat_id
        self._pieces += answers
        if usage is not None:
            self._usage = parse_usage(self._id, self._terms.model, usage)

    async def whole(self, response_hash: str) -> None:
        """Charge, record and sign. The last bytes may leave when this has returned."""
        if self._ended:
            return
        self._ended = True
        usage = self._usage or await self._counted()
        if not await asyncio.to_thread(self._terms.authorised.settle, usage):
            # An engine that gives an id twice: what is recorded under it is another answer.
            logging.getLogger("nearfield").error("the engine gave the id %r twice; its answer is not signed", self._id)
            return
        self._signatures.put(self._id, signed_text(self._terms.model, self._terms.request_hash, response_hash))

    async def close(self) -> None:
        """End what did not become whole: charge for what was delivered, or let the reservation go."""
        if self._ended:
            return
        self._ended = True
        if self._usage is None and not self._pieces:
            await asyncio.to_thread(self._terms.authorised.release)
            return
        usage = self._usage or await self._counted()
        await asyncio.to_thread(self._terms.authorised.settle, usage)

    async def _counted(self) -> Usage:
        return Usage(self._id, self._terms.model, prompt_tokens=await self._terms.count_prompt(), cached_tokens=0,
                     completion_tokens=self._pieces)
