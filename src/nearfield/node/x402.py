"""`POST /v1/credits`: x402 v2, scheme `exact`, on NEAR, puts money on the API key that the request bears.

Without a payment the answer is 402, whose PAYMENT-REQUIRED says what to sign; the body may name an amount. With
PAYMENT-SIGNATURE, the facilitator verifies and settles, and what was paid is credited. The same signed payment may be
sent again at any time: it is credited once, and answered alike.

The order makes a crash harmless: what is about to be settled is written down first; after that only `settle` is asked
again, since a payment that was made no longer verifies.
Source: x402-foundation/x402, specs/transports-v2/http.md, specs/schemes/exact/scheme_exact_near.md.
"""

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from nearfield.core.errors import ConfigError
from nearfield.node.accounts import key_payer
from nearfield.node.credits import Credit, Credits
from nearfield.node.errors import NodeError
from nearfield.node.facilitator import Facilitator, UnknownOutcomeError, Verdict
from nearfield.node.ledger import Ledger
from nearfield.node.payment import bearer_key
from nearfield.node.prices import Rate, dollars

HEADERS = ("authorization", "payment-signature")
MAX_HEADER = 48 << 10
_AMOUNT = re.compile(r"[1-9][0-9]{0,37}")


@dataclass(frozen=True)
class TopUpConfig:
    """What is taken: a NEP-141 token, from `least` to `most` of its atomic units, `amount` where none is named.

    network: near:mainnet or near:testnet. asset, pay_to: accounts of the token's contract and of the node. rate: what
    the token is worth. timeout: seconds that a signed payment may take.
    """

    network: str
    asset: str
    pay_to: str
    rate: Rate = Rate(10**6, 10**9)
    amount: int = 1_000_000
    least: int = 10_000
    most: int = 1_000_000_000
    timeout: int = 60

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.amount <= self.most:
            raise ConfigError("top-ups: amount must lie between least and most, all above 0")


@dataclass(frozen=True)
class Credited:
    """The answer to a payment that was credited: the body, and the header that x402 asks for."""

    body: dict[str, Any]
    headers: dict[str, str]


