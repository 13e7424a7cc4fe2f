"""An auditor at the client's side: it takes receipts with every answer, and computes some of them again.

Which ones is drawn after the receipt has been handed over, so a node can not tell when to be honest: of n answers that
it falsifies, all go unnoticed with probability (1 - fraction)^n.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nearfield.core.errors import NearfieldError
from nearfield.proof.disclosure import Disclosure, read_receipts
from nearfield.proof.errors import ReceiptError
from nearfield.proof.keys import verify_signature
from nearfield.proof.receipt import Receipt
from nearfield.proof.report import Report
from nearfield.proof.verify import chain_fault

if TYPE_CHECKING:
    import httpx

_NONCE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Exchange:
    """A request, its answer, the nonces of both sides, and the receipts that the node gave for it."""

    body: Mapping[str, Any]
    reply: Mapping[str, Any]
    client_nonce: bytes
    node_nonce: bytes
    receipts: tuple[Disclosure, ...]


@dataclass
class Tally:
    """What an audit has seen so far. `faults`: in words, each with the response's id."""

    responses: int = 0
    replayed: int = 0
    tokens: int = 0
    faults: list[str] = field(default_factory=list)


class Auditor:
    """Asks a node over `http`; `replay` verifies an exchange against a model, answer by answer.

    `draw` gives numbers in [0, 1), unforeseeable ones unless given: an answer below `fraction` is replayed.
    """

    def __init__(self, http: "httpx.Client", replay: Callable[[Exchange], list[Report]], fraction: float, *,
                 draw: Callable[[], float] | None = None) -> None:
        self._http, self._replay, self._fraction = http, replay, fraction
        self._draw = draw or secrets.SystemRandom().random
        self._last: Receipt | None = None
        self.tally = Tally()

    def ask(self, path: str, body: Mapping[str, Any]) -> None:
        """Send one request, take its receipts, and perhaps replay them; what is wrong is a fault of the tally.

        Raises NearfieldError where the node does not answer as one does.
        """
        node_nonce = str(self._json("GET", "/v1/receipt/nonce").get("nonce"))
        if not _NONCE.fullmatch(node_nonce):
            raise ReceiptError("/v1/receipt/nonce: is not 64 hexadecimal digits")
        client_nonce = secrets.token_bytes(32)
        headers = {"X-Receipt-Nonce": client_nonce.hex(), "X-Receipt-Node-Nonce": node_nonce}
        reply = self._json("POST", path, json=dict(body), headers=headers)
        response_id = str(reply.get("id"))
        self.tally.responses += 1
        given = self._send("GET", f"/v1/receipt/{response_id}").content
        try:
            receipts = tuple(read_receipts(given))
            found = self._inspect(Exchange(body, reply, client_nonce, bytes.fromhex(node_nonce), receipts))
        except ReceiptError as error:
            found = [str(error)]
        self.tally.faults += [f"{response_id}: {fault}" for fault in found]

    def _inspect(self, exchange: Exchange) -> list[str]:
        found = self._chain(exchange)
        if self._draw() < self._fraction:
            self.tally.replayed += 1
            self.tally.tokens += sum(len(one.output_ids) for one in exchange.receipts)
            found += [f"{check.name}: {check.reason}" for report in self._replay(exchange)
                      for check in report.failures]
        return found

    def _chain(self, exchange: Exchange) -> list[str]:
        """What can be seen without computing: signatures, and that the receipts are of one chain."""
        listed = [one.signed.receipt for one in exchange.receipts]
        fault = chain_fault([*([self._last] if self._last is not None else []), *listed])
        self._last = listed[-1]
        unsigned = [one for one in exchange.receipts if not verify_signature(one.signed)]
        return [*(["signature: the key in the receipt has not signed it"] if unsigned else []),
                *([] if fault is None else [f"chain: {fault}"])]

    def _json(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        try:
            value = self._send(method, path, **given).json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ReceiptError(f"{method} {path}: the answer is not a JSON object")
        return value

    def _send(self, method: str, path: str, **given: Any) -> "httpx.Response":
        import httpx

        try:
            response = self._http.request(method, path, **given)
        except httpx.HTTPError as error:
            raise NearfieldError(f"{method} {path}: the node can not be reached ({type(error).__name__})") from None
        if response.status_code != 200:
            raise NearfieldError(f"{method} {path}: the node answers {response.status_code}: {response.text[:200]}")
        return response
