"""The first place at which what was delivered is not what is right, in words."""

import json
from typing import Any

TOLERANCE = 1e-4
"""Of fractions: in a reply those are log-probabilities alone (in nats), whose last bits the summation decides."""
_SHOWN = 60


def difference(right: Any, given: Any, place: str) -> str | None:
    """Where `given` differs from `right`, both JSON values; None where they are equal, types and all.

    Objects have the same fields, in any order; numbers with a fraction agree within TOLERANCE.
    """
    if type(right) is not type(given):
        return f"{place}: expected {_shown(right)}, delivered was {_shown(given)}"
    if isinstance(right, dict):
        return _of_objects(right, given, place)
    if isinstance(right, list):
        return _of_lists(right, given, place)
    if isinstance(right, str):
        return _of_texts(right, given, place)
    if right == given or (isinstance(right, float) and abs(right - given) <= TOLERANCE):
        return None
    return f"{place}: expected {_shown(right)}, delivered was {_shown(given)}"


def _of_objects(right: dict[str, Any], given: dict[str, Any], place: str) -> str | None:
    for name in right:
        if name not in given:
            return f"{place}.{name}: is missing, expected {_shown(right[name])}"
        if (found := difference(right[name], given[name], f"{place}.{name}")) is not None:
            return found
    more = next((name for name in given if name not in right), None)
    return None if more is None else f"{place}: {_shown(more)} does not belong there: {_shown(given[more])}"


def _of_lists(right: list[Any], given: list[Any], place: str) -> str | None:
    for index, (mine, theirs) in enumerate(zip(right, given, strict=False)):
        if (found := difference(mine, theirs, f"{place}[{index}]")) is not None:
            return found
    return None if len(right) == len(given) else f"{place}: has {len(given)} entries, expected {len(right)}"


def _of_texts(right: str, given: str, place: str) -> str | None:
    if right == given:
        return None
    at = next((i for i, (a, b) in enumerate(zip(right, given, strict=False)) if a != b), min(len(right), len(given)))
    return (f"{place}: differs at character {at}: expected {_shown(right[at:])}, delivered was {_shown(given[at:])}")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
