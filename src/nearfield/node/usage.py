"""What one answer used, as the engine says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nearfield.node.errors import NodeError


@dataclass(frozen=True)
class Usage:
    """Tokens of one response. cached_tokens are among prompt_tokens."""

    id: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


def parse_usage(chat_id: str, model: str, body: Mapping[str, Any]) -> Usage:
    """Read OpenAI's usage object. Raises NodeError (502)."""
    details = body.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    counts = (body.get("prompt_tokens"), cached or 0, body.get("completion_tokens"))
    if not all(type(count) is int and 0 <= count < 2**53 for count in counts):
        raise NodeError(502, "the engine's usage is not a count of tokens")
    prompt, cached, completion = counts
    return Usage(chat_id, model, prompt, cached, completion)
