"""What a node answers when it can not serve: a status, and the error object that NEAR AI's clients read.

The types are those of NEAR AI's own provider: unauthorized, insufficient_credits (402), not_found, payload_too_large,
rate_limited (429), server_error, tier_unavailable (503). What is wrong with a request is its bad_request at the node's
own endpoints, and at OpenAI's invalid_request_error, as the engine behind the node says: one word for one endpoint.
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

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None,
                 kind: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})
        self._kind = kind

    @property
    def kind(self) -> str:
        """The error object's type; by the status where no other was given."""
        return self._kind or _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": None}}


def no_model(name: str) -> NodeError:
    """The refusal of any model but `name`."""
    return NodeError(404, f"no such model here; this node serves {name!r}")


class IdentityError(NearfieldError):
    """The node's keys can not be made, read or imported."""
