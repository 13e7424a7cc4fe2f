"""Where a node's evidence of a TEE comes from: dstack's socket inside a TDX machine, or nowhere.

A node without a TEE says so. It has empty fields where the evidence would be, so that clients can read its report and
refuse it, or go by its signatures and receipts; it never shows a quote that is not its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import orjson

from nearfield.node.errors import NodeError
from nearfield.node.keys import unhex
from nearfield.node.tdx import mr_config_id, read_quote, replay_rtmr3

DSTACK_SOCKET = Path("/var/run/dstack.sock")
_SECONDS = 20  # before the gateway, which waits 30, gives up


@dataclass(frozen=True)
class Evidence:
    """What a report says of the machine.

    Attributes:
        tee: "tdx", or "none".
        intel_quote: The quote in hex, or empty.
        event_log: What was measured at start, in order.
        info: dstack's description of the app, with `tcb_info.app_compose`.
    """

    tee: str
    intel_quote: str
    event_log: list[Any]
    info: dict[str, Any]


class EvidenceProvider(Protocol):
    """Obtains evidence that carries `report_data` (64 bytes). Raises NodeError (503) where it can not."""

    async def evidence(self, report_data: bytes) -> Evidence: ...


class NoEvidence:
    """No TEE, in so many words."""

    async def evidence(self, report_data: bytes) -> Evidence:
        """An empty quote, an empty log, no app: what the report's schema needs and nothing that could be believed."""
        return Evidence("none", "", [], {"tcb_info": {"app_compose": ""}})


class DstackEvidence:
    """The guest agent of dstack on its Unix socket, over HTTP (GetQuote and Info of its sdk/curl/api.md)."""

    def __init__(self, socket: Path = DSTACK_SOCKET) -> None:
        self._socket = socket

    async def evidence(self, report_data: bytes) -> Evidence:
        """A fresh quote. Evidence that any client would refuse is refused here, where the operator sees it.

        Raises:
            NodeError: 503, the socket does not answer, or what it answers does not hold together.
        """
        try:
            transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
            async with httpx.AsyncClient(transport=transport, base_url="http://dstack", timeout=_SECONDS) as client:
                quoted = await _ask(client, "/GetQuote", {"report_data": report_data.hex()})
                info = await _ask(client, "/Info", {})
        except (httpx.HTTPError, OSError) as error:
            raise NodeError(503, f"No evidence of the TEE: dstack's socket failed ({type(error).__name__}); "
                                 "is the guest agent running, and may the node open its socket?") from error
        except ValueError as error:
            raise NodeError(503, f"No evidence of the TEE: dstack's answer is malformed: {error}") from error
        try:
            return _checked(quoted, info, report_data)
        except ValueError as error:
            raise NodeError(503, f"No evidence of the TEE: dstack's answer does not hold together: {error}") from error


async def _ask(client: httpx.AsyncClient, path: str, body: dict[str, str]) -> dict[str, Any]:
    response = await client.post(path, json=body)
    response.raise_for_status()
    answer = orjson.loads(response.content)
    if not isinstance(answer, dict):
        raise ValueError(f"{path} is not an object")
    return answer


def _checked(quoted: dict[str, Any], info: dict[str, Any], report_data: bytes) -> Evidence:
    """The evidence, if it binds what was asked for. Raises ValueError naming what does not fit."""
    raw = unhex(quoted.get("quote"))
    if raw is None:
        raise ValueError("the quote is no hex")
    quote, event_log = read_quote(raw), _decoded(quoted.get("event_log"))
    tcb_info = _decoded(info.get("tcb_info"))
    app_compose = tcb_info.get("app_compose") if isinstance(tcb_info, dict) else None
    if quote.report_data != report_data:
        raise ValueError("the quote's report_data is not what was asked for")
    if replay_rtmr3(event_log) != quote.rtmr3:
        raise ValueError("the event log does not lead to the quote's RTMR3")
    if not isinstance(app_compose, str) or quote.mr_config_id[:33] != mr_config_id(app_compose):
        raise ValueError("the app's compose file is not the one in the quote's MRCONFIGID")
    return Evidence("tdx", raw.hex(), event_log, info)


def _decoded(value: Any) -> Any:
    """dstack sends some objects as strings of JSON."""
    return orjson.loads(value) if isinstance(value, str) else value
