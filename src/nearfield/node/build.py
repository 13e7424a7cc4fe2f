"""From a node's home and options to a node that can serve: keys, ledger, payment, endpoints."""

from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from nearfield.core.errors import ConfigError
from nearfield.node.arrears import Arrears
from nearfield.node.attestation import Attester
from nearfield.node.background import Background, Job
from nearfield.node.chain import NEAR, Chain
from nearfield.node.channel_book import ChannelBook
from nearfield.node.channels import Channel, Party, fetch_channel
from nearfield.node.config import NodeConfig
from nearfield.node.database import Database
from nearfield.node.encryption import Encryption
from nearfield.node.endpoints import Endpoint, Endpoints
from nearfield.node.evidence import DstackEvidence, NoEvidence
from nearfield.node.facilitator import Facilitator
from nearfield.node.hold import Hold
from nearfield.node.identity import Identity, load
from nearfield.node.ledger import Ledger
from nearfield.node.middleware import Node
from nearfield.node.parts import Keys, Parts
from nearfield.node.payment import Method, Payment, Prepaid, Vouchers
from nearfield.node.prices import Prices, Rate, dollars
from nearfield.node.report import Reporter
from nearfield.node.routes import channel_endpoints, credit_endpoints, identity_endpoints, usage_endpoints
from nearfield.node.signing import SignatureStore
from nearfield.node.x402 import TopUpConfig, TopUps

LEDGER_FILE = "ledger.sqlite"


@dataclass(frozen=True)
class OpenNode:
    """A node that is ready to stand before an engine.

    When the server ends, `aclose` it in the server's event loop, where its connections are, and then `close` it.
    """

    identity: Identity
    config: NodeConfig
    prices: Prices
    ledger: Ledger
    parts: Parts
    endpoints: Endpoints
    background: Background
    connections: AsyncExitStack
    resources: ExitStack

    def front(self, engine: ASGIApp) -> Node:
        """The node before `engine`."""
        return Node(engine, self.parts, self.endpoints)

    async def aclose(self) -> None:
        """Write what the ledger has not taken yet, and close the connections to chain and facilitator."""
        await self.parts.arrears.aclose()
        await self.connections.aclose()

    def close(self) -> None:
        """End the work in the background, and let go of the ledger and the home."""
        self.background.close()
        self.resources.close()


def open_ledger(home: Path, config: NodeConfig, node: str = "") -> Ledger:
    """The books of the node in `home`, for one that serves. Raises LedgerError."""
    return Ledger(Database(_ledger_url(home, config)), node=node, reports=config.usage_url is not None)


def read_ledger(home: Path, config: NodeConfig) -> Ledger:
    """The same for a look at them. Raises LedgerError: NoLedgerError where there are none yet."""
    return Ledger(Database(_ledger_url(home, config), make=False))


def _ledger_url(home: Path, config: NodeConfig) -> str:
    return config.ledger or f"sqlite:///{(home / LEDGER_FILE).absolute()}"


def open_node(home: Path, config: NodeConfig, model: str, keys: Keys) -> OpenNode:
    """The node whose keys are in `home`, serving `model`. Raises IdentityError, LedgerError, ConfigError."""
    identity = load(home)
    with ExitStack() as opened:
        opened.callback(Hold(home).close)
        ledger = open_ledger(home, config, identity.public_key)
        opened.callback(ledger.database.close)
        ledger.start()
        return _node(identity, config, model, keys, ledger, opened)


def _node(identity: Identity, config: NodeConfig, model: str, keys: Keys, ledger: Ledger,
          opened: ExitStack) -> OpenNode:
    """The parts put together. `opened` is the node's when nothing fails."""
    prices = config.prices.parsed()
    jobs: list[Job] = []
    connections = AsyncExitStack()
    signatures = SignatureStore(identity)
    provider = DstackEvidence(config.tee_socket) if config.tee == "dstack" else NoEvidence()
    table: list[Endpoint] = [
        *identity_endpoints(about(identity, config, model, prices), Attester(identity, model, provider), signatures),
        *usage_endpoints(ledger, identity)]
    methods: list[Method] = []
    if config.payment in ("channel", "both"):
        book, rate = _channels(ledger, config, identity, connections)
        methods.append(Vouchers(book, rate))
        table.extend(channel_endpoints(book))
    if config.payment in ("prepaid", "both"):
        methods.append(Prepaid(config.facilitator_url is not None))
    if config.facilitator_url is not None:
        top_ups, recover = _top_ups(ledger, config, identity, config.facilitator_url, connections)
        table.extend(credit_endpoints(top_ups, config.endpoint))
        jobs.append(recover)
    if config.usage_url is not None:
        jobs.append(_reports(ledger, config.usage_url, config.usage_token_file))
    parts = Parts(model, keys, Encryption(identity), Payment(ledger, prices, methods), signatures, pricing(prices),
                  Arrears())
    return OpenNode(identity, config, prices, ledger, parts, Endpoints(table), Background(*jobs), connections,
                    opened.pop_all())


def pricing(prices: Prices) -> dict[str, str]:
    """Dollars per token, by the names that /v1/models has for them."""
    return {"prompt": dollars(prices.prompt), "completion": dollars(prices.completion),
            "input_cache_read": dollars(prices.cached)}


def about(identity: Identity, config: NodeConfig, model: str, prices: Prices) -> dict[str, Any]:
    """What anyone may know of a node."""
    return {"service": "nearfield node", "model": model, "account_id": identity.account_id,
            "public_key": identity.public_key, "tee": config.tee, "payment": config.payment,
            "pricing": pricing(prices)}


def _channels(ledger: Ledger, config: NodeConfig, identity: Identity,
              connections: AsyncExitStack) -> tuple[ChannelBook, Rate]:
    """The channels that pay this node, and what their token, NEAR, is worth."""
    if config.channels is None or config.nano_dollars_per_near is None:
        raise ConfigError("a payment channel needs its contract and the price of a NEAR")     # config.py has said so
    contract, chain = config.channels, Chain(config.network, config.rpc_url)
    connections.push_async_exit(chain)

    async def fetch(channel_id: str) -> Channel | None:
        return await fetch_channel(chain, contract, channel_id)

    receiver = Party(identity.account_id, identity.public_key)
    return ChannelBook(ledger, fetch, receiver), Rate(NEAR, config.nano_dollars_per_near)


def _top_ups(ledger: Ledger, config: NodeConfig, identity: Identity, url: str,
             connections: AsyncExitStack) -> tuple[TopUps, Job]:
    """The endpoint's logic, and the job that settles what was left open."""
    key = None if config.facilitator_key_file is None else read_secret(config.facilitator_key_file)
    options = TopUpConfig(f"near:{config.network}", config.usdc, identity.account_id)

    def over(client: httpx.AsyncClient) -> TopUps:
        return TopUps(options, ledger, Facilitator(client, url, key))

    client = httpx.AsyncClient(trust_env=False)
    connections.push_async_callback(client.aclose)
    return over(client), lambda client: over(client).recover()


def _reports(ledger: Ledger, url: str, token_file: Path | None) -> Job:
    token = "" if token_file is None else read_secret(token_file)
    return lambda client: Reporter(ledger, client, url, token).run()


def read_secret(file: Path) -> str:
    """The one line of a file that holds a token. Raises ConfigError."""
    try:
        text = file.read_text("ascii").strip()
    except OSError as error:
        raise ConfigError(f"can not read the token in {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or " " in text:
        raise ConfigError(f"{file} does not hold a token: one line of printable characters without spaces")
    return text
