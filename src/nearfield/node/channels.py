"""The payment-channel contract: a channel as it stands on the chain, and the calls with which a node collects.

A node that closes a channel withdraws first and signs the close afterwards: with the close signature alone anyone
could end the channel, and what was not withdrawn would go back to the sender. So `withdraw_and_close`, whose
transaction shows both signatures before it is executed, is not used here. contracts/assembly/channel.ts is the other
side; the signed bytes are those of nearai/payment-channels.
"""

import re
from dataclasses import dataclass
from typing import Any

from nearfield.node.chain import Chain, Plan, Signer
from nearfield.node.errors import IdentityError
from nearfield.node.keys import check_account, decode_key
from nearfield.node.rpc import ChainError
from nearfield.node.vouchers import Voucher, encode_state

_ID = re.compile(r'[ !#-\[\]-~]{1,64}')  # what the contract takes: printable ASCII but " and \
_AMOUNT = re.compile(r"0|[1-9][0-9]{0,38}")
_MOST = 2**128


@dataclass(frozen=True)
class Party:
    """One side of a channel: where its money goes, and the ed25519 key (`ed25519:<base58>`) that signs for it."""

    account_id: str
    public_key: str


@dataclass(frozen=True)
class Channel:
    """A channel on the chain. Amounts in yocto-NEAR; `force_close_started` in nanoseconds since 1970, or None."""

    channel_id: str
    receiver: Party
    sender: Party
    added_balance: int
    withdrawn_balance: int
    force_close_started: int | None


async def fetch_channel(chain: Chain, contract: str, channel_id: str) -> Channel | None:
    """The channel as of the last final block; None where there is none, or it is closed.

    Raises:
        ChainError: the contract can not be read, or what it says is no channel.
    """
    if not _ID.fullmatch(channel_id):
        return None
    found = await chain.view(contract, "channel", {"channel_id": channel_id})
    if found is None:
        return None
    try:
        channel = Channel(channel_id, _party(found["receiver"]), _party(found["sender"]),
                          _amount(found["added_balance"]), _amount(found["withdrawn_balance"]),
                          found["force_close_started"])
    except (KeyError, TypeError, ValueError, IdentityError):
        raise ChainError(f"channel of {contract} did not answer a channel; is it the right contract?") from None
    started = channel.force_close_started
    if channel.withdrawn_balance > channel.added_balance or not (started is None or type(started) is int):
        raise ChainError(f"channel of {contract} answered a channel that can not be; is it the right contract?")
    return channel


def plan_withdrawal(chain: Chain, contract: str, channel: Channel, voucher: Voucher) -> Plan:
    """The call that pays out the sender's last voucher.

    Raises:
        ChainError: there is nothing to withdraw, or the voucher exceeds the deposit or is another channel's: the
            contract would refuse it.
    """
    name, spent = channel.channel_id, voucher.spent_balance
    if voucher.channel_id != name:
        raise ChainError(f"channel {name}: the voucher is of another channel")
    if spent <= channel.withdrawn_balance:
        raise ChainError(f"channel {name}: nothing to withdraw: {channel.withdrawn_balance} yoctoNEAR have been, the "
                         f"last voucher says {spent}")
    if spent > channel.added_balance:
        raise ChainError(f"channel {name}: the voucher exceeds the deposit of {channel.added_balance} yoctoNEAR; ask "
                         "the sender to top up")
    return chain.plan(contract, "withdraw", {"state": voucher.signed_state})


def plan_close(chain: Chain, contract: str, channel: Channel, spent_balance: int, signer: Signer) -> Plan:
    """The call that ends a channel whose last voucher has been withdrawn; the rest goes back to the sender.

    The plan holds the close signature: whoever has it can end the channel. Serve nothing on the channel after this.

    Raises:
        ChainError: the last voucher, `spent_balance`, is not withdrawn yet, or the channel is another receiver's.
    """
    if channel.withdrawn_balance < spent_balance:
        raise ChainError(f"channel {channel.channel_id}: withdraw first; closing now would give up "
                         f"{spent_balance - channel.withdrawn_balance} yoctoNEAR")
    if channel.receiver.public_key != signer.public_key:
        raise ChainError(f"channel {channel.channel_id}: its receiver has another key than this node")
    closing = Voucher(channel.channel_id, 0, signer.sign(encode_state(channel.channel_id, 0)))
    return chain.plan(contract, "close", {"state": closing.signed_state})


def _party(value: Any) -> Party:
    if len(decode_key("ed25519", value["public_key"])) != 32:
        raise ValueError("a public_key has not 32 bytes")
    return Party(check_account(value["account_id"]), value["public_key"])


def _amount(value: Any) -> int:
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value) or int(value) >= _MOST:
        raise ValueError("a balance is not a string of decimal digits")
    return int(value)
