"""An auditor at the client's side: it takes receipts with every answer, and computes some of them again.

Which ones is drawn after the receipt has been handed over, so a node can not tell when to be honest: of n answers that
it falsifies, all go unnoticed with probability (1 - fraction)^n. What it asks is for its caller to choose: a node that
knows an auditor by its questions is honest to it alone.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nearfield.core.errors import NearfieldError
from nearfield.proof.disclosure import Disclosure, read_receipts
from nearfield.proof.errors import ReceiptError
from nearfield.proof.keys import key_bytes, verify_signature
from nearfield.proof.receipt import LimitSource, Receipt
from nearfield.proof.verify import chain_fault

if TYPE_CHECKING:
    import httpx

_NONCE = re.compile(r"[0-9a-f]{64}")


class Refused(NearfieldError):
    """The node answers with another status than 200."""


@dataclass(frozen=True)
class Exchange:
    """A request, the bytes of its answer, the nonces of both sides, the Unix seconds between which the node had the
    request, and the receipts that it gave."""

    body: Mapping[str, Any]
    reply: bytes
    client_nonce: bytes
    node_nonce: bytes
    between: tuple[float, float]
    receipts: tuple[Disclosure, ...]


@dataclass
class Tally:
    """What an audit has seen so far. refused: requests that the node did not answer. held: answers that it says a
    payment cut short. faults: in words, each with the response's id."""

    responses: int = 0
    replayed: int = 0
    tokens: int = 0
    refused: int = 0
    held: int = 0
    faults: list[str] = field(default_factory=list)


class Auditor:
    """Asks a node over `http`; `replay` verifies an exchange against a model, and tells the faults.

    public_key: the node's, where it is known. `draw` gives numbers in [0, 1), unforeseeable ones unless given: an
    answer below `fraction` is replayed.
    """

    def __init__(self, http: "httpx.Client", replay: Callable[[Exchange], list[str]], fraction: float, *,
                 public_key: str | None = None, draw: Callable[[], float] | None = None) -> None:
        self._http, self._replay, self._fraction = http, replay, fraction
        self._key = None if public_key is None else key_bytes(public_key)
        self._draw = draw or secrets.SystemRandom().random
        self._last: Receipt | None = None
        self.tally = Tally()

    def ask(self, path: str, body: Mapping[str, Any]) -> None:
        """Send one request, take its receipts, and perhaps replay them; what is wrong is a fault of the tally.

        Raises Refused where the node does not answer, and NearfieldError where it can not be reached.
        """
        try:
            node_nonce = _nonce_of(self._send("GET", "/v1/receipt/nonce"))
            client_nonce, begin = secrets.token_bytes(32), time.time()
            headers = {"X-Receipt-Nonce": client_nonce.hex(), "X-Receipt-Node-Nonce": node_nonce.hex()}
            reply = self._send("POST", path, json=dict(body), headers=headers)
        except Refused:
            self.tally.refused += 1
            raise
        between, name = (begin, time.time()), "an answer without an id"
        self.tally.responses += 1
        try:
            name = _id_of(reply)
            receipts = tuple(read_receipts(self._send("GET", f"/v1/receipt/{quote(name, safe='')}")))
            found = self._inspect(Exchange(body, reply, client_nonce, node_nonce, between, receipts))
        except (ReceiptError, Refused) as error:
            found = [str(error)]
        self.tally.faults += [f"{name}: {fault}" for fault in found]

    def _inspect(self, exchange: Exchange) -> list[str]:
        found = self._seen(exchange)
        self.tally.held += sum(one.signed.receipt.limit_source is LimitSource.PAYMENT for one in exchange.receipts)
        if self._draw() < self._fraction:
            self.tally.replayed += 1
            self.tally.tokens += sum(len(one.output_ids) for one in exchange.receipts)
            found += self._replay(exchange)
        return list(dict.fromkeys(found))

    def _seen(self, exchange: Exchange) -> list[str]:
        """What can be seen of every answer without computing: who signed, for which request, and in one chain."""
        listed = [one.signed.receipt for one in exchange.receipts]
        fault = chain_fault([*([self._last] if self._last is not None else []), *listed])
        self._last = listed[-1]
        wrong = {
            "signature: the key in the receipt has not signed it":
                not all(verify_signature(one.signed) for one in exchange.receipts),
            "node: the receipt is of another key": any(self._key not in (None, one.public_key) for one in listed),
            "client nonce: is not that of the request": any(one.client_nonce != exchange.client_nonce
                                                            for one in listed),
            "node nonce: is not that of the request": any(one.node_nonce != exchange.node_nonce for one in listed),
            f"chain: {fault}": fault is not None}
        return [words for words, true in wrong.items() if true]

    def _send(self, method: str, path: str, **given: Any) -> bytes:
        import httpx

        try:
            response = self._http.request(method, path, **given)
        except httpx.HTTPError as error:
            raise NearfieldError(f"{method} {path}: the node can not be reached ({type(error).__name__})") from None
        if response.status_code != 200:
            raise Refused(f"{method} {path}: the node answers {response.status_code}: {response.text[:200]!a}")
        return response.content


def _nonce_of(data: bytes) -> bytes:
    try:
        nonce = json.loads(data)["nonce"]
    except (ValueError, LookupError, TypeError, RecursionError):
        nonce = None
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise Refused("GET /v1/receipt/nonce: the answer has no nonce of 64 hexadecimal digits")
    return bytes.fromhex(nonce)


def _id_of(reply: bytes) -> str:
    """The response's id, of its JSON or of its first event. Raises ReceiptError."""
    lines = (line.removeprefix(b"data:") for line in reply.splitlines() if line and not line.startswith(b":"))
    try:
        name = json.loads(next(lines, b""))["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        name = None
    if not isinstance(name, str) or not 0 < len(name) <= 128 or not name.isprintable():
        raise ReceiptError("reply: has no id by which its receipts could be asked for")
    return name
