"""An x402 facilitator over HTTP: it checks a signed payment, and carries it to the chain.

`POST /verify` and `POST /settle` of x402 v2, with an API key in X-API-Key. An answer of 200 is the facilitator's
word; anything else, no answer included, leaves open what has become of the payment.
Source: x402-foundation/x402, specs/x402-specification-v2.md; fastnear/x402-near-facilitator, docs/openapi.yaml.
"""

from dataclasses import dataclass
from typing import Any

import httpx

from nearfield.core.errors import NearfieldError

SECONDS = 90.0
"""Settling waits for the chain's finality."""
# A settlement that is under way already says nothing about its end.
_OPEN_REASONS = frozenset({"duplicate_settlement", "settlement_in_progress"})


class UnknownOutcomeError(NearfieldError):
    """The facilitator has not said what became of a payment."""


@dataclass(frozen=True)
class Verdict:
    """What a facilitator says. reason: why not; transaction: the hash on the chain; payer: who signed, if it says."""

    good: bool
    reason: str = ""
    transaction: str = ""
    payer: str = ""


class Facilitator:
    """`url` of the facilitator; `api_key` authenticates the node there."""

    def __init__(self, client: httpx.AsyncClient, url: str, api_key: str | None = None) -> None:
        self._client, self._url = client, url.rstrip("/")
        self._headers = {} if api_key is None else {"X-API-Key": api_key}

    async def verify(self, request: bytes) -> Verdict:
        """Whether the payment could be settled now. Raises UnknownOutcomeError."""
        body = await self._post("verify", request)
        if not isinstance(body.get("isValid"), bool):
            raise UnknownOutcomeError("the facilitator's /verify did not say isValid")
        return Verdict(body["isValid"], _text(body, "invalidReason"), payer=_text(body, "payer"))

    async def settle(self, request: bytes, network: str) -> Verdict:
        """Make the payment; good only when it is final. Raises UnknownOutcomeError."""
        body = await self._post("settle", request)
        if not isinstance(body.get("success"), bool):
            raise UnknownOutcomeError("the facilitator's /settle did not say success")
        verdict = Verdict(body["success"], _text(body, "errorReason"), _text(body, "transaction"),
                          _text(body, "payer"))
        if verdict.reason in _OPEN_REASONS:
            raise UnknownOutcomeError("the facilitator is settling this payment already")
        if verdict.good and (body.get("network") != network or not verdict.transaction):
            raise UnknownOutcomeError("the facilitator's /settle names no transaction, or another network")
        return verdict

    async def _post(self, path: str, request: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", **self._headers}
        try:
            answer = await self._client.post(f"{self._url}/{path}", content=request, headers=headers, timeout=SECONDS)
            body = answer.json() if answer.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            raise UnknownOutcomeError(f"the facilitator's /{path} gave no answer ({type(error).__name__})") from None
        if not isinstance(body, dict):
            raise UnknownOutcomeError(f"the facilitator's /{path} answered {answer.status_code} without a verdict")
        return body


def _text(body: dict[str, Any], name: str) -> str:
    """A short printable text of an answer that is not ours, or an empty one."""
    value = body.get(name)
    return value if isinstance(value, str) and len(value) <= 200 and value.isprintable() else ""
