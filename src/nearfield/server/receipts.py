"""Receipts over HTTP: the headers that ask for one, and the endpoints that hand it out.

    X-Receipt-Nonce: <64 hex>        asks for receipts of the response's answers, under the client's nonce
    X-Receipt-Node-Nonce: <64 hex>   the node's nonce, which GET /v1/receipt/nonce gave before: good once
    X-Receipt-Event: 1               puts them into the stream too, in its last event before [DONE]
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nearfield.core.request import Output, Request
from nearfield.proof.nonces import NONCE_SECONDS
from nearfield.proof.notary import Notary, Witness
from nearfield.proof.receipt import LimitSource
from nearfield.server.errors import ApiError, Json, bad_request
from nearfield.server.prompt import Job
from nearfield.server.service import Service

CLIENT, NODE, EVENT = "X-Receipt-Nonce", "X-Receipt-Node-Nonce", "X-Receipt-Event"
_NONCE = re.compile(r"[0-9a-fA-F]{64}")


class Receipts(Protocol):
    """The receipts of one response: run `requests`, `add` what comes, `certify` before the last byte leaves."""

    @property
    def requests(self) -> Sequence[Request]:
        """What the engine shall run in place of the response's requests."""
        ...

    def add(self, index: int, output: Output) -> None:
        """What a step brought to answer `index`."""
        ...

    async def certify(self) -> list[dict[str, Any]]:
        """Sign them and put them where GET finds them; returns those that go into the stream."""
        ...


class NoReceipts:
    """The null twin: nobody asked."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def add(self, index: int, output: Output) -> None:
        return

    async def certify(self) -> list[dict[str, Any]]:
        return []


class AskedReceipts:
    """Receipts that a client asked for."""

    def __init__(self, notary: Notary, witness: Witness, job: Job, tenant: str, in_stream: bool) -> None:
        self._notary, self._witness, self._job = notary, witness, job
        self._tenant, self._in_stream = tenant, in_stream

    @property
    def requests(self) -> Sequence[Request]:
        return self._witness.requests

    def add(self, index: int, output: Output) -> None:
        self._witness.add(index, output)

    async def certify(self) -> list[dict[str, Any]]:
        job = self._job
        made = await asyncio.to_thread(self._notary.certify, self._witness, job.id, job.created, self._tenant)
        return [one.to_json() for one in made] if self._in_stream else []


def asked_receipts(notary: Notary | None, request: HttpRequest, job: Job) -> Receipts:
    """What the headers ask for. Raises ApiError (400) for headers that are malformed, or can not be served."""
    client, node, event = (_header(request, name) for name in (CLIENT, NODE, EVENT))
    if client is None:
        if node is not None or event is not None:
            raise bad_request(f"{NODE} and {EVENT} go with {CLIENT}", CLIENT)
        return NoReceipts(job.requests)
    if event not in (None, "1"):
        raise bad_request(f"{EVENT} must be 1, or left out", EVENT)
    mine = _nonce(CLIENT, client)
    theirs = None if node is None else _nonce(NODE, node)
    if notary is None:
        raise bad_request(f"this server gives no receipts; leave {CLIENT} out", CLIENT)
    if theirs is not None and not notary.nonces.use(theirs):
        raise bad_request(f"{NODE} was used, has expired, or is another node's; get one from /v1/receipt/nonce", NODE)
    # What stands in front, in this process, knows what is paid for: a NEAR node lowers max_tokens to that.
    limit = LimitSource.PAYMENT if getattr(request.state, "held_by_payment", False) else LimitSource.REQUEST
    witness = notary.witness(job.requests, mine, theirs, limit=limit)
    return AskedReceipts(notary, witness, job, request.state.tenant, event == "1")


async def nonce(service: Service, _request: HttpRequest) -> Response:
    """A nonce of this node, to be named in a request: good once, for a while."""
    value = _require(service).nonces.hand_out()
    return Json({"nonce": value.hex(), "expires_in": int(NONCE_SECONDS)}, headers={"Cache-Control": "no-store"})


async def receipt(service: Service, request: HttpRequest) -> Response:
    """The receipts of a response by its id."""
    name = request.path_params["id"]
    found = _require(service).find(name, request.state.tenant)
    if found is None:
        raise ApiError(404, "Receipt not found or expired")
    return Json({"id": name, "object": "receipts", "receipts": [one.to_json() for one in found]})


async def selftest(service: Service, _request: HttpRequest) -> Response:
    """The golden vector of the numeric profile, as this machine computed it at its start."""
    return Json(_require(service).selftest.body())


def _require(service: Service) -> Notary:
    if service.notary is None:
        raise ApiError(404, "this server gives no receipts: it is not a node's, or its engine has no numeric profile")
    return service.notary


def _header(request: HttpRequest, name: str) -> str | None:
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise bad_request(f"{name} must come once", name)
    return values[0] if values else None


def _nonce(name: str, value: str) -> bytes:
    if not _NONCE.fullmatch(value):
        raise bad_request(f"{name} must be 64 hexadecimal digits", name)
    return bytes.fromhex(value)
