"""From a node's home and options to a node that can serve: keys, ledger, payment, endpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from nearfield.node.attestation import Attester
from nearfield.node.config import NodeConfig
from nearfield.node.database import Database
from nearfield.node.encryption import Encryption
from nearfield.node.endpoints import Endpoint, Endpoints
from nearfield.node.evidence import DstackEvidence, NoEvidence
from nearfield.node.identity import Identity, load
from nearfield.node.ledger import Ledger
from nearfield.node.middleware import Node
from nearfield.node.parts import Keys, Parts
from nearfield.node.prices import Prices, dollars
from nearfield.node.routes import identity_endpoints, usage_endpoints
from nearfield.node.signing import SignatureStore
from nearfield.node.usage import Usage

LEDGER_FILE = "ledger.sqlite"


class Free:
    """Nothing is charged; what is used is recorded."""

    priced = False

    def __init__(self, ledger: Ledger, prices: Prices) -> None:
        self._ledger, self._prices = ledger, prices

    def authorise(self, headers: Mapping[str, str], prompt_tokens: int, answer_tokens: int | None) -> "Free":
        return self

    def tokens_affordable(self, prompt_tokens: int) -> int | None:
        return None

    def settle(self, usage: Usage) -> bool:
        return self._ledger.record(usage, self._prices.cost(usage))

    def release(self) -> None:
        return


@dataclass(frozen=True)
class OpenNode:
    """A node that is ready to stand before an engine. `close` it when the server has ended."""

    identity: Identity
    config: NodeConfig
    prices: Prices
    ledger: Ledger
    parts: Parts
    endpoints: Endpoints

    def front(self, engine: ASGIApp) -> Node:
        """The node before `engine`."""
        return Node(engine, self.parts, self.endpoints)

    def close(self) -> None:
        """Let go of the ledger."""
        self.ledger.database.close()


def open_ledger(home: Path, config: NodeConfig, node: str = "") -> Ledger:
    """The books of the node in `home`. Raises LedgerError."""
    url = config.ledger or f"sqlite:///{(home / LEDGER_FILE).absolute()}"
    return Ledger(Database(url), node=node, reports=config.usage_url is not None)


def open_node(home: Path, config: NodeConfig, model: str, keys: Keys) -> OpenNode:
    """The node whose keys are in `home`, serving `model`. Raises IdentityError, LedgerError, ConfigError."""
    identity, prices = load(home), config.prices.parsed()
    ledger = open_ledger(home, config, identity.account_id)
    ledger.start()
    signatures = SignatureStore(identity)
    provider = DstackEvidence(config.tee_socket) if config.tee == "dstack" else NoEvidence()
    parts = Parts(model, keys, Encryption(identity), Free(ledger, prices), signatures,
                  pricing(prices))
    table: list[Endpoint] = [
        *identity_endpoints(about(identity, config, model, prices), Attester(identity, model, provider), signatures),
        *usage_endpoints(ledger, identity)]
    return OpenNode(identity, config, prices, ledger, parts, Endpoints(table))


def pricing(prices: Prices) -> dict[str, str]:
    """Dollars per token, by the names that /v1/models has for them."""
    return {"prompt": dollars(prices.prompt), "completion": dollars(prices.completion),
            "input_cache_read": dollars(prices.cached)}


def about(identity: Identity, config: NodeConfig, model: str, prices: Prices) -> dict[str, Any]:
    """What anyone may know of a node."""
    return {"service": "nearfield node", "model": model, "account_id": identity.account_id,
            "public_key": identity.public_key, "tee": config.tee, "payment": config.payment,
            "pricing": pricing(prices)}
