"""What tokens cost, in nano-dollars (10^-9 US dollars), and what a nano-dollar is in the units of a token on the chain.

Whole numbers throughout: NEAR AI counts in nano-dollars too, and a price per million tokens in dollars is a thousandth
of the price per token in nano-dollars, so that every price with three decimals or fewer is exact.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from nearfield.core.errors import ConfigError
from nearfield.node.usage import Usage

NANO = 10**9
"""Nano-dollars in a dollar."""
MAX_PRICE = 10**8
"""Nano-dollars per token: a thousand times what any model costs, and a response's cost still fits 64 bits."""
_PER_TOKEN = Decimal(1000)


@dataclass(frozen=True)
class Prices:
    """Nano-dollars per token: of a prompt, of its part that was found in the cache, and of an answer."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt", "cached", "completion"):
            if not 0 <= getattr(self, name) <= MAX_PRICE:
                raise ConfigError(f"prices: {name} must be from 0 to {MAX_PRICE} nano-dollars per token")
        if self.cached > self.prompt:
            # What a request may cost is reckoned before it is known how much of its prompt is cached.
            raise ConfigError("prices: cached tokens may not cost more than other tokens of a prompt")

    @classmethod
    def from_dollars(cls, prompt: str, completion: str, cached: str | None = None) -> "Prices":
        """Prices in dollars per million tokens, as decimal text. cached: None is the price of a prompt.

        Raises:
            ConfigError: not a number, negative, too large, or with more than three decimals.
        """
        parsed = _nano("prompt", prompt)
        return cls(parsed, parsed if cached is None else _nano("cached", cached), _nano("completion", completion))

    @property
    def free(self) -> bool:
        return self.prompt == self.completion == 0

    def cost(self, usage: Usage) -> int:
        """Nano-dollars that `usage` costs."""
        return ((usage.prompt_tokens - usage.cached_tokens) * self.prompt + usage.cached_tokens * self.cached
                + usage.completion_tokens * self.completion)

    def bound(self, prompt_tokens: int, completion_tokens: int) -> int:
        """The most nano-dollars that such a request can cost: nothing of its prompt is cached."""
        return prompt_tokens * self.prompt + completion_tokens * self.completion

    def __str__(self) -> str:
        prices = (dollars(price * 10**6) for price in (self.prompt, self.cached, self.completion))
        return "{} (prompt), {} (cached prompt) and {} (answer) dollars per million tokens".format(*prices)


@dataclass(frozen=True)
class Rate:
    """An exchange rate: `units` atomic units of a token on the chain are worth `nano` nano-dollars.

    A dollar's coin of 6 decimals is Rate(10**6, 10**9); NEAR at 2.50 dollars is Rate(10**24, 2_500_000_000).
    """

    units: int
    nano: int

    def __post_init__(self) -> None:
        if self.units < 1 or self.nano < 1:
            raise ConfigError("an exchange rate must be positive on both sides")

    def to_units(self, nano: int) -> int:
        """Units that `nano` nano-dollars cost, rounded up: at most one unit too many, in the node's favour."""
        return -(-nano * self.units // self.nano)

    def to_nano(self, units: int) -> int:
        """Nano-dollars that `units` are worth, rounded down: what they pay for in full."""
        return units * self.nano // self.units


def dollars(nano: int) -> str:
    """Nano-dollars as dollars, exactly: 1500000 is 0.0015."""
    whole, rest = divmod(abs(nano), NANO)
    return f"{'-' if nano < 0 else ''}{whole}" + f".{rest:09d}".rstrip("0").rstrip(".")


def _nano(name: str, text: str) -> int:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ConfigError(f"prices: {name} must be dollars per million tokens, such as 0.075, "
                          f"got {text[:32]!r}") from None
    if not value.is_finite() or not 0 <= value <= MAX_PRICE // 1000:
        raise ConfigError(f"prices: {name} must be from 0 to {MAX_PRICE // 1000} dollars per million tokens")
    nano = value * _PER_TOKEN
    if nano != int(nano):
        raise ConfigError(f"prices: {name} must be a multiple of 0.001 dollars per million tokens, got {text[:32]!r}")
    return int(nano)
