"""What binds a TDX quote of dstack to a node: what is put into it, and what a client recomputes from it.

Only the binding is here. Whether Intel signed a quote is for the client to check.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from nearfield.node.keys import unhex

_RUNTIME_EVENT = 0x08000001
_HEADER = bytes.fromhex("0400 0200 81000000")  # version 4, an ECDSA P-256 key, TDX
_BODY = 48  # where the TD report begins; its fields are at fixed places (Intel's TDX DCAP quoting library, A.3)


@dataclass(frozen=True)
class Quote:
    """The measurements of a quote that say whose it is: 48 bytes, 48, and 64."""

    mr_config_id: bytes
    rtmr3: bytes
    report_data: bytes


def read_quote(quote: bytes) -> Quote:
    """The fields of a quote (version 4).

    Raises:
        ValueError: it is not a TDX quote of that version.
    """
    if len(quote) < _BODY + 584 or not quote.startswith(_HEADER):
        raise ValueError("not a TDX quote of version 4")
    body = quote[_BODY:_BODY + 584]
    return Quote(mr_config_id=body[184:232], rtmr3=body[472:520], report_data=body[520:584])


def report_data(address: bytes, nonce: bytes, spki: bytes | None = None) -> bytes:
    """The 64 bytes that a quote carries for a signer and a nonce (32 bytes).

    Args:
        address: The signer's: 20 bytes or 32; padded to 32 with zeros at its end.
        spki: SHA-256 of the TLS certificate's public key, to be bound too: then their hash takes the address's place.
    """
    return (address.ljust(32, b"\0") if spki is None else hashlib.sha256(address + spki).digest()) + nonce


def mr_config_id(app_compose: str) -> bytes:
    """The first 33 bytes of MRCONFIGID for an app: a version, 1, and the hash of its compose file as it was read."""
    return b"\1" + hashlib.sha256(app_compose.encode()).digest()


def replay_rtmr3(event_log: Any) -> bytes:
    """RTMR3 as the log's events extend it from zero: 48 bytes. dstack's own events are hashed anew.

    Raises:
        ValueError: the log is not a list of such events, or an event's digest is not that of the event.
    """
    if not isinstance(event_log, list) or not all(isinstance(event, dict) for event in event_log):
        raise ValueError("an event log is a list of objects")
    register = bytes(48)
    for index, event in enumerate(event_log):
        if event.get("imr") == 3:
            register = hashlib.sha384(register + _digest(event, index)).digest()
    return register


def _digest(event: dict[str, Any], index: int) -> bytes:
    stated = unhex(event.get("digest", ""))
    if event.get("event_type") == _RUNTIME_EVENT:
        name, payload = event.get("event", ""), unhex(event.get("event_payload", ""))
        if not isinstance(name, str) or payload is None:
            raise ValueError(f"event {index}: its name is no string, or its payload no hex")
        parts = (_RUNTIME_EVENT.to_bytes(4, "little"), name.encode(), payload)
        digest = hashlib.sha384(b":".join(parts)).digest()
        if stated not in (b"", digest):
            raise ValueError(f"event {index}: its digest is not that of the event")
        return digest
    if stated is None or len(stated) != 48:
        raise ValueError(f"event {index}: its digest has not 48 bytes")
    return stated
