"""Posts the usage of every response to whoever bills for it, in NEAR AI's form, until it is taken.

The queue is a table of the ledger, filled in the transaction that records a response, so that nothing is forgotten
when the node dies; the receiver counts an id once, so that a report may be sent twice. What can pass (no answer, 3xx,
408, 429, 5xx, and 401 and 403, which are about the token) is tried again after a pause that doubles up to MAX_PAUSE;
any other 4xx is final, and its report is kept as rejected. The type is `chat_completion` for /v1/completions too: that
is the form's word for text by tokens (the others are of images and the like).
Source: nearai/inference-proxy, src/usage_report_outbox.rs, src/routes/completions.rs.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import httpx
from sqlalchemy import delete, func, select, update

from nearfield.node.database import REPORTS, RESPONSES
from nearfield.node.errors import NodeError
from nearfield.node.ledger import Ledger

FIRST_PAUSE = 2.0
MAX_PAUSE = 300.0
ATTEMPT_SECONDS = 15.0
IDLE_SECONDS = 1.0
BATCH = 32
_PASSING = frozenset({401, 403, 408, 429})
_HOPELESS = frozenset({"no answer", "HTTP 401", "HTTP 403"})
"""The next report would fare no better."""


class Reporter:
    """Sends what `ledger` has queued (Ledger(reports=True)) to `url`, with `token` as its bearer.

    `owner` is sent with every report: organization_id, workspace_id and api_key_id, where the receiver wants them.
    """

    def __init__(self, ledger: Ledger, client: httpx.AsyncClient, url: str, token: str,
                 owner: Mapping[str, str] | None = None) -> None:
        self._ledger, self._client, self._url = ledger, client, url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._owner = dict(owner or {})

    async def run(self) -> None:
        """Send for ever; ends by cancellation."""
        while True:
            try:
                sent = await self.send_due()
            except NodeError:       # the ledger's, which has logged it
                sent = 0
            if not sent:
                await asyncio.sleep(IDLE_SECONDS)

    async def send_due(self) -> int:
        """Send what is due, one after the other, BATCH at most. Returns how many were tried."""
        due = await asyncio.to_thread(self._claim)
        for number, (attempts, body) in enumerate(due):
            outcome, final = await self._send(body)
            await asyncio.to_thread(self._note, body["id"], attempts + 1, outcome, final)
            if outcome in _HOPELESS:
                await asyncio.to_thread(self._put_back, [later["id"] for _, later in due[number + 1:]])
                return number + 1
        return len(due)

    def pending(self) -> tuple[int, int]:
        """How many reports wait, and how many were rejected."""
        with self._ledger.database.read() as connection:
            rows = connection.execute(select(REPORTS.c.rejected, func.count()).group_by(REPORTS.c.rejected)).all()
        counts = {bool(rejected): count for rejected, count in rows}
        return counts.get(False, 0), counts.get(True, 0)

    def _claim(self) -> list[tuple[int, dict[str, Any]]]:
        """The reports that are due, and nobody else's until they could have been sent."""
        now = self._ledger.clock()
        queued = select(REPORTS.c.id, REPORTS.c.attempts).where(
            REPORTS.c.due <= int(now), REPORTS.c.rejected.is_(False)).order_by(REPORTS.c.due).limit(BATCH)
        with self._ledger.database.write() as connection:
            claimed = {row.id: row.attempts for row in connection.execute(queued.with_for_update(skip_locked=True))}
            if not claimed:
                return []
            lapses = int(now + BATCH * ATTEMPT_SECONDS)
            connection.execute(update(REPORTS).where(REPORTS.c.id.in_(claimed)).values(due=lapses))
            rows = connection.execute(select(RESPONSES).where(RESPONSES.c.id.in_(claimed))).all()
        return [(claimed[row.id], {
            "type": "chat_completion", "model": row.model, "input_tokens": row.prompt_tokens,
            "output_tokens": row.completion_tokens, "cache_read_tokens": row.cached_tokens, "id": row.id,
            **self._owner}) for row in rows]

    async def _send(self, body: dict[str, Any]) -> tuple[str, bool]:
        """What came of it, and whether that is final."""
        try:
            answer = await self._client.post(self._url, json=body, headers=self._headers, timeout=ATTEMPT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL):
            return "no answer", False
        if answer.is_success:
            return "", True
        return f"HTTP {answer.status_code}", answer.is_client_error and answer.status_code not in _PASSING

    def _put_back(self, ids: list[str]) -> None:
        """They were claimed and not tried: due after a short pause."""
        with self._ledger.database.write() as connection:
            connection.execute(update(REPORTS).where(REPORTS.c.id.in_(ids))
                               .values(due=int(self._ledger.clock() + FIRST_PAUSE)))

    def _note(self, response_id: str, attempts: int, outcome: str, final: bool) -> None:
        row = REPORTS.c.id == response_id
        with self._ledger.database.write() as connection:
            if not outcome:
                connection.execute(delete(REPORTS).where(row))
                return
            pause = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(attempts - 1, 16))
            connection.execute(update(REPORTS).where(row).values(
                attempts=attempts, outcome=outcome, rejected=final, due=int(self._ledger.clock() + pause)))
        if final:
            logging.getLogger("nearfield").error("the usage of %s was refused: %s", response_id, outcome)