class TopUps:
    """The endpoint, in front of a facilitator."""

    def __init__(self, config: TopUpConfig, ledger: Ledger, facilitator: Facilitator) -> None:
        self._config, self._ledger, self._facilitator = config, ledger, facilitator
        self._credits = Credits(ledger)
        self._settling: set[str] = set()

    async def post(self, headers: Mapping[str, str], body: bytes, url: str) -> Credited:
        """Answer one request to `url`; `headers` are HEADERS, by their names in lower case.

        Raises:
            NodeError: 401, no usable key; 402, nothing paid, with what to pay; 400, malformed; 503, it is not known
                whether the payment was made, and the same request should be sent again.
        """
        payer = key_payer(bearer_key(headers))
        header = headers.get("payment-signature")
        if header is None:
            raise self._required(url, _amount_of(body, self._config), "PAYMENT-SIGNATURE header is required")
        payload, amount = self._parse(header)
        credit_id = sha256(_action(payload)).hexdigest()
        if credit_id in self._settling:
            raise NodeError(402, "duplicate_settlement: this payment is being settled; wait for that answer")
        self._settling.add(credit_id)
        try:
            credit = await self._settle(credit_id, payer, amount, payload, url)
        finally:
            self._settling.discard(credit_id)
        left = (await asyncio.to_thread(self._ledger.account, payer)).available
        sums = {"credited_nano": credit.nano, "available_nano": left, "available_dollars": dollars(left)}
        return Credited(sums, {"PAYMENT-RESPONSE": _encode(json.loads(credit.answer))})

    async def recover(self) -> int:
        """Settle what was left open by a process that died. Returns how many payments were credited."""
        found = await asyncio.to_thread(self._credits.unsettled)
        credited = 0
        for credit in found:
            again = await asyncio.to_thread(self._credits.begin, credit.id, credit.payer, credit.nano, credit.request)
            try:
                verdict = await self._facilitator.settle(again.request.encode(), self._config.network)
            except UnknownOutcomeError as error:
                logging.getLogger("nearfield").error("payment %s is still open: %s", credit.id, error)
                continue
            credited += (await asyncio.to_thread(self._conclude, again, verdict)).state == "paid"
        return credited

    async def _settle(self, credit_id: str, payer: str, amount: int, payload: dict[str, Any], url: str) -> Credit:
        request = json.dumps({"x402Version": 2, "paymentPayload": payload, "paymentRequirements": payload["accepted"]})
        found = await asyncio.to_thread(self._credits.find, credit_id)
        if found is None or found.state == "failed":
            verdict = await self._asked(self._facilitator.verify(request.encode()))
            if not verdict.good:
                raise self._failed(url, amount, verdict)
        credit = await asyncio.to_thread(self._credits.begin, credit_id, payer,
                                         self._config.rate.to_nano(amount), request)
        if credit.payer != payer:
            raise NodeError(400, "this payment was made for another key; sign a new one")
        if credit.state == "paid":
            return credit
        verdict = await self._asked(self._facilitator.settle(credit.request.encode(), self._config.network))
        credit = await asyncio.to_thread(self._conclude, credit, verdict)
        if credit.state != "paid":
            raise self._failed(url, amount, verdict, credit)
        return credit

    def _conclude(self, credit: Credit, verdict: Verdict) -> Credit:
        answer = json.dumps(self._response(verdict))
        if verdict.good:
            return self._credits.paid(credit.id, answer)
        return self._credits.refused(credit.id, answer)

    async def _asked(self, call: Awaitable[Verdict]) -> Verdict:
        try:
            return await call
        except UnknownOutcomeError as error:
            logging.getLogger("nearfield").error("top-up: %s", error)
            raise NodeError(503, "the facilitator has not said what became of the payment; send the same request "
                                 "again: it is credited once", headers={"Retry-After": "10"}) from None

    def _parse(self, header: str) -> tuple[dict[str, Any], int]:
        """The payment, of which nothing is kept that is not checked, and its amount. Raises NodeError (400, 402)."""
        try:
            if len(header) > MAX_HEADER:
                raise ValueError
            found = json.loads(base64.b64decode(header, validate=True))
            version, accepted, payload = found["x402Version"], found["accepted"], found["payload"]
            amount, action = accepted["amount"], payload["signedDelegateAction"]
        except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
            raise NodeError(400, "PAYMENT-SIGNATURE must be base64 of x402's PaymentPayload in JSON, with "
                                 "accepted.amount and payload.signedDelegateAction") from None
        if version != 2 or type(version) is not int:
            raise NodeError(400, "PAYMENT-SIGNATURE: x402Version must be 2")
        if not isinstance(amount, str) or not _AMOUNT.fullmatch(amount):
            raise NodeError(400, "PAYMENT-SIGNATURE: accepted.amount must be a whole number, as text")
        offer = self._offer(_in_range(int(amount), self._config))
        if accepted.pop("extra", None) not in (None, {}) or accepted != offer:
            raise NodeError(400, "PAYMENT-SIGNATURE: accepted is not what PAYMENT-REQUIRED offers")
        kept = {"x402Version": 2, "accepted": offer, "payload": {"signedDelegateAction": action}}
        _action(kept)
        return kept, int(amount)

    def _offer(self, amount: int) -> dict[str, Any]:
        config = self._config
        return {"scheme": "exact", "network": config.network, "amount": str(amount), "asset": config.asset,
                "payTo": config.pay_to, "maxTimeoutSeconds": config.timeout}

    def _required(self, url: str, amount: int, error: str, headers: Mapping[str, str] | None = None) -> NodeError:
        required = {"x402Version": 2, "error": error, "accepts": [self._offer(amount)],
                    "resource": {"url": url, "description": "Credit for this node, on the key in Authorization",
                                 "mimeType": "application/json"}}
        worth = dollars(self._config.rate.to_nano(amount))
        message = f"{error}. {amount} units of {self._config.asset} pay for {worth} dollars of credit"
        return NodeError(402, message, headers={"PAYMENT-REQUIRED": _encode(required), **(headers or {})})

    def _failed(self, url: str, amount: int, verdict: Verdict, credit: Credit | None = None) -> NodeError:
        reason = verdict.reason or "the facilitator gives no reason"
        if credit is not None and credit.state == "disputed":
            reason += f"; an earlier attempt may have been paid: ask the node's operator about payment {credit.id}"
        response = self._response(Verdict(False, verdict.reason or "payment_failed"))
        return self._required(url, amount, f"the payment failed: {reason}", {"PAYMENT-RESPONSE": _encode(response)})

    def _response(self, verdict: Verdict) -> dict[str, Any]:
        response = {"success": verdict.good, "transaction": verdict.transaction, "network": self._config.network,
                    "errorReason": verdict.reason, "payer": verdict.payer}
        return {name: value for name, value in response.items() if value != "" or name == "transaction"}


def _action(payload: dict[str, Any]) -> bytes:
    """The bytes of the signed delegate action, whose hash is the payment's id. Raises NodeError (400)."""
    text = payload["payload"]["signedDelegateAction"]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise NodeError(400, "PAYMENT-SIGNATURE: signedDelegateAction must be base64, in its only form")
    return data


def _amount_of(body: bytes, config: TopUpConfig) -> int:
    """The amount that a request without a payment names. Raises NodeError (400)."""
    if not body:
        return config.amount
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise NodeError(400, "the body is not valid JSON") from None
    if not isinstance(found, dict) or found.keys() - {"amount"}:
        raise NodeError(400, "the body may say {\"amount\": \"<units of the token>\"} and no more")
    amount = found.get("amount", str(config.amount))
    if not isinstance(amount, str) or not _AMOUNT.fullmatch(amount):
        raise NodeError(400, "amount must be a whole number of the token's units, as text")
    return _in_range(int(amount), config)


def _in_range(amount: int, config: TopUpConfig) -> int:
    if not config.least <= amount <= config.most:
        raise NodeError(400, f"amount must be from {config.least} to {config.most} units of {config.asset}")
    return amount


def _encode(value: Mapping[str, Any]) -> str:
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()
