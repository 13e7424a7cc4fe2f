"""A node's options: a TOML file, or the defaults, with which a node serves free of charge and says that it has no TEE.

    payment = "prepaid"
    [prices]
    prompt = "0.075"        # US dollars for a million tokens; text, so that no digit is lost
    completion = "0.25"
    cached = "0.015"

Secrets (tokens, keys) are not in it: it names files that hold them.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from nearfield.core.errors import ConfigError, nearest
from nearfield.node.prices import Prices

PaymentMode = Literal["free", "prepaid", "channel", "both"]
Tee = Literal["none", "dstack"]
Network = Literal["testnet", "mainnet"]
# Circle's, https://developers.circle.com/stablecoins/usdc-contract-addresses
USDC = MappingProxyType({
    "mainnet": "17208628f84f5d6ad33f0da3bbbeb27ffcb398eac501a31bd6ad2011e36133a1",
    "testnet": "3e2210e1184b45b64c8a434c0a7e7b23cc04ea7eb7a6c3c32520d03d4afcb8af",
})


@dataclass(frozen=True)
class PricesConfig:
    """US dollars for a million tokens of each kind, as decimal text. cached: of a prompt, found in the cache."""

    prompt: str = "0"
    completion: str = "0"
    cached: str | None = None

    def __post_init__(self) -> None:
        self.parsed()

    def parsed(self) -> Prices:
        """In nano-dollars per token. Raises ConfigError."""
        return Prices.from_dollars(self.prompt, self.completion, self.cached)


@dataclass(frozen=True)
class NodeConfig:
    """How a node serves.

    ledger: an SQLAlchemy URL (None: SQLite in the node's home). payment: for nothing, from balances of API keys, by
    vouchers of a payment channel, or by either. endpoint: the URL at which clients reach this node. usage_url,
    usage_token_file: where usage is posted, with which bearer token. network, rpc_url: the chain; registry,
    channels: accounts of the two contracts. nano_dollars_per_near: the price of a NEAR, for vouchers.
    facilitator_url, facilitator_key_file: top-ups by x402 in USDC; asset: its contract, where it is another.
    tee, tee_socket: what gives evidence.
    """

    ledger: str | None = None
    payment: PaymentMode = "free"
    prices: PricesConfig = PricesConfig()
    endpoint: str | None = None
    usage_url: str | None = None
    usage_token_file: Path | None = None
    network: Network = "testnet"
    rpc_url: str | None = None
    registry: str | None = None
    channels: str | None = None
    nano_dollars_per_near: int | None = None
    facilitator_url: str | None = None
    facilitator_key_file: Path | None = None
    asset: str | None = None
    tee: Tee = "none"
    tee_socket: Path = Path("/var/run/dstack.sock")

    def __post_init__(self) -> None:
        for name, kind in (("payment", PaymentMode), ("tee", Tee), ("network", Network)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if self.payment in ("channel", "both") and (self.channels is None or self.nano_dollars_per_near is None):
            raise ConfigError(f'payment = "{self.payment}" needs channels, the account of the channel contract, and '
                              "nano_dollars_per_near, the price of a NEAR")
        if self.payment != "free" and self.prices.parsed().free:
            raise ConfigError(f'payment = "{self.payment}" needs prices: give prompt and completion in [prices]')
        if self.facilitator_url is not None and self.payment not in ("prepaid", "both"):
            raise ConfigError(f'facilitator_url sells credit that payment = "{self.payment}" does not take: leave it '
                              'out, or set payment to "prepaid" or "both"')
        for name in ("endpoint", "usage_url", "rpc_url", "facilitator_url"):
            value = getattr(self, name)
            if value is not None and not value.startswith(("http://", "https://")):
                raise ConfigError(f"{name} must be an http:// or https:// URL")

    @property
    def usdc(self) -> str:
        """The contract of the dollars that top-ups are paid in."""
        return self.asset or USDC[self.network]


def read_config(file: Path | None) -> NodeConfig:
    """The options in `file`, the defaults without one. Raises ConfigError that names the file and the key."""
    if file is None:
        return NodeConfig()
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"can not read the node's options in {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None
    try:
        return parse_config(found)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def parse_config(found: Mapping[str, Any]) -> NodeConfig:
    """Options from a table. Raises ConfigError for a key that is unknown or has a value of another type."""
    options = _checked(found, NodeConfig)
    if "prices" in options:
        options["prices"] = PricesConfig(**_checked(options["prices"], PricesConfig, "prices."))
    return NodeConfig(**options)


def _checked(table: Mapping[str, Any], kind: type[NodeConfig] | type[PricesConfig], place: str = "") -> dict[str, Any]:
    types = {field.name: field.type for field in fields(kind)}
    options: dict[str, Any] = {}
    for name, value in table.items():
        if name not in types:
            raise ConfigError(f"unknown key {place + name!r}{nearest(name, types)}")
        wanted = int if types[name] == int | None else dict if types[name] is PricesConfig else str
        if type(value) is not wanted:
            words = {int: "a whole number", dict: "a table", str: "text, in quotes"}
            raise ConfigError(f"{place}{name} must be {words[wanted]}")
        options[name] = Path(str(value)).expanduser() if types[name] in (Path, Path | None) else value
    return options
