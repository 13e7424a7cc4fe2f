"""SamplingParams: what is taken, what is refused, and that the refusal names the field."""

from typing import Any

import pytest

from nearfield.core.errors import InvalidRequestError
from nearfield.core.request import SamplingParams

NAN, INF = float("nan"), float("inf")
BAD: list[tuple[str, list[Any]]] = [
    ("max_tokens", [0, -1, 2**63, 1.5, "5", True]),
    ("min_tokens", [-1, 17, 0.5]),
    ("temperature", [-0.1, NAN, INF, "hot", 101]),
    ("top_k", [-2, 2.5, 2**40]),
    ("top_p", [0, -1, 1.1, NAN]),
    ("min_p", [-0.1, 2]),
    ("repetition_penalty", [0, -1, 1e-38, INF]),
    ("presence_penalty", [3, NAN]),
    ("frequency_penalty", [-2.1]),
    ("seed", [2**64, -(2**63) - 1, 10**400, 1.0]),
    ("n", [0, 65, 10**9]),
    ("logprobs", [-1, 21]),
    ("logit_bias", [{5: 101}, {5: NAN}, {"a": 1}, {5: "x"}]),
    ("stop", [[""], ["x" * 257], ["x"] * 17, [5], 5]),
    ("stop_token_ids", [["a"], [1.5]]),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD for value in values])
def test_a_bad_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize("options", [
    {"temperature": 0}, {"top_k": -1}, {"top_p": 1}, {"seed": -5}, {"seed": 2**64 - 1}, {"max_tokens": None},
    {"n": 64}, {"logprobs": 20}, {"min_tokens": 16}, {"logit_bias": {0: -100, 1: 100.0}}])
def test_the_ends_of_the_ranges_are_taken(options: dict[str, Any]) -> None:
    SamplingParams(**options)


def test_one_stop_string_and_none_at_all() -> None:
    assert SamplingParams(stop="END").stop == ("END",)  # type: ignore[arg-type]
    empty = SamplingParams(stop=None, logit_bias=None, stop_token_ids=None)  # type: ignore[arg-type]
    assert (empty.stop, empty.logit_bias, empty.stop_token_ids) == ((), {}, ())
