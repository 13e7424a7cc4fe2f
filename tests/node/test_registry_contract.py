"""The registry in the local VM: who may enter what, what it costs, and that leaving gives it back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.contracts import NEAR, OWN_FUNDS, Person, wasm
from tests.node.near_vm import STORAGE_PRICE, Account, ExecutionError, LocalVM, Outcome

CONTRACT = "registry.near"
COUNTER = (1 + 4 + 40) * STORAGE_PRICE  # the record "n", which the contract itself pays for
ENTRY: dict[str, Any] = {
    "endpoint": "https://node.example.com/v1", "profile": "cpu-w4a8-v1", "hardware": "16 x Zen 4, 64 GB",
    "models": [{"name": "org/small-7b", "prompt": "75000000", "cached": "15000000", "completion": "250000000"}]}


class Bench:
    def __init__(self, people: int = 3) -> None:
        self.vm = LocalVM()
        self.vm.deploy(CONTRACT, wasm("registry"), OWN_FUNDS)
        self.people = [Person(f"{'n' * (index + 1)}{index}.near") for index in range(people)]
        for person in self.people:
            self.vm.accounts[person.account_id] = Account(100 * NEAR)

    def call(self, person: Person, method: str, args: dict[str, Any] | bytes, deposit: int = 0) -> Outcome:
        return self.vm.call(CONTRACT, method, args, by=person.account_id, public_key=person.borsh_key, deposit=deposit)

    def view(self, method: str, **args: Any) -> Any:
        return self.vm.view(CONTRACT, method, args)

    def balances(self) -> list[int]:
        return [self.vm.accounts[person.account_id].balance for person in self.people]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_entry_is_what_was_written_with_the_key_that_signed(bench: Bench) -> None:
    person = bench.people[0]
    bench.call(person, "register", ENTRY, deposit=NEAR)
    expected = ENTRY | {"account_id": person.account_id, "public_key": person.public_key,
                        "updated_ms": bench.vm.now // 10**6}
    assert bench.view("get_agent", account_id=person.account_id) == expected
    assert bench.view("get_agents", from_index=0, limit=10) == [expected]
    assert bench.view("get_agents") == [expected]
    assert bench.view("get_agent", account_id="nobody.near") is None


def test_registering_costs_the_storage_and_no_more(bench: Bench) -> None:
    person = bench.people[0]
    with pytest.raises(ExecutionError, match="at least") as error:
        bench.call(person, "register", ENTRY)
    cost = int(str(error.value).split("at least ")[1].split(" ")[0])
    with pytest.raises(ExecutionError, match="at least"):
        bench.call(person, "register", ENTRY, deposit=cost - 1)
    assert bench.balances()[0] == 100 * NEAR, "a refused call costs nothing"
    empty = bench.vm.accounts[CONTRACT].usage()
    bench.call(person, "register", ENTRY, deposit=NEAR)
    assert bench.balances()[0] == 100 * NEAR - cost
    assert cost == (bench.vm.accounts[CONTRACT].usage() - empty) * STORAGE_PRICE - COUNTER


def test_an_update_pays_or_gets_back_the_difference(bench: Bench) -> None:
    person = bench.people[0]
    bench.call(person, "register", ENTRY, deposit=NEAR)
    before = bench.balances()[0]
    longer = ENTRY | {"hardware": ENTRY["hardware"] + " " * 10}
    with pytest.raises(ExecutionError, match="at least"):
        bench.call(person, "update", longer)
    bench.call(person, "update", longer, deposit=NEAR)
    assert bench.balances()[0] == before - 10 * STORAGE_PRICE
    bench.call(person, "update", ENTRY)
    assert bench.balances()[0] == before
    bench.call(person, "update", ENTRY, deposit=7)
    assert bench.balances()[0] == before


def test_who_is_in_and_who_is_not(bench: Bench) -> None:
    first, second, _ = bench.people
    for method, args in (("update", ENTRY), ("remove", {})):
        with pytest.raises(ExecutionError, match="is not registered"):
            bench.call(first, method, args, deposit=0)
    bench.call(first, "register", ENTRY, deposit=NEAR)
    with pytest.raises(ExecutionError, match="is registered; use update"):
        bench.call(first, "register", ENTRY, deposit=NEAR)
    with pytest.raises(ExecutionError, match="is not registered"):
        bench.call(second, "remove", {})


def test_an_entry_is_signed_by_the_account_itself_with_an_ed25519_key(bench: Bench) -> None:
    first, second, _ = bench.people
    with pytest.raises(ExecutionError, match="not through a contract"):
        bench.vm.call(CONTRACT, "register", ENTRY, by=first.account_id, signer=second.account_id,
                      public_key=second.borsh_key, deposit=NEAR)
    with pytest.raises(ExecutionError, match="ed25519"):
        bench.vm.call(CONTRACT, "register", ENTRY, by=first.account_id, public_key=b"\1" + bytes(64), deposit=NEAR)


MODEL = ENTRY["models"][0]


@pytest.mark.parametrize(("changed", "message"), [
    ({"endpoint": "ftp://x"}, "http"), ({"endpoint": ""}, "empty"),
    ({"endpoint": "https://" + "x" * 200}, "exceeds 200"), ({"endpoint": 7}, "must be a string"),
    ({"hardware": 'a "b"'}, "without escapes"),
    ({"hardware": "µ"}, "escapes"),
    ({"profile": "p" * 65}, "exceeds 64"), ({"models": []}, "1 to 32"), ({"models": [MODEL] * 33}, "1 to 32"),
    ({"models": {}}, "must be a list"), ({"models": ["x"]}, "An object with"), ({"models": [{}]}, "name is missing"),
    ({"models": [MODEL | {"prompt": "1.5"}]}, "decimal"), ({"models": [MODEL | {"prompt": 15}]}, "must be a string"),
    ({"models": [MODEL | {"cached": str(2**128)}]}, "128 bits"), ({"models": [MODEL | {"x": "1"}]}, "not known"),
    ({"verified": "yes"}, "verified is not known"),
])
def test_wrong_entries_are_refused_with_a_reason(bench: Bench, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        bench.call(bench.people[0], "register", ENTRY | changed, deposit=NEAR)
    assert bench.view("get_agents") == []


@pytest.mark.parametrize(("args", "message"), [
    (b"", "a value is expected"), (b"{", "expected"), (b'{"a":1}}', "nothing may follow"), (b"[]", "An object"),
    (b'{"account_id":"a.near","account_id":"b.near"}', "comes twice"), (b'{"account_id":nul}', "a value is expected"),
    (b'{"account_id":"a\\u0062"}', "escapes"), (b'{"account_id":"\xff"}', "escapes"), (b'{"account_id":"a', "expected"),
    (b'{"account_id":' + b"[" * 50, "too deep"), (b" " * 17000, "exceed 16384"), (b'{"account_id":"A"}', "account id"),
    (b'{"account_id":"a..b"}', "account id"), (b'{"account_id":true}', "a value is expected"),
])
def test_malformed_arguments_are_refused_with_a_reason(bench: Bench, args: bytes, message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        bench.vm.view(CONTRACT, "get_agent", args)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(("register", "update", "remove")),
                                st.integers(1, 3)), max_size=20),
       page=st.integers(1, 4))
def test_the_list_is_the_set_of_those_who_are_in_and_all_money_comes_back(
        steps: list[tuple[int, str, int]], page: int) -> None:
    bench = Bench(5)
    inside: dict[str, int] = {}
    for index, method, models in steps:
        person = bench.people[index]
        entry = ENTRY | {"models": [MODEL | {"name": f"m{number}"} for number in range(models)]}
        try:
            bench.call(person, method, {} if method == "remove" else entry, deposit=0 if method == "remove" else NEAR)
        except ExecutionError:
            assert (person.account_id in inside) == (method == "register")
            continue
        assert (person.account_id in inside) != (method == "register")
        if method == "remove":
            del inside[person.account_id]
        else:
            inside[person.account_id] = models
        pages = [bench.view("get_agents", from_index=start, limit=page) for start in range(0, 6, page)]
        found = [agent for entries in pages for agent in entries]
        assert len(found) == len(inside)
        assert {agent["account_id"]: len(agent["models"]) for agent in found} == inside
    for person in bench.people:
        if person.account_id in inside:
            bench.call(person, "remove", {})
    assert bench.balances() == [100 * NEAR] * 5
    assert bench.vm.accounts[CONTRACT].balance == OWN_FUNDS


def test_a_page_is_bounded(bench: Bench) -> None:
    bench = Bench(60)
    for person in bench.people:
        bench.call(person, "register", ENTRY, deposit=NEAR)
    assert len(bench.view("get_agents", from_index=0, limit=999999999)) == 50
    assert len(bench.view("get_agents", from_index=50, limit=None)) == 10
    assert bench.view("get_agents", from_index=999999999) == []
    with pytest.raises(ExecutionError, match="below 1000000000"):
        bench.view("get_agents", from_index=2**32)
