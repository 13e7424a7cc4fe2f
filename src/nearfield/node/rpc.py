"""A NEAR node's JSON-RPC over HTTP, where every failure is one clear error.

py-near brings a client of its own; it logs errors and goes on, and its answers are not checked. An RPC node is not
ours: what it says is bounded in size, parsed strictly, and shown without control characters.
https://docs.near.org/api/rpc/introduction
"""

from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from nearfield.core.errors import ConfigError, NearfieldError

_LARGEST_ANSWER = 8 << 20  # bytes
_LONGEST_REASON = 300      # characters
_SHORTEST_KEY = 8          # characters: what is shorter in a URL's path is a word


class ChainError(NearfieldError):
    """The chain, or the RPC node that stands for it, did not do what was asked; the message says what and where.

    `cause` is the name that the RPC gives to its error, such as UNKNOWN_ACCESS_KEY, or "".
    """

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class Rpc:
    """An RPC endpoint. `place` is how errors name it: without path and credentials, which can hold an access key."""

    def __init__(self, url: str, *, timeout: float = 60.0, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Open nothing yet; `timeout` is in seconds, `transport` replaces the network.

        Raises:
            ConfigError: `url` is not an http or https URL.
        """
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname)
            self.place = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        except ValueError:
            valid = False
        if not valid:
            raise ConfigError("the RPC endpoint is not an http or https URL, such as https://rpc.testnet.near.org")
        self._url = url
        words = (*parts.path.split("/"), parts.query, parts.username, parts.password)
        self._private = [word for word in words if word and len(word) >= _SHORTEST_KEY]
        self._client = httpx.AsyncClient(timeout=timeout, transport=transport)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def request(self, method: str, params: Any) -> dict[str, Any]:
        """The result of an RPC method, which is an object for all methods that a node uses.

        Raises:
            ChainError: no answer came, or it is an error, or it is not JSON-RPC.
        """
        status, body = await self._post(method, params)
        try:
            answer = orjson.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ChainError(f"{method}: {self.place} answered HTTP {status} without a JSON object; try again, or "
                             "another RPC endpoint")
        if answer.get("error") is not None:
            raise self._fault(method, answer["error"])
        result = answer.get("result")
        if not isinstance(result, dict):
            raise ChainError(f"{method}: {self.place} answered HTTP {status} without a result; try another endpoint")
        if isinstance(result.get("error"), str):  # how some versions report a failed query
            raise ChainError(f"{method}: {clean(result['error'])}")
        return result

    async def _post(self, method: str, params: Any) -> tuple[int, bytes]:
        content = orjson.dumps({"jsonrpc": "2.0", "id": "nearfield", "method": method, "params": params})
        body = bytearray()
        try:
            async with self._client.stream("POST", self._url, content=content,
                                           headers={"Content-Type": "application/json"}) as response:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _LARGEST_ANSWER:
                        raise ChainError(f"{method}: the answer of {self.place} exceeds {_LARGEST_ANSWER} bytes")
                return response.status_code, bytes(body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The exception's text is left out: it can hold the URL.
            raise ChainError(f"{method}: no answer from {self.place} ({type(error).__name__}); check the RPC endpoint "
                             "and the network") from None

    def _fault(self, method: str, error: Any) -> ChainError:
        said = orjson.dumps(error)
        for word in self._private:     # an endpoint may quote the key that it was called with
            said = said.replace(word.encode(), b"...")
        error = orjson.loads(said)
        cause = error.get("cause") if isinstance(error, dict) else None
        name = str(cause.get("name", "")) if isinstance(cause, dict) else ""
        info = cause.get("info") if isinstance(cause, dict) else None
        data = error.get("data") if isinstance(error, dict) else None
        why = reason(info or data or error)
        return ChainError(f"{method}: {self.place} says {clean(name) or 'error'}: {why}", name)


def clean(text: str) -> str:
    """Foreign text as it can be shown: printable, and not long."""
    shown = "".join(character if character.isprintable() else " " for character in text[:_LONGEST_REASON + 1])
    return shown if len(shown) <= _LONGEST_REASON else shown[:_LONGEST_REASON] + "..."


def reason(value: Any) -> str:
    """What NEAR's nested error objects come down to, such as the message with which a contract panicked."""
    for _ in range(8):
        if isinstance(value, dict) and len(value) == 1:
            value = next(iter(value.values()))
        elif isinstance(value, dict) and "kind" in value:
            value = value["kind"]
        else:
            break
    try:
        return clean(value if isinstance(value, str) else orjson.dumps(value).decode())
    except (TypeError, ValueError):
        return "an error that is not JSON"
