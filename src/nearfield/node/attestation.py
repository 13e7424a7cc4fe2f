"""The attestation report: which keys a node signs with, and what evidence there is that it runs in a TEE.

`GET /v1/attestation/report`, with the fields and the errors of NEAR AI's provider, and one more: `tee`, which is
"none" where there is none.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from nearfield.node.errors import NodeError
from nearfield.node.evidence import EvidenceProvider
from nearfield.node.identity import Algorithm, Identity
from nearfield.node.keys import unhex
from nearfield.node.signing import parse_algorithm
from nearfield.node.tdx import report_data

_TTL = 300  # seconds for which a report without the client's nonce is served again


class Attester:
    """Makes a node's reports."""

    def __init__(self, identity: Identity, model: str, provider: EvidenceProvider, *, spki: bytes | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """spki: SHA-256 (32 bytes) of the public key of the certificate that this node's TLS shows, if it has TLS."""
        self._identity, self._model, self._provider, self._spki = identity, model, provider, spki
        self._clock = clock
        self._cached: dict[tuple[Algorithm, bool], tuple[float, dict[str, Any]]] = {}

    async def report(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a query of signing_algo, nonce, signing_address, include_tls_fingerprint; not to be changed.

        Raises:
            NodeError: 400, a value is malformed; 404, another node's address; 503, the evidence can not be had.
        """
        algo = parse_algorithm(query.get("signing_algo"))
        asked = query.get("signing_address")
        if asked is not None and asked.lower() != self._identity.signing_address(algo):
            raise NodeError(404, "Signing address not found on this server")
        spki = self._spki if _flag(query, "include_tls_fingerprint") else None
        nonce = _nonce(query.get("nonce"))
        if nonce is not None:
            return _with_all(await self._make(algo, nonce, spki))
        key = algo, spki is not None
        expires, report = self._cached.get(key, (0.0, {}))
        if not report or self._clock() >= expires:
            report = await self._make(algo, secrets.token_bytes(32), spki)
            self._cached[key] = self._clock() + _TTL, report
        return _with_all(report)

    async def _make(self, algo: Algorithm, nonce: bytes, spki: bytes | None) -> dict[str, Any]:
        address = self._identity.address_bytes(algo)
        evidence = await self._provider.evidence(report_data(address, nonce, spki))
        report: dict[str, Any] = {
            "model_name": self._model,
            "signing_address": self._identity.signing_address(algo),
            "signing_algo": algo,
            "signing_public_key": self._identity.signing_public_key(algo).hex(),
            "request_nonce": nonce.hex(),
            "tee": evidence.tee,
            "intel_quote": evidence.intel_quote,
            "event_log": evidence.event_log,
            "info": evidence.info,
        }
        return report if spki is None else report | {"tls_cert_fingerprint": spki.hex()}


def _with_all(report: dict[str, Any]) -> dict[str, Any]:
    return report | {"all_attestations": [report]}


def _nonce(text: str | None) -> bytes | None:
    if text is None:
        return None
    nonce = unhex(text)
    if nonce is None:
        raise NodeError(400, "Nonce must be hex-encoded")
    if len(nonce) != 32:
        raise NodeError(400, "Nonce must be 32 bytes")
    return nonce


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise NodeError(400, f"{name} must be true or false")
    return value == "true"
