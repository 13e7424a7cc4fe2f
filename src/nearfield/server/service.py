"""What the endpoints share, and what they need from the floors below, as narrow protocols.

The engine's `Loaded` and `EngineLoop` have this shape; so have the doubles that the tests use.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nearfield.core.errors import ConfigError, NearfieldError
from nearfield.core.request import EngineStats, Output, Request, SamplingParams
from nearfield.core.types import RequestId, TokenId
from nearfield.proof.notary import Notary
from nearfield.server.errors import ApiError
from nearfield.server.metrics import Metrics

MAX_HEAVY = 2
"""Long texts tokenised at once: more would take the engine's cores, and the threads that others wait for."""

OnOutput = Callable[[Output | NearfieldError], None]


class Loop(Protocol):
    """The serving loop. `submit` raises as Engine.add does and calls back in the engine's thread."""

    @property
    def alive(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    def submit(self, request: Request, on_output: OnOutput) -> None: ...
    def cancel(self, request_id: RequestId) -> None: ...
    def drain(self, timeout: float | None) -> bool: ...
    def stop(self) -> None: ...
    def stats(self) -> EngineStats: ...


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]: ...
    def decode(self, ids: Sequence[TokenId], *, skip_special: bool = True) -> str: ...
    def token_bytes(self, token_id: TokenId) -> bytes: ...


class Template(Protocol):
    """A chat to ids; special tokens spelt in a message stay text."""

    def encode(self, tokenizer: Any, messages: Sequence[Mapping[str, Any]], *,
               tools: Sequence[Mapping[str, Any]] | None = None, add_generation_prompt: bool = True,
               variables: Mapping[str, Any] | None = None, at: float | None = None) -> list[int]: ...


class Limits(Protocol):
    """The engine's fixed figures."""

    @property
    def max_context(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


class Defaults(Protocol):
    """The sampling that the model's authors recommend."""

    def params(self, **given: Any) -> SamplingParams: ...


class Model(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> Limits: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def template(self) -> Template | None: ...
    @property
    def generation(self) -> Defaults: ...


@dataclass(frozen=True)
class Service:
    """One served model: read by every endpoint, changed by none.

    vocab_size: ids below it are both spelt by the tokenizer and known to the model's logits; an id in
    between would be computed and could not be written. heavy: held while a long text is tokenised.
    notary: what gives receipts, where this server is a node's.
    """

    name: str
    created: int
    tokenizer: Tokenizer
    template: Template | None
    defaults: Defaults
    max_context: int
    vocab_size: int
    loop: Loop
    metrics: Metrics
    heavy: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_HEAVY))
    notary: Notary | None = None

    def require_model(self, name: str) -> None:
        """Raises ApiError (404) when `name` is not what is served here."""
        if name != self.name:
            raise ApiError(404, f"no model {name[:128]!r} here; this server serves {self.name!r}",
                           param="model", code="model_not_found")


def make_service(loaded: Model, loop: Loop, *, name: str | None, created: int,
                 notary: Notary | None = None) -> Service:
    """Put the parts together. Raises ConfigError when the model has no tokenizer."""
    if loaded.tokenizer is None:
        raise ConfigError(f"{loaded.name} has no tokenizer; a server needs one")
    return Service(
        name=name or loaded.name, created=created, tokenizer=loaded.tokenizer, template=loaded.template,
        defaults=loaded.generation, max_context=loaded.engine.max_context,
        vocab_size=min(loaded.engine.vocab_size, loaded.tokenizer.vocab_size), loop=loop,
        metrics=Metrics(name or loaded.name, loop.stats), notary=notary)
