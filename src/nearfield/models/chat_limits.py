"""How much a chat template may do: steps, seconds, and the size of what it makes.

Text grows by concatenation, by repetition and by a few filters; each is measured before it runs,
so that a bomb of a few characters never gets its memory. All refusals are Jinja's SecurityError.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

MAX_STEPS = 2_000_000
"""Loop items and calls of one rendering. A thousand turns, each of which looks at all others, fit."""

MAX_SECONDS = 10.0
"""Wall time of one rendering, looked at with every step."""

MAX_TEXT = 1 << 24
"""Characters of any text, or entries of any list, that a rendering makes."""

_MAX_ARGUMENT = 1_000_000
_MAX_INTEGER_BITS = 4096
_WIDE_FIELD = re.compile(r"\d{7}|%[^%a-zA-Z]*\*")
_SIZED = (str, bytes, list, tuple)


class Budget:
    """What one rendering has left; it begins when it is made."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._end = time.monotonic() + MAX_SECONDS

    def charge(self) -> None:
        """Take one step. Raises SecurityError when there is none left, or no time."""
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"the chat template takes more than {MAX_STEPS} loop items and calls")
        if time.monotonic() > self._end:
            raise SecurityError(f"the chat template takes more than {MAX_SECONDS:g} seconds")

    def count(self, items: Iterable[Any]) -> Iterator[Any]:
        """The same items, one step each."""
        for item in items:
            self.charge()
            yield item


def sized_join(parts: Iterable[Any]) -> str:
    """The parts as one text, measured on the way."""
    size, pieces = 0, []
    for part in parts:
        pieces.append(str(part))
        size += len(pieces[-1])
        check_size(size)
    return "".join(pieces)


def check_number(value: Any) -> None:
    """Refuse a number that would be a width or a count of excess."""
    if isinstance(value, int) and abs(value) > _MAX_ARGUMENT:
        raise SecurityError(f"the chat template uses {value} as an argument; {_MAX_ARGUMENT} is the most")


def check_size(size: int) -> None:
    """Refuse what would be longer than MAX_TEXT."""
    if size > MAX_TEXT:
        raise SecurityError(f"the chat template makes text or a list longer than {MAX_TEXT}")


def check_widths(form: str) -> None:
    """Refuse a format whose fields have excessive widths, or widths that come from elsewhere."""
    if _WIDE_FIELD.search(form):
        raise SecurityError("the chat template formats text to a width that is too large or not known")


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be far larger than its operands."""
    if operator == "%" and isinstance(left, str):
        check_widths(left)
    elif operator == "+" and isinstance(left, _SIZED) and isinstance(right, _SIZED):
        check_size(len(left) + len(right))
    elif operator == "*":
        _check_product(left, right)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * abs(right))


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for text, times in ((left, right), (right, left)):
        if isinstance(text, _SIZED) and isinstance(times, int):
            check_size(len(text) * max(times, 0))


def _check_bits(bits: int) -> None:
    if bits > _MAX_INTEGER_BITS:
        raise SecurityError(f"the chat template makes a number of more than {_MAX_INTEGER_BITS} bits")


def _replaced(text: Any, old: Any, new: Any, count: Any = None) -> int:
    return len(str(text)) + str(text).count(str(old)) * len(str(new))


def _joined(value: Any, d: Any = "", attribute: Any = None) -> int:
    """Both `parts | join(separator)` and `separator.join(parts)`: the count is a product either way."""
    if not isinstance(value, _SIZED) or not isinstance(d, _SIZED):
        return len(str(d)) << 14
    parts = d if isinstance(value, str) else value
    return len(value) * len(d) + sum(len(part) for part in parts if isinstance(part, str))


def _indented(text: Any, width: Any = 4, first: Any = False, blank: Any = False) -> int:
    each = width if isinstance(width, int) else len(str(width))
    return len(str(text)) + (str(text).count("\n") + 1) * each


def _formatted(form: Any, *_: Any, **__: Any) -> int:
    check_widths(str(form))
    return 0


GROWTH: Mapping[str, Callable[..., int]] = {
    "replace": _replaced, "join": _joined, "indent": _indented, "format": _formatted,
}
"""The length of what these filters, and methods of the same names, make: a product of their inputs'."""
