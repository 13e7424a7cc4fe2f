"""What came of verifying a receipt: a list of checks, each with its outcome and, unless it passed, the reason."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from nearfield.core.request import Output


class Outcome(StrEnum):
    """Of one check."""

    PASS = "pass"
    FAIL = "fail"
    UNCHECKED = "not checked"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `reason`: the first thing that differs, or why nothing could be said."""

    name: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """The checks in the order in which they were made; `approximate` where states were compared with a tolerance.

    outputs: where the answer was computed again, what an engine hands out of the receipt's tokens, token by token.
    """

    checks: tuple[Check, ...]
    approximate: bool = False
    outputs: tuple[Output, ...] = ()

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome is Outcome.FAIL)

    @property
    def replayed(self) -> bool:
        """Whether the answer was computed again."""
        return any(check.name == "states" and check.outcome is not Outcome.UNCHECKED for check in self.checks)

    @property
    def verified(self) -> bool:
        """Whether the answer was computed again, and of all that was given nothing differed."""
        return self.replayed and not self.failures

    def to_json(self) -> dict[str, Any]:
        """As one object."""
        return {"verified": self.verified, "replayed": self.replayed, "approximate": self.approximate,
                "checks": [asdict(check) for check in self.checks]}

    def lines(self) -> list[str]:
        """A line for each check."""
        return lines(self.checks)


def lines(checks: Sequence[Check]) -> list[str]:
    """A line for each check."""
    width = max((len(check.name) for check in checks), default=0)
    return [f"{check.name:<{width}}  {check.outcome.value}{': ' if check.reason else ''}{check.reason}"
            for check in checks]


def passed(name: str, reason: str = "") -> Check:
    return Check(name, Outcome.PASS, reason)


def failed(name: str, reason: str) -> Check:
    return Check(name, Outcome.FAIL, reason)


def unchecked(name: str, reason: str) -> Check:
    return Check(name, Outcome.UNCHECKED, reason)


def agree(name: str, what: str, expected: object, found: object) -> Check:
    """Whether two values are equal, with both in the reason; bytes as hexadecimal."""
    if expected == found:
        return passed(name)
    return failed(name, f"{what}: expected {_shown(expected)}, receipt has {_shown(found)}")


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
