"""The registry contract: what a node publishes of itself, and what anyone reads of all nodes.

The contract checks sizes and who signed, nothing else. So an entry that is read is untrusted: it is validated here as
strictly as one that is written, and one that is wrong is left out with a reason and harms no other.
contracts/assembly/registry.ts is the other side.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nearfield.core.errors import ConfigError
from nearfield.node.chain import STORAGE_PRICE, Chain, Plan
from nearfield.node.errors import IdentityError
from nearfield.node.keys import check_account, decode_key
from nearfield.node.rpc import ChainError, clean

_TEXT = re.compile(r'[ !#-\[\]-~]+')  # printable ASCII but " and \, which the contract would have to escape
_AMOUNT = re.compile(r"0|[1-9][0-9]{0,38}")
_MAX_ENDPOINT, _MAX_NAME, _MAX_PROFILE, _MAX_HARDWARE, _MAX_MODELS = 200, 128, 64, 200, 32
_PAGE = 50            # entries that the contract gives at once
_MOST = 1000          # entries that are read: anyone can enter
_RECORD_BYTES = 500   # what an entry stores beside its arguments, at most: account, key, time, index
_OFFER_FIELDS = frozenset(("name", "prompt", "cached", "completion"))
_AGENT_FIELDS = frozenset(("account_id", "public_key", "endpoint", "models", "profile", "hardware", "updated_ms"))


@dataclass(frozen=True)
class Offer:
    """A model and its prices, in nano-dollars for 1,000,000 tokens: of the prompt, of its cached part, of answers."""

    name: str
    prompt: int
    cached: int
    completion: int

    def __post_init__(self) -> None:
        _check_text("a model's name", self.name, _MAX_NAME)
        for what in ("prompt", "cached", "completion"):
            if not 0 <= getattr(self, what) < 2**128:
                raise ConfigError(f"{self.name}: the {what} price must be 0 or more nano-dollars for 1,000,000 tokens")


@dataclass(frozen=True)
class Registration:
    """What a node publishes. `endpoint` is the root of its HTTP API, `profile` its arithmetic (such as cpu-w4a8-v2).

    Raises:
        ConfigError: a field is empty, too long or not what the registry takes; the message names it.
    """

    endpoint: str
    models: tuple[Offer, ...]
    profile: str
    hardware: str

    def __post_init__(self) -> None:
        _check_endpoint(self.endpoint)
        _check_text("profile", self.profile, _MAX_PROFILE)
        _check_text("hardware", self.hardware, _MAX_HARDWARE)
        if not 1 <= len(self.models) <= _MAX_MODELS:
            raise ConfigError(f"models: {len(self.models)} of them; a node registers 1 to {_MAX_MODELS}")
        names = [offer.name for offer in self.models]
        if len(set(names)) != len(names):
            raise ConfigError("models: a name comes twice")

    def as_args(self) -> dict[str, Any]:
        """The arguments of the contract's `register` and `update`; prices are strings, as they exceed 53 bits."""
        models = [{"name": offer.name, "prompt": str(offer.prompt), "cached": str(offer.cached),
                   "completion": str(offer.completion)} for offer in self.models]
        return {"endpoint": self.endpoint, "models": models, "profile": self.profile, "hardware": self.hardware}


@dataclass(frozen=True)
class Agent:
    """An entry of the registry.

    `public_key` (`ed25519:<base58>`) signed the entry as a key of the account: the node's signatures are checked with
    it. `updated_ms` is the block's time, in milliseconds since 1970.
    """

    account_id: str
    public_key: str
    registration: Registration
    updated_ms: int


@dataclass(frozen=True)
class Discovery:
    """The entries that are valid, and for each other one a line that says why it is not."""

    agents: tuple[Agent, ...]
    skipped: tuple[str, ...]


