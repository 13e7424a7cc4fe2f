"""One exchange with a node checked: every receipt by replay, then that they are of one response, then the reply."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nearfield.cli.asked import asked_by
from nearfield.cli.delivered import compare
from nearfield.core.errors import ConfigError
from nearfield.engine.build import Loaded
from nearfield.proof.claims import SKEW, Known
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.receipt import Receipt
from nearfield.proof.report import Check, Outcome, Report, failed, passed, unchecked
from nearfield.proof.subject import Subject
from nearfield.proof.verify import verify

_ALIKE = ("response_id", "created", "public_key", "client_nonce", "node_nonce", "limit_source")
"""What the receipts of one response have in common."""


@dataclass(frozen=True)
class Verdict:
    """A report on every receipt, and the checks of the response as a whole."""

    reports: tuple[Report, ...]
    response: tuple[Check, ...]

    @property
    def checks(self) -> tuple[Check, ...]:
        """All of them."""
        return (*(check for report in self.reports for check in report.checks), *self.response)

    @property
    def unchecked(self) -> tuple[Check, ...]:
        """Those of which nothing could be said."""
        return tuple(check for check in self.checks if check.outcome is Outcome.UNCHECKED)

    @property
    def failures(self) -> tuple[Check, ...]:
        """Those that failed."""
        return tuple(check for check in self.checks if check.outcome is Outcome.FAIL)

    @property
    def verified(self) -> bool:
        """Whether every answer was computed again, and of all that was given nothing differs."""
        return all(report.replayed for report in self.reports) and not self.failures

    def to_json(self) -> dict[str, Any]:
        """As one object."""
        return {"kind": "verify", "verified": self.verified,
                "not_checked": list(dict.fromkeys(check.name for check in self.unchecked)),
                "receipts": [report.to_json() for report in self.reports],
                "response": [asdict(check) for check in self.response]}


@dataclass(frozen=True)
class Verifier:
    """Checks exchanges against a model, whose facts are `subject`. approximate: whether such receipts are taken."""

    loaded: Loaded
    subject: Subject
    approximate: bool = False

    def receipts(self, receipts: Sequence[Disclosure], known: Known) -> Verdict:
        """Receipts without their request: `known` is all that there is. Raises as `verify` does."""
        reports = tuple(self._verify(one, known) for one in receipts)
        return Verdict(reports, _without_reply(known))

    def exchange(self, receipts: Sequence[Disclosure], body: Mapping[str, Any], reply: bytes | None,
                 known: Known) -> Verdict:
        """A request, and the receipts and the reply (JSON or a stream; None: not known) that it was given.

        known: what the request itself does not tell. Raises InvalidRequestError for a request that no server takes,
        ConfigError for a text that can not be compared, and as `verify` does.
        """
        asked = asked_by(self.loaded, body, min(receipts[0].signed.receipt.created, int(time.time() + SKEW)))
        if known.text is not None and (len(asked.job.requests) > 1 or asked.tools):
            raise ConfigError("the output is a text, and the response has several answers or may have calls of tools: "
                              "give the whole reply, in JSON or as the stream that came")
        reports = tuple(
            self._verify(one, replace(known, prompt_ids=mine.prompt_ids, params=mine.params, index=mine.index,
                                      sample_index=mine.sample_index))
            for one, mine in zip(receipts, map(asked.known, range(len(asked.job.requests))), strict=False))
        one_response = _alike([one.signed.receipt for one in receipts], len(asked.job.requests))
        if reply is None:
            return Verdict(reports, (one_response, *_without_reply(known)))
        if one_response.outcome is Outcome.FAIL or not all(report.outputs for report in reports):
            compared = unchecked("reply", "not all answers were computed again")
        else:
            compared = compare(asked, receipts, [report.outputs for report in reports], reply,
                               approximate=any(report.approximate for report in reports))
        return Verdict(reports, (one_response, compared))

    def _verify(self, receipt: Disclosure, known: Known) -> Report:
        return verify(receipt, self.loaded, self.subject, known, allow_approximate=self.approximate)


def _without_reply(known: Known) -> tuple[Check, ...]:
    """A text is compared for itself."""
    return () if known.text is not None else (unchecked("reply", "not known: give what was delivered with --output"),)


def _alike(receipts: Sequence[Receipt], answers: int) -> Check:
    if len(receipts) != answers:
        return failed("receipts", f"the request asks for {answers} answers, and there are {len(receipts)} receipts")
    for name in _ALIKE:
        if len({getattr(receipt, name) for receipt in receipts}) > 1:
            return failed("receipts", f"{name}: is not the same in all receipts of the response")
    return passed("receipts")
