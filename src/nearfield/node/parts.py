"""What a node is made of, as the middleware needs it: the shapes of signing, encryption and payment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nearfield.node.answer import Sealer
from nearfield.node.arrears import Arrears
from nearfield.node.settlement import Authorised
from nearfield.node.signing import SignatureStore

Lines = Mapping[str, str]
"""Headers by their names in lower case."""


class Session(Sealer, Protocol):
    """The encryption of one request (encryption.Session)."""

    def open_request(self, body: dict[str, Any]) -> dict[str, Any]: ...


class Encryption(Protocol):
    """Reads the headers of encryption. Raises NodeError (400)."""

    def session(self, headers: Lines) -> Session | None: ...


class Allowance(Authorised, Protocol):
    """What a client may spend on one request."""

    def renew(self) -> None:
        """Keep it from lapsing. Raises NodeError (503)."""

    def tokens_affordable(self, prompt_tokens: int) -> int | None:
        """How many tokens of answer are paid for after such a prompt; None: there is no bound."""


class Payment(Protocol):
    """Who pays, and up to how much. `priced`: whether there is a bound at all, for which prompts are counted."""

    @property
    def priced(self) -> bool: ...

    async def authorise(self, headers: Lines, prompt_tokens: int, answer_tokens: int | None) -> Allowance:
        """Reserve what such a request may cost. Raises NodeError: 402 that says what is owed, 400, 401."""


class Keys(Protocol):
    """Who may come in (server.keys.KeyRing)."""

    def __bool__(self) -> bool: ...

    def tenant(self, authorization: bytes | None) -> str | None:
        """The tenant of an Authorization header; None when it opens nothing."""


@dataclass(frozen=True)
class Parts:
    """One node: read by every request, changed by none. pricing: dollars per token, as /v1/models shows them."""

    model: str
    keys: Keys
    encryption: Encryption
    payment: Payment
    signatures: SignatureStore
    pricing: Mapping[str, str]
    arrears: Arrears
