"""What one answer used, as the engine says it, and the node's signature under it.

A signed usage lets a client keep its own account, and shows a third party what the node says it has charged. The
signed text is `nearfield-usage-v1`, a line feed, and a JSON object in ASCII without spaces, its keys in the order of
the alphabet: cached_tokens, completion_tokens, cost_nano (nano-dollars, by the node's prices), created (Unix
seconds), id, model, prompt_tokens. The signature is ed25519 over the bytes of that text, not hashed before. The first
line keeps it apart from all else that the node's key signs.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from nearfield.node.errors import IdentityError, NodeError
from nearfield.node.keys import decode_key, encode_key

MAX_TOKENS = 1 << 28
"""Of a prompt or an answer: far beyond any context, and a response's cost fits 64 bits."""
MAX_TEXT = 256
_DOMAIN = "nearfield-usage-v1\n"


class Signer(Protocol):
    """An ed25519 key (identity.Identity); `public_key` is `ed25519:<base58>`."""

    @property
    def public_key(self) -> str: ...

    def sign(self, data: bytes) -> bytes: ...


@dataclass(frozen=True)
class Usage:
    """Tokens of one response; cached_tokens are among prompt_tokens. Raises NodeError (502) when they can not be."""

    id: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    def __post_init__(self) -> None:
        for name in ("id", "model"):
            if not _is_name(getattr(self, name)):
                raise NodeError(502, f"the engine's answer has no usable {name}: it needs 1 to {MAX_TEXT} "
                                     "printable characters")
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            if not _is_count(getattr(self, name)):
                raise NodeError(502, f"the engine's usage has no usable {name}: it must be a whole number "
                                     f"from 0 to {MAX_TOKENS}")
        if self.cached_tokens > self.prompt_tokens:
            raise NodeError(502, "the engine's usage counts more cached tokens than the prompt has")


@dataclass(frozen=True)
class Charge:
    """A response as it is in the books: its cost in nano-dollars, and Unix seconds."""

    usage: Usage
    cost_nano: int
    created: int


def new_id() -> str:
    """An id for an answer that has none of its own."""
    return f"chatcmpl-{uuid.uuid4().hex[:24]}"


def parse_usage(response_id: str, model: str, usage: Mapping[str, Any]) -> Usage:
    """The `usage` of an OpenAI response or of a stream's last chunk; one that says nothing of a cache had no hit.

    Raises:
        NodeError: 502, a count is missing, no whole number, negative, absurd, or contradicts another.
    """
    details = usage.get("prompt_tokens_details")
    if details is not None and not isinstance(details, Mapping):
        raise NodeError(502, "the engine's usage has prompt_tokens_details that are no object")
    cached = details.get("cached_tokens") if details else None
    counts = usage.get("prompt_tokens"), 0 if cached is None else cached, usage.get("completion_tokens")
    return Usage(response_id, model, *counts)  # type: ignore[arg-type]  # checked when made


def sign_usage(signer: Signer, charge: Charge) -> dict[str, str]:
    """What a node answers about a response: the text, its signature and the key, both `ed25519:<base58>`."""
    line = json.dumps({**asdict(charge.usage), "cost_nano": charge.cost_nano, "created": charge.created},
                      sort_keys=True, separators=(",", ":"))
    text = _DOMAIN + line
    return {"text": text, "signature": encode_key("ed25519", signer.sign(text.encode())),
            "public_key": signer.public_key}


def verify_usage(body: Mapping[str, Any], public_key: str) -> Charge:
    """The charge in what `sign_usage` gave, when the node with `public_key` has signed exactly that.

    Raises:
        NodeError: 400, malformed, not in the one form that is signed, or not signed by that key.
    """
    text = body.get("text")
    if not isinstance(text, str) or not text.startswith(_DOMAIN):
        raise NodeError(400, "signed usage: the text does not begin with nearfield-usage-v1")
    if body.get("public_key") != public_key:
        raise NodeError(400, "signed usage: the key is not the node's")
    try:
        signature = decode_key("ed25519", body.get("signature"))
        VerifyKey(decode_key("ed25519", public_key)).verify(text.encode(), signature)
    except (IdentityError, BadSignatureError, ValueError, TypeError):
        raise NodeError(400, "signed usage: the signature is not the node's") from None
    return _read(text.removeprefix(_DOMAIN))


def _read(line: str) -> Charge:
    try:
        found = json.loads(line)
        cost, created = found.pop("cost_nano"), found.pop("created")
        usage = Usage(**found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, NodeError):
        raise NodeError(400, "signed usage: the text is not a usage") from None
    if not all(type(value) is int and 0 <= value < 1 << 63 for value in (cost, created)):
        raise NodeError(400, "signed usage: the text is not a usage")
    return Charge(usage, cost, created)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKENS
