"""What payment channels owe this node, and the two calls that collect it: withdraw, and for good, close.

Both can be done again at any time: the contract pays only what exceeds that which was withdrawn before. A close comes
last: it waits until the withdrawal is final, looks at channel and books once more, and only then signs.
"""

from dataclasses import dataclass

from sqlalchemy import select

from nearfield.node.chain import Chain, Executed, Plan, Signer
from nearfield.node.channels import Channel, fetch_channel, plan_close, plan_withdrawal
from nearfield.node.database import VOUCHERS
from nearfield.node.keys import decode_key
from nearfield.node.ledger import Ledger
from nearfield.node.rpc import ChainError
from nearfield.node.vouchers import Voucher


@dataclass(frozen=True)
class Owed:
    """An open channel and the last voucher in hand."""

    channel: Channel
    voucher: Voucher

    @property
    def units(self) -> int:
        """Yocto-NEAR that are vouched for and not withdrawn."""
        return max(0, self.voucher.spent_balance - self.channel.withdrawn_balance)


def last_vouchers(ledger: Ledger) -> list[Voucher]:
    """The last voucher of every channel: what the contract's `withdraw` pays out."""
    with ledger.database.read() as connection:
        rows = connection.execute(select(VOUCHERS).order_by(VOUCHERS.c.channel_id)).all()
    return [Voucher(row.channel_id, row.spent_balance, decode_key("ed25519", row.signature)) for row in rows]


class Collector:
    """Collects from the channels of `contract` as `signer`, who must be `chain`'s."""

    def __init__(self, ledger: Ledger, chain: Chain, contract: str, signer: Signer) -> None:
        self._ledger, self._chain, self._contract, self._signer = ledger, chain, contract, signer

    async def owed(self, voucher: Voucher) -> Owed | None:
        """What the channel of a voucher owes, perhaps nothing; None when it is closed. Raises ChainError."""
        channel = await fetch_channel(self._chain, self._contract, voucher.channel_id)
        return None if channel is None else Owed(channel, voucher)

    def withdrawal(self, owed: Owed) -> Plan:
        """The call that pays out what is owed. Raises ChainError where the contract would refuse it."""
        return plan_withdrawal(self._chain, self._contract, owed.channel, owed.voucher)

    def closing(self, owed: Owed) -> Plan:
        """The close as a dry run shows it: without its signature, with which anyone could end the channel."""
        state = {"channel_id": owed.channel.channel_id, "spent_balance": "0"}
        return self._chain.plan(self._contract, "close", {"state": {"state": state, "signature": "made by --send"}})

    async def withdraw(self, owed: Owed) -> Executed:
        """Collect. Raises ChainError."""
        return await self._chain.send(self.withdrawal(owed))

    async def close(self, channel_id: str) -> Executed:
        """End a channel whose last voucher has been withdrawn. The node must not serve: it could take another one.

        Raises:
            ChainError: there is no such channel, or something is still owed.
        """
        voucher = next((found for found in last_vouchers(self._ledger) if found.channel_id == channel_id), None)
        channel = await fetch_channel(self._chain, self._contract, channel_id)
        if voucher is None or channel is None:
            raise ChainError(f"channel {channel_id}: is not open, or has never paid this node")
        return await self._chain.send(
            plan_close(self._chain, self._contract, channel, voucher.spent_balance, self._signer))
