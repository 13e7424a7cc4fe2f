"""What a node publishes and what it reads of others: end to end through the RPC double and the registry contract."""

import asyncio
import copy
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.core.errors import ConfigError
from nearfield.node.chain import STORAGE_PRICE, Chain
from nearfield.node.errors import IdentityError
from nearfield.node.registry import Discovery, Offer, Registration, discover, parse_agent, plan_removal, register
from nearfield.node.rpc import ChainError
from tests.node.contracts import NEAR, OWN_FUNDS, Person, wasm
from tests.node.fake_rpc import URL, FakeRpc
from tests.node.near_vm import Account, LocalVM

CONTRACT = "registry.testnet"
OFFER = Offer("org/small-7b", 75_000_000, 15_000_000, 250_000_000)
REGISTRATION = Registration("https://node.example.com:8443/base", (OFFER,), "cpu-w4a8-v1", "16 x Zen 4, 64 GB")


class World:
    def __init__(self, people: int = 1) -> None:
        self.vm = LocalVM()
        self.vm.deploy(CONTRACT, wasm("registry"), OWN_FUNDS)
        self.rpc = FakeRpc(self.vm)
        self.people = [Person(f"node{index}.testnet") for index in range(people)]
        for person in self.people:
            self.vm.accounts[person.account_id] = Account(100 * NEAR)
            self.rpc.keys[person.account_id, person.borsh_key[1:]] = 0

    def register(self, registration: Registration, person: Person | None = None, *, dry_run: bool = False) -> Any:
        async def work() -> Any:
            async with self.chain(person or self.people[0]) as chain:
                return await register(chain, CONTRACT, registration, dry_run=dry_run)

        return asyncio.run(work())

    def discover(self) -> Discovery:
        async def work() -> Discovery:
            async with self.chain(None) as chain:
                return await discover(chain, CONTRACT)

        return asyncio.run(work())

    def chain(self, person: Person | None) -> Chain:
        return Chain("testnet", URL, person, retry_seconds=0, transport=self.rpc.transport())

    def answers(self, *pages: Any) -> None:
        """The next views give these."""
        self.rpc.script["query"] = [
            httpx.Response(200, json={"result": {"result": list(json.dumps(page).encode())}}) for page in pages]


def test_published_is_discovered() -> None:
    world = World()
    assert world.discover() == Discovery((), ())
    world.register(REGISTRATION)
    [agent] = world.discover().agents
    assert agent.registration == REGISTRATION
    assert (agent.account_id, agent.public_key) == ("node0.testnet", world.people[0].public_key)
    assert agent.updated_ms == world.vm.now // 10**6


def test_a_dry_run_signs_nothing_and_is_what_would_be_sent() -> None:
    world = World()
    shown = world.register(REGISTRATION, dry_run=True)
    assert world.rpc.transactions == [] and world.discover().agents == ()
    assert shown.method == "register" and json.loads(shown.args) == REGISTRATION.as_args()
    assert world.register(REGISTRATION) == shown
    [transaction] = world.rpc.transactions
    assert (transaction.method, transaction.args, transaction.deposit) == (shown.method, shown.args, shown.deposit)


def test_registering_again_updates_and_removing_gives_all_back() -> None:
    world = World()
    world.register(REGISTRATION)
    paid = 100 * NEAR - world.vm.accounts["node0.testnet"].balance
    assert 0 < paid <= world.rpc.transactions[0].deposit
    longer = Registration(REGISTRATION.endpoint, (OFFER, Offer("b", 0, 0, 2**128 - 1)), "p", "h")
    assert world.register(longer).method == "update"
    assert world.discover().agents[0].registration == longer

    async def leave() -> None:
        async with world.chain(world.people[0]) as chain:
            await chain.send(plan_removal(chain, CONTRACT))

    asyncio.run(leave())
    assert world.discover().agents == ()
    assert world.vm.accounts["node0.testnet"].balance == 100 * NEAR


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), min_size=1)


@settings(max_examples=40, deadline=None)
@given(offers=st.lists(st.builds(Offer, st.text("abc/-.:", min_size=1, max_size=128), st.integers(0, 2**128 - 1),
                                 st.integers(0, 2**64), st.integers(0, 10)),
                       min_size=1, max_size=32, unique_by=lambda offer: offer.name),
       hardware=TEXT.filter(lambda text: len(text) <= 200), profile=TEXT.filter(lambda text: len(text) <= 64))