async def plan_registration(chain: Chain, contract: str, registration: Registration) -> Plan:
    """The call that enters the node, or replaces its entry; `Chain.send` sends it.

    The deposit is the most that the storage can cost; the contract sends back what is over.

    Raises:
        ChainError: the registry can not be read.
        ConfigError: there are no keys, or `contract` is not an account id.
    """
    account = chain.plan(contract, "register", {}).signer_id
    entered = await chain.view(contract, "get_agent", {"account_id": account}) is not None
    args = registration.as_args()
    size = len(chain.plan(contract, "register", args).args)
    deposit = (size + _RECORD_BYTES) * STORAGE_PRICE
    return chain.plan(contract, "update" if entered else "register", args, deposit=deposit)


def plan_removal(chain: Chain, contract: str) -> Plan:
    """The call that takes the node's entry out; the contract pays its deposit back."""
    return chain.plan(contract, "remove", {})


async def register(chain: Chain, contract: str, registration: Registration, *, dry_run: bool) -> Plan:
    """Publish the node, or with `dry_run` only say what would be signed, which is what is returned in both cases.

    Raises:
        ChainError: the registry can not be read, or the call failed.
    """
    plan = await plan_registration(chain, contract, registration)
    if not dry_run:
        await chain.send(plan)
    return plan


async def discover(chain: Chain, contract: str) -> Discovery:
    """All nodes of the registry, at most the first 1000.

    Raises:
        ChainError: the registry can not be read.
    """
    agents: dict[str, Agent] = {}  # by account: who leaves between two pages moves another, which is then read twice
    skipped = []
    for start in range(0, _MOST, _PAGE):
        page = await chain.view(contract, "get_agents", {"from_index": start, "limit": _PAGE})
        if not isinstance(page, list):
            raise ChainError(f"get_agents of {contract} did not answer a list; is it a registry?")
        for index, entry in enumerate(page[:_PAGE], start):
            try:
                agent = parse_agent(entry)
                agents[agent.account_id] = agent
            except (ConfigError, IdentityError) as error:
                skipped.append(f"entry {index}: {clean(str(error))}")
        if len(page) < _PAGE:
            break
    return Discovery(tuple(agents.values()), tuple(skipped))


def parse_agent(entry: object) -> Agent:
    """An entry as the contract gives it.

    Raises:
        ConfigError, IdentityError: it is not valid; the message says what is wrong with it.
    """
    found = _members("an entry", entry, _AGENT_FIELDS)
    account = check_account(found["account_id"])
    if len(decode_key("ed25519", found["public_key"])) != 32:
        raise ConfigError(f"{account}: public_key has not 32 bytes")
    models, updated = found["models"], found["updated_ms"]
    if not isinstance(models, list):
        raise ConfigError(f"{account}: models is not a list")
    if type(updated) is not int or updated < 0:
        raise ConfigError(f"{account}: updated_ms is not a time")
    try:
        registration = Registration(found["endpoint"], tuple(map(_offer, models)), found["profile"], found["hardware"])
    except ConfigError as error:
        raise ConfigError(f"{account}: {error}") from None
    return Agent(account, found["public_key"], registration, updated)


def _offer(value: object) -> Offer:
    found = _members("a model", value, _OFFER_FIELDS)
    return Offer(found["name"], *(_amount(what, found[what]) for what in ("prompt", "cached", "completion")))


def _members(what: str, value: object, names: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise ConfigError(f"{what} is not an object of {', '.join(sorted(names))}")
    return value


def _amount(what: str, value: object) -> int:
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        raise ConfigError(f"{what} is not a string of decimal digits")
    return int(value)


def _check_text(what: str, value: object, limit: int) -> None:
    if not isinstance(value, str) or len(value) > limit or not _TEXT.fullmatch(value):
        raise ConfigError(f"{what}: 1 to {limit} printable ASCII characters other than \" and \\ are expected")


def _check_endpoint(url: object) -> None:
    _check_text("endpoint", url, _MAX_ENDPOINT)
    try:
        parts = urlsplit(str(url))
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or " " in str(url) or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("endpoint: an http or https URL without user, query or fragment is expected, such as "
                          "https://node.example.com")
