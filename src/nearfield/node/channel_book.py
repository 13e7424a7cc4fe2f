"""The channels that pay this node: their last vouchers, in the books, and how they stand, on the chain.

A voucher is worth what it says beyond what the channel has been charged already. The same one may come again as long
as something of it is left, as after a request that failed; one that says less than the last is refused.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import insert, update

from nearfield.node import accounts
from nearfield.node.accounts import Account, channel_payer
from nearfield.node.channel_views import ChannelViews, Fetch
from nearfield.node.database import VOUCHERS
from nearfield.node.errors import NodeError
from nearfield.node.keys import encode_key
from nearfield.node.ledger import Ledger
from nearfield.node.vouchers import (
    ChannelView,
    Party,
    Voucher,
    check_id,
    check_parties,
    check_voucher,
    parse_signed_state,
    parse_voucher,
)


class ChannelBook:
    """Takes vouchers for `receiver`, the node's account and key."""

    def __init__(self, ledger: Ledger, fetch: Fetch, receiver: Party) -> None:
        self._ledger, self._receiver = ledger, receiver
        self._views = ChannelViews(fetch, ledger.clock)

    async def take(self, header: str) -> str:
        """Check a voucher and keep it, if it is worth more than the last. Returns the payer.

        Raises:
            NodeError: 400, malformed or not signed by the channel's sender; 402, not good here, or worth less than
                the last; 503, the chain can not be read.
        """
        voucher = parse_voucher(header)
        channel = await self._checked(voucher)
        await asyncio.to_thread(self._keep, voucher, channel)
        return channel_payer(voucher.channel_id)

    async def validate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /pc/validate`: the channel's state, if a request with this signed state would be taken.

        Raises NodeError as `take` does; keeps nothing.
        """
        voucher = parse_signed_state(body)
        channel = await self._checked(voucher)
        account = await asyncio.to_thread(self._ledger.account, channel_payer(voucher.channel_id))
        _check_order(voucher, _known(account, channel))
        return _state(voucher.channel_id, channel, account)

    async def state(self, channel_id: str) -> dict[str, Any]:
        """`GET /pc/state/{channel_id}`. Raises NodeError: 400, 404 or 503."""
        check_id(channel_id)
        channel = await self._views.get(channel_id)
        if channel is None:
            raise NodeError(404, "Payment channel not found")
        account = await asyncio.to_thread(self._ledger.account, channel_payer(channel_id))
        return _state(channel_id, channel, account)

    async def _checked(self, voucher: Voucher) -> ChannelView:
        channel = await self._views.get(voucher.channel_id)
        if voucher.spent_balance > check_parties(voucher, channel, self._receiver).added_balance:
            # Topped up since we looked, perhaps. Its sender alone can make us ask.
            channel = await self._views.get(voucher.channel_id, fresh=True)
        return check_voucher(voucher, channel, self._receiver)

    def _keep(self, voucher: Voucher, channel: ChannelView) -> None:
        with self._ledger.database.write() as connection:
            payer = channel_payer(voucher.channel_id)
            account = _known(accounts.lock(connection, payer, self._ledger.clock()), channel)
            _check_order(voucher, account)
            accounts.put(connection, replace(account, added=voucher.spent_balance))
            values = {"spent_balance": voucher.spent_balance, "signature": encode_key("ed25519", voucher.signature)}
            kept = connection.execute(update(VOUCHERS).where(VOUCHERS.c.channel_id == voucher.channel_id)
                                      .values(values))
            if not kept.rowcount:
                connection.execute(insert(VOUCHERS).values(channel_id=voucher.channel_id, **values))


def _known(account: Account, channel: ChannelView) -> Account:
    """The account, where the books know less than the chain (new, or an old copy): what was withdrawn is spent."""
    withdrawn = channel.withdrawn_balance
    return replace(account, added=withdrawn, spent=withdrawn) if withdrawn > account.added else account


def _check_order(voucher: Voucher, account: Account) -> None:
    if voucher.spent_balance < account.added:
        raise NodeError(402, f"the voucher says {voucher.spent_balance}, and the last one said {account.added}: sign "
                             "at least that, plus what this request costs")


def _state(channel_id: str, channel: ChannelView, account: Account) -> dict[str, Any]:
    """In pay-per-prompt's words; charged_balance and available_balance are ours."""
    account = _known(account, channel)
    return {"channel_id": channel_id, "sender": channel.sender.account_id, "receiver": channel.receiver.account_id,
            "spent_balance": str(account.added), "added_balance": str(channel.added_balance),
            "withdraw_balance": str(channel.withdrawn_balance), "charged_balance": str(account.spent),
            "available_balance": str(account.available)}
