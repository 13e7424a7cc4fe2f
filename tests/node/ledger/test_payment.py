"""Who pays and how much: vouchers that never regress, keys that never overdraw, and 402s that say what is owed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nearfield.core.errors import NearfieldError
from nearfield.node.accounts import FREE, channel_payer, key_payer
from nearfield.node.channel_book import ChannelBook
from nearfield.node.channel_views import RETRY_SECONDS, VIEW_SECONDS
from nearfield.node.collect import last_vouchers
from nearfield.node.credits import Credits
from nearfield.node.database import Database
from nearfield.node.errors import NodeError
from nearfield.node.ledger import Ledger
from nearfield.node.payment import ANSWER_TOKENS, Authorisation, Payment, Prepaid, Vouchers
from nearfield.node.prices import Prices, Rate
from nearfield.node.vouchers import HEADER, parse_voucher
from tests.node.ledger.doubles import Channel, Clock, channel, node_identity, usage, voucher

KEY = "sk-" + "a" * 40
BEARER = {"authorization": f"Bearer {KEY}"}
PRICES = Prices(prompt=10, cached=2, completion=50)


class Chain:
    """Channels by id; counts how often it is asked."""

    def __init__(self, **channels: Channel) -> None:
        self.channels, self.asked, self.down = channels, 0, False

    async def fetch(self, channel_id: str) -> Channel | None:
        self.asked += 1
        if self.down:
            raise NearfieldError("the RPC says no")
        return self.channels.get(channel_id.replace("-", "_"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield Ledger(database, node="n", clock=clock)
    database.close()


@pytest.fixture
def chain() -> Chain:
    return Chain(channel_1=channel(added_balance=10_000))


@pytest.fixture
def book(ledger: Ledger, chain: Chain) -> ChannelBook:
    return ChannelBook(ledger, chain.fetch, node_identity())


@pytest.fixture
def payment(ledger: Ledger, book: ChannelBook) -> Payment:
    return Payment(ledger, PRICES, [Vouchers(book, Rate(2, 1)), Prepaid()])


def authorise(payment: Payment, headers: dict[str, str], prompt: int, answer: int | None) -> Authorisation:
    return asyncio.run(payment.authorise(headers, prompt, answer))


def refused(payment: Payment, headers: dict[str, str], prompt: int = 1, answer: int | None = 1) -> NodeError:
    with pytest.raises(NodeError) as caught:
        authorise(payment, headers, prompt, answer)
    return caught.value


def test_a_free_node_counts(ledger: Ledger) -> None:
    payment = Payment(ledger, PRICES)
    assert not payment.priced and not Payment(ledger, Prices(), [Prepaid()]).priced
    allowed = authorise(payment, {}, 10**9, None)
    assert allowed.max_cost_nano is None and allowed.tokens_affordable(10**9) is None
    assert allowed.settle(usage("a", prompt=10, cached=4, completion=5)) and not allowed.settle(usage("a"))
    allowed.release()
    assert ledger.totals()[0].cost_nano == 6 * 10 + 4 * 2 + 5 * 50
    assert ledger.account(FREE).spent == 0


def test_a_prepaid_answer(payment: Payment, ledger: Ledger) -> None:
    Credits(ledger).grant("1", key_payer(KEY), 1000)
    allowed = authorise(payment, BEARER, 10, 8)
    assert (allowed.max_cost_nano, allowed.tokens_affordable(10)) == (500, 8)
    assert allowed.tokens_affordable(30) == 4 and allowed.tokens_affordable(51) == 0
    assert allowed.settle(usage("a", prompt=10, cached=10, completion=3))
    account = ledger.account(key_payer(KEY))
    assert (account.spent, account.available) == (170, 830)


def test_what_is_left_bounds_the_answer(payment: Payment, ledger: Ledger) -> None:
    Credits(ledger).grant("1", key_payer(KEY), 399)
    allowed = authorise(payment, BEARER, 10, 100)
    assert allowed.tokens_affordable(10) == 5       # 100 for the prompt, 5 * 50, and 49 that buy nothing
    assert allowed.settle(usage("a", prompt=10, completion=20))
    charge = ledger.response("a")
    assert charge is not None and charge.cost_nano == 399
    assert ledger.account(key_payer(KEY)).available == 0


def test_a_request_without_a_limit_leaves_something(payment: Payment, ledger: Ledger) -> None:
    Credits(ledger).grant("1", key_payer(KEY), 10**9)
    allowed = authorise(payment, BEARER, 10, None)
    assert allowed.tokens_affordable(10) == ANSWER_TOKENS
    allowed.release()
    assert ledger.account(key_payer(KEY)).available == 10**9


def test_prompts_alone_may_cost(ledger: Ledger) -> None:
    payment = Payment(ledger, Prices(prompt=10, cached=10), [Prepaid()])
    Credits(ledger).grant("1", key_payer(KEY), 100)
    assert authorise(payment, BEARER, 10, None).tokens_affordable(10) is None


def test_402_says_what_is_owed_and_how_to_pay(payment: Payment, ledger: Ledger) -> None:
    nothing = refused(payment, {}, 10, 8)
    assert nothing.status == 402 and nothing.body()["error"]["type"] == "insufficient_credits"
    for part in ("X-Payments-Signature", "Authorization: Bearer", "up to 0.0000005 dollars",
                 "0.01 (prompt), 0.002 (cached prompt) and 0.05 (answer) dollars per million tokens"):
        assert part in nothing.message
    Credits(ledger).grant("1", key_payer(KEY), 149)
    little = refused(payment, BEARER, 10, 8)
    assert little.status == 402
    assert "149 nano-dollars are left, and this request needs 150 at least, and up to 500" in little.message
    assert KEY not in little.message
    assert ledger.account(key_payer(KEY)).reserved == 0


@pytest.mark.parametrize("value", ["", "Bearer", "Basic " + KEY, "Bearer short", "Bearer " + "x" * 300,
                                   "Bearer " + "\xe9" * 40, "Bearer " + "a\0" * 20])
def test_keys_that_are_none(payment: Payment, value: str) -> None:
    error = refused(payment, {"authorization": value})
    assert error.status == 401 and "x" * 99 not in error.message


def test_vouchers_pay_and_add_up(payment: Payment, ledger: Ledger, book: ChannelBook) -> None:
    payer = channel_payer("channel-1")
    allowed = authorise(payment, {HEADER: voucher(1000)}, 10, 4)      # 300 nano-dollars are 600 units
    assert (allowed.max_cost_nano, ledger.account(payer).reserved) == (300, 600)
    assert allowed.settle(usage("a", prompt=10, completion=2))
    assert ledger.account(payer).spent == 400
    # The same voucher is good for what is left of it, and a larger one for more.
    assert authorise(payment, {HEADER: voucher(1000)}, 10, 4).settle(usage("b", prompt=10, completion=4))
    error = refused(payment, {HEADER: voucher(1000)}, 10, 4)
    assert error.status == 402 and "0 units of the channel's token are left" in error.message
    assert "sign a voucher for at least 1300 in all" in error.message     # 1000, the prompt's 200, a token's 100
    least = authorise(payment, {HEADER: voucher(1300)}, 10, 4)
    assert least.tokens_affordable(10) == 1
    least.release()
    assert authorise(payment, {HEADER: voucher(1500)}, 10, 4).max_cost_nano == 250
    assert [parse_voucher(voucher(1500))] == last_vouchers(ledger)
    assert (ledger.earnings().channel_units, ledger.earnings().voucher_units) == (1000, 1500)


def test_a_voucher_never_regresses(payment: Payment, ledger: Ledger) -> None:
    authorise(payment, {HEADER: voucher(1000)}, 1, 1)
    error = refused(payment, {HEADER: voucher(999)})
    assert error.status == 402 and "says 999, and the last one said 1000" in error.message
    assert [found.spent_balance for found in last_vouchers(ledger)] == [1000]


def test_what_was_withdrawn_is_spent(ledger: Ledger, chain: Chain, payment: Payment) -> None:
    # New books, or an old copy of them: the chain knows what has been paid for already.
    chain.channels["channel_1"] = channel(added_balance=10_000, withdrawn_balance=5_000)
    assert refused(payment, {HEADER: voucher(4_999)}).status == 402
    assert refused(payment, {HEADER: voucher(5_000)}).status == 402
    assert authorise(payment, {HEADER: voucher(5_200)}, 1, 1).max_cost_nano == 60
    assert ledger.account(channel_payer("channel-1")).spent == 5_000


def test_the_chain_is_asked_seldom_and_when_it_matters(payment: Payment, chain: Chain, clock: Clock) -> None:
    for _ in range(3):
        authorise(payment, {HEADER: voucher(1000)}, 1, 1).release()
    assert chain.asked == 1
    chain.channels["channel_1"] = channel(added_balance=20_000)
    authorise(payment, {HEADER: voucher(15_000)}, 1, 1).release()     # topped up since
    assert chain.asked == 2
    chain.channels["channel_1"] = channel(added_balance=20_000, force_close_started=1)
    clock.now += VIEW_SECONDS
    assert "being closed" in refused(payment, {HEADER: voucher(15_000)}).message
    assert refused(payment, {HEADER: voucher(1, "unknown")}).status == 402


def test_strangers_can_not_make_the_node_ask_the_chain(payment: Payment, chain: Chain, clock: Clock) -> None:
    stranger = SigningKey(bytes(32))
    authorise(payment, {HEADER: voucher(1000)}, 1, 1).release()
    for _ in range(3):
        assert refused(payment, {HEADER: voucher(90_000, key=stranger)}).status == 400
    assert chain.asked == 1
    for _ in range(3):      # more than the deposit, and truly the sender's
        assert refused(payment, {HEADER: voucher(90_000)}).status == 402
    assert chain.asked == 2
    for _ in range(3):
        assert "not open" in refused(payment, {HEADER: voucher(1, "new")}).message
    assert chain.asked == 3
    # Who topped up, or opened a channel, waits for a few seconds at most.
    clock.now += RETRY_SECONDS
    chain.channels.update(channel_1=channel(added_balance=100_000), new=channel())
    authorise(payment, {HEADER: voucher(90_000)}, 1, 1).release()
    authorise(payment, {HEADER: voucher(600, "new")}, 1, 1).release()
    assert chain.asked == 5


def test_a_chain_that_is_down_is_not_the_clients_fault(payment: Payment, chain: Chain) -> None:
    chain.down = True
    error = refused(payment, {HEADER: voucher(1)})
    assert error.status == 503 and "RPC says" not in error.message


def test_state_and_validate(payment: Payment, book: ChannelBook, ledger: Ledger) -> None:
    authorise(payment, {HEADER: voucher(1000)}, 10, 4).settle(usage("a", prompt=10, completion=2))
    state = {"channel_id": "channel-1", "sender": "alice.testnet", "receiver": "node.testnet",
             "spent_balance": "1000", "added_balance": "10000", "withdraw_balance": "0", "charged_balance": "400",
             "available_balance": "600"}
    assert asyncio.run(book.state("channel-1")) == state
    assert asyncio.run(book.validate(parse_voucher(voucher(2000)).signed_state)) == state    # kept is the last alone
    for spent in (999, 10_001):
        with pytest.raises(NodeError) as caught:
            asyncio.run(book.validate(parse_voucher(voucher(spent)).signed_state))
        assert caught.value.status == 402
    for channel_id, status in (("unknown", 404), ("", 400), ("a\0", 400), ("x" * 300, 400)):
        with pytest.raises(NodeError) as caught:
            asyncio.run(book.state(channel_id))
        assert caught.value.status == status


@given(st.lists(st.tuples(st.integers(0, 6_000), st.integers(1, 40), st.integers(0, 60), st.booleans()), max_size=12))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_vouchers_keep_spent_below_vouched_below_deposit(
        tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[int, int, int, bool]]) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('books')}/ledger.sqlite")
    ledger = Ledger(database, node="n")
    book = ChannelBook(ledger, Chain(channel_1=channel(added_balance=5_000)).fetch, node_identity())
    payment = Payment(ledger, PRICES, [Vouchers(book, Rate(2, 3))])
    highest = charged = 0
    for number, (spent, prompt, completion, settled) in enumerate(requests):
        before = ledger.account(channel_payer("channel-1"))
        try:
            allowed = authorise(payment, {HEADER: voucher(spent)}, prompt, 10)
        except NodeError as error:
            assert error.status == 402
        else:
            assert highest <= spent <= 5_000
            if settled:
                assert allowed.settle(usage(f"r{number}", prompt, completion))
            else:
                allowed.release()
        account = ledger.account(channel_payer("channel-1"))
        assert before.added <= account.added <= 5_000 and before.spent <= account.spent <= account.added
        highest, charged = account.added, account.spent
        assert account.reserved == 0
    cost = sum(total.cost_nano for total in ledger.totals())
    # A unit is 1.5 nano-dollars here; each response was rounded up by less than a unit.
    assert cost * 2 <= charged * 3 < cost * 2 + 3 * max(1, len(requests))
    database.close()
