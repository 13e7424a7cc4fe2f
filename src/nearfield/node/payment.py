"""Who pays for a request, and how much it may cost: money is set aside before the engine is asked.

Ways of paying are tried in order: vouchers of a payment channel, balances of API keys. Without any the node serves
free of charge and counts. What is set aside bounds the answer: generation stops when it is used up. Where an engine
counts more than could be foreseen (pictures in a prompt), the rest is taken from what the payer has left, if anything.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from nearfield.node.accounts import Account, key_payer
from nearfield.node.channel_book import ChannelBook
from nearfield.node.errors import NodeError
from nearfield.node.ledger import Ledger, Reservation
from nearfield.node.prices import Prices, Rate, dollars
from nearfield.node.usage import Usage
from nearfield.node.vouchers import HEADER as VOUCHER_HEADER

ANSWER_TOKENS = 16_384
"""What is set aside for where a request names no limit: all of a balance would leave nothing to the next request."""
MIN_KEY, MAX_KEY = 32, 256


class Method(Protocol):
    """A way of paying. rate: what its unit is worth; unit: its name; hint: how to pay, for the 402."""

    @property
    def rate(self) -> Rate: ...

    @property
    def unit(self) -> str: ...

    @property
    def hint(self) -> str: ...

    async def payer(self, headers: Mapping[str, str]) -> str | None:
        """Who pays in this way; None when the request does not say. Raises NodeError (400, 402, 503)."""

    def owed(self, account: Account, least: int) -> str:
        """What a payer does whose `account` has not the units, `least`, that a request needs."""


class Prepaid:
    """Balances of API keys: `Authorization: Bearer <key>`, topped up by x402 or by the operator."""

    rate = Rate(1, 1)
    unit = "nano-dollars"

    def __init__(self, top_ups: bool = True) -> None:
        """top_ups: whether the node sells them at /v1/credits."""
        how = "by POST /v1/credits" if top_ups else "through this node's operator"
        self.hint = f"top up the key in Authorization: Bearer {how}"

    async def payer(self, headers: Mapping[str, str]) -> str | None:
        return None if "authorization" not in headers else key_payer(bearer_key(headers))

    def owed(self, account: Account, least: int) -> str:
        return self.hint


class Vouchers:
    """Cumulative vouchers of a payment channel, in units of its token at a fixed rate."""

    unit = "units of the channel's token"
    hint = "sign a voucher for more, in X-Payments-Signature; GET /pc/state/{channel} says what is left"

    def __init__(self, book: ChannelBook, rate: Rate) -> None:
        self._book, self.rate = book, rate

    async def payer(self, headers: Mapping[str, str]) -> str | None:
        header = headers.get(VOUCHER_HEADER)
        return None if header is None else await self._book.take(header)

    def owed(self, account: Account, least: int) -> str:
        return f"sign a voucher for at least {account.spent + account.reserved + least} in all"


class Authorisation:
    """What one request may cost. It ends once, by `settle` or by `release`; both write to the ledger."""

    def __init__(self, ledger: Ledger, prices: Prices, rate: Rate, reservation: Reservation | None) -> None:
        self._ledger, self._prices, self._rate, self._reservation = ledger, prices, rate, reservation

    @property
    def max_cost_nano(self) -> int | None:
        """What is set aside, in nano-dollars; None: nobody pays."""
        return None if self._reservation is None else self._rate.to_nano(self._reservation.amount)

    def tokens_affordable(self, prompt_tokens: int) -> int | None:
        """How many tokens of answer are paid for after such a prompt; None: there is no bound."""
        if self.max_cost_nano is None:
            return None
        left = self.max_cost_nano - self._prices.bound(prompt_tokens, 0)
        if left < 0:
            return 0
        return left // self._prices.completion if self._prices.completion else None

    def settle(self, usage: Usage) -> bool:
        """Charge and record a response. False: its id was recorded before, and nothing is changed."""
        cost = self._prices.cost(usage)
        if self._reservation is None:
            return self._ledger.record(usage, cost)
        return self._ledger.record(usage, cost, self._reservation, self._rate.to_units(cost))

    def renew(self) -> None:
        """Keep what is set aside from lapsing. Raises LedgerError."""
        if self._reservation is not None:
            self._ledger.renew(self._reservation)

    def release(self) -> None:
        """End it uncharged."""
        if self._reservation is not None:
            self._ledger.release(self._reservation)


class Payment:
    """What requests cost here, and the ways of paying for them."""

    def __init__(self, ledger: Ledger, prices: Prices, methods: Sequence[Method] = ()) -> None:
        self._ledger, self._prices, self._methods = ledger, prices, tuple(methods)

    @property
    def priced(self) -> bool:
        """Whether anybody pays at all."""
        return bool(self._methods) and not self._prices.free

    async def authorise(self, headers: Mapping[str, str], prompt_tokens: int,
                        answer_tokens: int | None) -> Authorisation:
        """Set aside what such a request may cost; as much as there is, if that pays for the prompt and one token.

        Args:
            headers: by their names in lower case.
            prompt_tokens: at least as many as the prompt will be counted to have.
            answer_tokens: the most that the request asks for, all answers together; None: it does not say.

        Raises:
            NodeError: 402 that says what is owed; 400, a malformed key or voucher; 503, no ledger or no chain.
        """
        if not self.priced:
            return Authorisation(self._ledger, self._prices, Prepaid.rate, None)
        for method in self._methods:
            payer = await method.payer(headers)
            if payer is not None:
                return await asyncio.to_thread(self._reserve, method, payer, prompt_tokens, answer_tokens)
        hints = ", or ".join(method.hint for method in self._methods)
        raise NodeError(402, f"this node is paid for: {hints}. {self._price(prompt_tokens, answer_tokens)}")

    def _reserve(self, method: Method, payer: str, prompt_tokens: int, answer_tokens: int | None) -> Authorisation:
        least = method.rate.to_units(self._prices.bound(prompt_tokens, 1))
        most = method.rate.to_units(self._prices.bound(prompt_tokens, answer_tokens or ANSWER_TOKENS))
        reservation = self._ledger.reserve(payer, least, max(least, most))
        if reservation is None:
            account = self._ledger.account(payer)
            raise NodeError(402, f"{account.available} {method.unit} are left, and this request needs {least} at "
                                 f"least, and up to {max(least, most)}; {method.owed(account, least)}. "
                                 f"{self._price(prompt_tokens, answer_tokens)}")
        return Authorisation(self._ledger, self._prices, method.rate, reservation)

    def _price(self, prompt_tokens: int, answer_tokens: int | None) -> str:
        most = dollars(self._prices.bound(prompt_tokens, answer_tokens or ANSWER_TOKENS))
        return f"This request can cost up to {most} dollars. Prices: {self._prices}"


def bearer_key(headers: Mapping[str, str]) -> str:
    """The API key of a request. Raises NodeError: 401, there is none that could hold a balance."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not MIN_KEY <= len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        raise NodeError(401, f"send Authorization: Bearer and a key of {MIN_KEY} to {MAX_KEY} printable characters; "
                             "choose it at random, since whoever has it spends its balance")
    return key
