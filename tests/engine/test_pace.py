"""The fixed budget."""

import pytest

from nearfield.engine.pace import Pace


@pytest.mark.parametrize(("decode_rows", "budget"), [(0, 8), (3, 5), (7, 1), (8, 1), (100, 1)])
def test_prompts_get_what_answers_leave_and_never_nothing(decode_rows: int, budget: int) -> None:
    assert Pace(8).prefill_budget(decode_rows) == budget
