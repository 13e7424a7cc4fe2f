"""What a node answers when it can not serve: a status, and the error object that NEAR AI's clients read.

The types are those of NEAR AI's own provider: unauthorized, insufficient_credits (402), not_found, payload_too_large,
rate_limited (429), server_error, tier_unavailable (503); but what is wrong with a request is OpenAI's
invalid_request_error, as the engine behind the node calls it, and not bad_request: a client sees one word for it.
"""

from collections.abc import Mapping
from typing import Any

from nearfield.core.errors import NearfieldError

_TYPES = {401: "unauthorized", 402: "insufficient_credits", 404: "not_found",
          413: "payload_too_large", 429: "rate_limited", 503: "tier_unavailable"}


class NodeError(NearfieldError):
    """A request that the node refuses: HTTP status, message, and headers of the answer.

    The message may reach a client: it names the header or field and the remedy, never key material.
    """

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": None}}


def no_model(name: str) -> NodeError:
    """The refusal of any model but `name`."""
    return NodeError(404, f"no such model here; this node serves {name!r}")


class IdentityError(NearfieldError):
    """The node's keys can not be made, read or imported."""