def test_whatever_is_valid_is_taken_and_comes_back(offers: list[Offer], hardware: str, profile: str) -> None:
    """And the deposit that is attached is always enough, and not more than 500 bytes too much."""
    world = World()
    registration = Registration("http://[2001:db8::1]:8000", tuple(offers), profile, hardware)
    plan = world.register(registration)
    assert world.discover().agents[0].registration == registration
    paid = 100 * NEAR - world.vm.accounts["node0.testnet"].balance
    assert plan.deposit - 500 * STORAGE_PRICE <= paid <= plan.deposit


@pytest.mark.parametrize("endpoint", [
    "", "node.example.com", "ftp://node", "https://", "https://user:pass@node", "https://node?x=1", "https://node#x",
    "https://no de", "https://node:99999", "https://node:0", "https://nöde", 'https://node/"', "https://" + "x" * 200,
    "https://[", "javascript:alert(1)", "https://node\n"])
def test_endpoints_that_are_none(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        Registration(endpoint, (OFFER,), "p", "h")


def test_registrations_that_are_none() -> None:
    for models, message in (((), "1 to 32"), ((OFFER,) * 2, "twice")):
        with pytest.raises(ConfigError, match=message):
            Registration("https://node", models, "p", "h")
    for wrong in ("", "x" * 201, "a\tb", "\x7f"):
        with pytest.raises(ConfigError, match="profile"):
            Registration("https://node", (OFFER,), wrong, "h")
        with pytest.raises(ConfigError, match="hardware"):
            Registration("https://node", (OFFER,), "p", wrong)
    for price in (-1, 2**128):
        with pytest.raises(ConfigError, match="price"):
            Offer("m", price, 0, 0)
    with pytest.raises(ConfigError, match="name"):
        Offer("m" * 129, 0, 0, 0)


ENTRY: dict[str, Any] = REGISTRATION.as_args() | {
    "account_id": "a.near", "public_key": Person("a.near").public_key, "updated_ms": 5}


def test_a_wrong_entry_is_left_out_with_a_reason_and_harms_no_other() -> None:
    wrong = [7, {}, ENTRY | {"x": 1}, ENTRY | {"account_id": "A"}, ENTRY | {"public_key": "ed25519:11"},
             ENTRY | {"endpoint": "file:///etc/passwd"}, ENTRY | {"hardware": "\x1b[2J"}, ENTRY | {"updated_ms": True},
             ENTRY | {"models": "x"}, ENTRY | {"models": [{"name": "m"}]},
             ENTRY | {"models": [OFFER.__dict__]}, ENTRY | {"models": [ENTRY["models"][0] | {"prompt": "9" * 39}]}]
    world = World()
    world.answers([wrong[0], ENTRY, *wrong[1:], ENTRY | {"account_id": "b.near"}])
    found = world.discover()
    assert [agent.account_id for agent in found.agents] == ["a.near", "b.near"]
    assert len(found.skipped) == len(wrong)
    assert [line.split(":")[0] for line in found.skipped] == ["entry 0", *(f"entry {i}" for i in range(2, 13))]
    assert all(line.isprintable() for line in found.skipped)


def test_all_pages_are_read_up_to_a_bound_and_an_entry_that_moved_is_not_doubled() -> None:
    world = World()
    page = [ENTRY | {"account_id": f"n{index}.near"} for index in range(50)]
    world.answers(page, page[:1])
    assert len(world.discover().agents) == 50
    world.answers(*[page] * 20)
    assert len(world.discover().agents) == 50 and world.rpc.script["query"] == []


@pytest.mark.parametrize("answer", [{}, None, "x", 7])
def test_what_is_no_registry_is_a_clear_error(answer: Any) -> None:
    world = World()
    world.answers(answer)
    with pytest.raises(ChainError, match="is it a registry"):
        world.discover()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))


@settings(max_examples=300)
@given(data=st.data(), value=VALUES)
def test_any_entry_is_an_agent_or_a_clear_error(data: st.DataObject, value: Any) -> None:
    entry = copy.deepcopy(ENTRY)
    target = data.draw(st.sampled_from([entry, entry["models"][0]]))
    target[data.draw(st.sampled_from(sorted(target)))] = value
    for candidate in (entry, value):
        try:
            parse_agent(candidate)
        except (ConfigError, IdentityError) as error:
            assert str(error)
