"""The node's own endpoints: who it is, what it signed, what evidence it has, what an answer cost."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nearfield.node.attestation import Attester
from nearfield.node.channel_book import ChannelBook
from nearfield.node.endpoints import Call, Endpoint, Reply
from nearfield.node.errors import NodeError
from nearfield.node.ledger import Ledger
from nearfield.node.signing import SignatureStore
from nearfield.node.usage import Signer, sign_usage
from nearfield.node.wire import read_object
from nearfield.node.x402 import HEADERS, TopUps

NO_STORE = (("Cache-Control", "no-store"),)


def identity_endpoints(about: dict[str, Any], attester: Attester, signatures: SignatureStore) -> Sequence[Endpoint]:
    """Signatures and attestation. about: what GET / says."""
    async def root(_call: Call) -> Reply:
        return Reply(about)

    async def healthz(_call: Call) -> Reply:
        return Reply({"status": "ok"})

    async def report(call: Call) -> Reply:
        return Reply(await attester.report(call.query), headers=dict(NO_STORE))

    async def signature(call: Call) -> Reply:
        return Reply(signatures.get(call.path["id"], call.query.get("signing_algo")).json(), headers=dict(NO_STORE))

    return (Endpoint("GET", "/", root), Endpoint("GET", "/healthz", healthz),
            Endpoint("GET", "/v1/attestation/report", report), Endpoint("GET", "/v1/signature/{id}", signature))


def usage_endpoints(ledger: Ledger, signer: Signer) -> Sequence[Endpoint]:
    """What an answer used and cost, signed."""
    async def usage(call: Call) -> Reply:
        name = call.path["id"]
        charge = await asyncio.to_thread(ledger.response, name) if name.isprintable() else None
        if charge is None:
            raise NodeError(404, "Chat id not found")
        return Reply({**asdict(charge.usage), "cost_nano": charge.cost_nano, "created": charge.created,
                      **sign_usage(signer, charge)}, headers=dict(NO_STORE))

    return (Endpoint("GET", "/v1/usage/{id}", usage),)


def channel_endpoints(book: ChannelBook) -> Sequence[Endpoint]:
    """The state of payment channels, by pay-per-prompt's paths."""
    async def state(call: Call) -> Reply:
        return Reply(await book.state(call.path["channel"]), headers=dict(NO_STORE))

    async def validate(call: Call) -> Reply:
        return Reply(await book.validate(read_object(call.body)), headers=dict(NO_STORE))

    return Endpoint("GET", "/pc/state/{channel}", state), Endpoint("POST", "/pc/validate", validate)


def credit_endpoints(top_ups: TopUps, public_url: str | None) -> Sequence[Endpoint]:
    """Top-ups by x402. public_url: what clients call this node, where it stands behind something else."""
    async def credit(call: Call) -> Reply:
        url = call.url if public_url is None else f"{public_url.rstrip('/')}/v1/credits"
        credited = await top_ups.post(call.headers, call.body, url)
        return Reply(credited.body, headers={**dict(NO_STORE), **credited.headers})

    return (Endpoint("POST", "/v1/credits", credit, HEADERS),)
