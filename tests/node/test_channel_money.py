"""No yocto-NEAR is made, lost or taken from another channel, whatever is done to several channels in whatever order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.node.contracts import DAY_NS, NEAR, OWN_FUNDS, ChannelBench, Person
from tests.node.near_vm import STORAGE_PRICE, ExecutionError, Outcome

NAMES = ("a", "bb", "ccc", "dddd")
IDS = st.sampled_from(NAMES)
DEPOSITS = st.sampled_from((0, 1, NEAR // 100, NEAR, NEAR + 1, 3 * NEAR, 2**127))
# Of what a channel holds, in thousandths, and more or less.
SHARES = st.sampled_from((0, 1, 500, 999, 1000, 1001, 2000, 10**40))
OFFSETS = st.sampled_from((-1, 0, 1))


class Money(RuleBasedStateMachine):
    """Everyone tries everything with every signature that was ever made; a model keeps the accounts of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = ChannelBench()
        self.total = sum(account.balance for account in self.bench.vm.accounts.values())
        self.deposited: dict[str, int] = {}
        self.paid: dict[str, int] = {}
        self.signed: dict[str, int] = {}     # the largest total that the sender has signed, by channel
        self.withdrawn: dict[str, int] = {}

    def attempt(self, channel_id: str, method: str, args: dict[str, object], by: Person | None = None,
                deposit: int = 0) -> Outcome | None:
        try:
            outcome = self.bench.call(method, args, by=by, deposit=deposit)
        except ExecutionError:
            return None
        self.deposited[channel_id] = self.deposited.get(channel_id, 0) + deposit
        self.paid[channel_id] = self.paid.get(channel_id, 0) + sum(amount for _, amount in outcome.transfers)
        to_receiver = sum(amount for account, amount in outcome.transfers if account == "node.near")
        self.withdrawn[channel_id] = self.withdrawn.get(channel_id, 0) + to_receiver
        assert {account for account, _ in outcome.transfers} <= {"alice.near", "node.near"}
        return outcome

    def total_of(self, channel_id: str, share: int, offset: int) -> int:
        """A total to sign, about that share of what the channel holds."""
        channel = self.bench.channel(channel_id)
        added = int(channel["added_balance"]) if channel else NEAR
        return min(max(added * share // 1000 + offset, 0), 2**128 - 1)

    @initialize(deposits=st.tuples(DEPOSITS, DEPOSITS))
    def some_are_open(self, deposits: tuple[int, int]) -> None:
        for channel_id, deposit in zip(NAMES, deposits, strict=False):
            self.open(channel_id, deposit)

    @rule(channel_id=IDS, deposit=DEPOSITS)
    def open(self, channel_id: str, deposit: int) -> None:
        args: dict[str, object] = {"channel_id": channel_id, "receiver": self.bench.receiver.party(),
                                   "sender": self.bench.sender.party()}
        self.attempt(channel_id, "open_channel", args, deposit=deposit)

    @rule(channel_id=IDS, deposit=DEPOSITS)
    def topup(self, channel_id: str, deposit: int) -> None:
        self.attempt(channel_id, "topup", {"channel_id": channel_id}, deposit=deposit)

    @rule(channel_id=IDS, share=SHARES, offset=OFFSETS, forged=st.booleans())
    def withdraw(self, channel_id: str, share: int, offset: int, forged: bool) -> None:
        spent = self.total_of(channel_id, share, offset)
        if not forged:
            self.signed[channel_id] = max(self.signed.get(channel_id, 0), spent)
        signer = self.bench.stranger if forged else self.bench.sender
        self.attempt(channel_id, "withdraw", {"state": signer.state(channel_id, spent)}, by=self.bench.receiver)

    @rule(channel_id=IDS, share=SHARES, offset=OFFSETS, ours=st.booleans())
    def withdraw_and_close(self, channel_id: str, share: int, offset: int, ours: bool) -> None:
        spent = self.total_of(channel_id, share, offset)
        self.signed[channel_id] = max(self.signed.get(channel_id, 0), spent)
        closer = self.bench.receiver if ours else self.bench.stranger
        args: dict[str, object] = {"state": self.bench.sender.state(channel_id, spent),
                                   "close": closer.state(channel_id, 0)}
        self.attempt(channel_id, "withdraw_and_close", args)

    @rule(channel_id=IDS, ours=st.booleans())
    def close(self, channel_id: str, ours: bool) -> None:
        closer = self.bench.receiver if ours else self.bench.sender
        self.attempt(channel_id, "close", {"state": closer.state(channel_id, 0)}, by=self.bench.stranger)

    @rule(channel_id=IDS, days=st.integers(0, 8))
    def force_close(self, channel_id: str, days: int) -> None:
        self.attempt(channel_id, "force_close_start", {"channel_id": channel_id})
        self.bench.vm.now += days * DAY_NS
        self.attempt(channel_id, "force_close_finish", {"channel_id": channel_id}, by=self.bench.stranger)

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        assert sum(account.balance for account in self.bench.vm.accounts.values()) == self.total

    @invariant()
    def no_channel_pays_more_than_was_put_into_it(self) -> None:
        for channel_id, paid in self.paid.items():
            assert paid <= self.deposited[channel_id]

    @invariant()
    def the_receiver_gets_what_was_signed_at_most(self) -> None:
        for channel_id, withdrawn in self.withdrawn.items():
            assert withdrawn <= self.signed.get(channel_id, 0)

    @invariant()
    def what_is_held_covers_all_channels_and_the_storage(self) -> None:
        account = self.bench.vm.accounts[self.bench.contract]
        channels = [channel for channel_id in NAMES if (channel := self.bench.channel(channel_id))]
        owed = sum(int(channel["added_balance"]) - int(channel["withdrawn_balance"]) for channel in channels)
        empty = 100 + len(account.code)
        assert account.balance == OWN_FUNDS + owed + (account.usage() - empty) * STORAGE_PRICE


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
