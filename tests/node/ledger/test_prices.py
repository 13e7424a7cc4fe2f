"""Prices and rates against fractions, which can not round."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfield.core.errors import ConfigError
from nearfield.node.prices import MAX_PRICE, Prices, Rate, dollars
from nearfield.node.usage import MAX_TOKENS, Usage

COUNTS = st.integers(0, MAX_TOKENS)
MILLS = st.integers(0, MAX_PRICE)


def test_published_prices_are_exact() -> None:
    # NEAR AI Cloud, mid-2026, dollars per million tokens: 0.17 in, 1.1 out, 0.056 cached.
    prices = Prices.from_dollars("0.17", "1.1", "0.056")
    assert (prices.prompt, prices.cached, prices.completion) == (170, 56, 1100)
    assert prices.cost(Usage("a", "m", 13_500, 8_100, 256)) == 5_400 * 170 + 8_100 * 56 + 256 * 1100
    assert str(prices).startswith("0.17 (prompt), 0.056 (cached prompt) and 1.1 (answer)")


def test_cached_tokens_cost_as_others_unless_said() -> None:
    assert Prices.from_dollars("0.4", "1").cached == 400


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-0.1", "0.0005", "1e9", "1e-400000", "9" * 5000])
def test_bad_prices_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="prices: prompt must be"):
        Prices.from_dollars(text, "1")


def test_cached_may_not_cost_more() -> None:
    with pytest.raises(ConfigError, match="cached"):
        Prices.from_dollars("0.1", "1", "0.2")


@given(MILLS, MILLS, MILLS, COUNTS, COUNTS, COUNTS)
def test_cost_is_the_sum_and_within_the_bound(a: int, b: int, c: int, x: int, y: int, z: int) -> None:
    prompt, cached = max(a, b), min(a, b)
    prices = Prices.from_dollars(*(f"{p // 1000}.{p % 1000:03d}" for p in (prompt, c, cached)))
    usage = Usage("a", "m", max(x, y), min(x, y), z)
    million = Fraction(10**6)
    exact = (Fraction(prompt, 1000) * (usage.prompt_tokens - usage.cached_tokens) / million
             + Fraction(cached, 1000) * usage.cached_tokens / million + Fraction(c, 1000) * z / million)
    assert Fraction(prices.cost(usage), 10**9) == exact
    assert prices.cost(usage) <= prices.bound(usage.prompt_tokens, z) < 2**63


@given(st.integers(1, 10**30), st.integers(1, 10**15), st.integers(0, 10**18))
def test_a_rate_rounds_up_by_less_than_a_unit(units: int, nano: int, amount: int) -> None:
    rate = Rate(units, nano)
    exact = Fraction(amount) * units / nano
    assert exact <= rate.to_units(amount) < exact + 1
    assert rate.to_nano(rate.to_units(amount)) >= amount
    # What is set aside in units is never charged beyond: down to nano-dollars and up again.
    assert rate.to_units(rate.to_nano(amount)) <= amount


def test_rates_of_the_two_tokens() -> None:
    assert Rate(10**6, 10**9).to_units(1) == 1
    assert Rate(10**6, 10**9).to_nano(2_500_000) == 2_500_000_000
    assert Rate(10**24, 2_500_000_000).to_units(1) == 4 * 10**14
    with pytest.raises(ConfigError):
        Rate(0, 1)


@given(st.integers(-10**20, 10**20))
def test_dollars_are_exact(nano: int) -> None:
    assert Fraction(dollars(nano)) == Fraction(nano, 10**9)
