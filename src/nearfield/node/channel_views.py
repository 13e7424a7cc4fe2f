"""How payment channels stand on the chain, asked seldom: a request to a public RPC is what a stranger can make cheaply.

What was read is good for a while; that there is no such channel, for a short while; and a channel is read anew before
its time no more often than that.
"""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nearfield.core.errors import NearfieldError
from nearfield.node.errors import NodeError
from nearfield.node.vouchers import ChannelView

VIEW_SECONDS = 30.0
"""How long the chain's word is good for. A sender's forced close takes days, and deposits only grow."""
RETRY_SECONDS = 3.0
"""Three blocks: who has just opened a channel or topped it up waits no longer than that."""
MAX_VIEWS = 4096

Fetch = Callable[[str], Awaitable[ChannelView | None]]
"""Reads a channel from the chain; None where it has none of that id."""


@dataclass(frozen=True)
class _Seen:
    """A channel as it was `at` a time. hurried: when it was last read before its time."""

    channel: ChannelView | None
    at: float
    hurried: float


class ChannelViews:
    """What was read, by channel id; those that are not there are kept apart, so that they crowd out no other."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._fetch, self._clock = fetch, clock
        self._open: OrderedDict[str, _Seen] = OrderedDict()
        self._absent: OrderedDict[str, _Seen] = OrderedDict()

    async def get(self, channel_id: str, *, fresh: bool = False) -> ChannelView | None:
        """The channel; `fresh`: as it is now, where it was not read so RETRY_SECONDS ago. Raises NodeError (503)."""
        now = self._clock()
        seen = self._open.get(channel_id) or self._absent.get(channel_id)
        if seen is not None:
            life = RETRY_SECONDS if seen.channel is None else VIEW_SECONDS
            hurry = fresh and seen.channel is not None and now - seen.hurried >= RETRY_SECONDS
            if now - seen.at < life and not hurry:
                return seen.channel
        hurried = now if fresh else seen.hurried if seen is not None else float("-inf")
        seen = _Seen(await self._read(channel_id), now, hurried)
        self._open.pop(channel_id, None)
        self._absent.pop(channel_id, None)
        kept = self._absent if seen.channel is None else self._open
        kept[channel_id] = seen
        if len(kept) > MAX_VIEWS:
            kept.popitem(last=False)
        return seen.channel

    async def _read(self, channel_id: str) -> ChannelView | None:
        try:
            return await self._fetch(channel_id)
        except NearfieldError as error:
            logging.getLogger("nearfield").error("a payment channel can not be read from the chain: %s", error)
            raise NodeError(503, "the chain can not be read now; try again later") from None
