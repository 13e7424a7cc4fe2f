"""One of several choices for each of many things, so that the sum of costs is least and the sum of sizes fits."""

from collections.abc import Sequence

import torch

_STEPS = 1 << 14
"""Sizes are told apart to this share of the room; what is lost so is less than one choice's difference."""

Choice = tuple[int, float]
"""A size (above 0) and a cost."""


def fit(things: Sequence[Sequence[Choice]], room: int) -> list[int] | None:
    """The place of the choice for each thing, or None where even the smallest are too large.

    Dynamic programming over what a choice takes beyond the smallest of its thing, in steps of the room left, rounded
    up: exact where that is at most _STEPS.
    """
    least = [min(size for size, _ in choices) for choices in things]
    left = room - sum(least)
    if left < 0:
        return None
    step = max(1, -(-left // _STEPS))
    steps = left // step
    costs = torch.zeros(steps + 1, dtype=torch.float64)     # the least for what is behind, by the room that is used
    taken = []
    for choices, smallest in zip(things, least, strict=True):
        tried = torch.full((len(choices), steps + 1), torch.inf, dtype=torch.float64)
        for row, (size, cost) in enumerate(choices):
            used = -(-(size - smallest) // step)
            if used <= steps:
                tried[row, used:] = costs[:steps + 1 - used] + cost
        found = tried.min(0)
        costs = found.values
        taken.append(found.indices)
    picks, at = [], steps
    for choices, smallest, chosen in zip(reversed(things), reversed(least), reversed(taken), strict=True):
        picks.append(int(chosen[at]))
        at -= -(-(choices[picks[-1]][0] - smallest) // step)
    return picks[::-1]
