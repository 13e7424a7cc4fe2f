"""The errors a user can meet. Each message names the thing, the place and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class NearfieldError(Exception):
    """Base of all errors that Nearfield raises on purpose; anything else is a bug."""


class InvalidRequestError(NearfieldError):
    """The request can never be served as it is; the server answers 400.

    `param` is the name of the offending field, as the client wrote it, or None.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthError(InvalidRequestError):
    """Prompt and answer do not fit the context; the message holds both numbers."""


class QueueFullError(NearfieldError):
    """The engine has as many requests waiting as it takes; the server answers 503 with Retry-After."""


class EngineStoppedError(NearfieldError):
    """The engine is draining or has stopped; no new request is taken."""


class ModelError(NearfieldError):
    """A model folder, or a file in it, can not be used."""


class ConfigError(NearfieldError):
    """An option of the engine or the command line is wrong."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known name nearest to `name`, or an empty string."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.65)
    return f" (did you mean {found[0]!r}?)" if found else ""
