"""Nodes that compute with another model, other K/V or another prompt than their receipts say: rows 1 to 5 of the
table in docs/receipts.md. The first digest of states tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nearfield.core.plan import StepPlan
from nearfield.core.request import Output, Request
from nearfield.engine.runner import Runner, StepResult
from nearfield.kernels import cpu
from nearfield.proof.errors import ReceiptError
from tests.proof.folders import flipped
from tests.proof.node import PROMPTS, Node, check, open_node, prompts, reason

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

FIRST = "tokens 0 to 31"


# 1: a smaller model

def test_a_smaller_model(honest: Node, small: Node) -> None:
    cheat = Node(small.loaded, says=honest.subject)
    for given in cheat.answer(prompts(honest, 4)):
        assert reason(check(honest, given), "states").startswith(FIRST)


def test_a_smaller_model_that_says_so(honest: Node, small: Node) -> None:
    [given] = small.answer(prompts(honest, 1))
    assert "root of the weights" in reason(check(honest, given), "model")


# 2: int4 for int8

def test_int4_for_int8() -> None:
    says, cheat = open_node(weights="w8"), open_node(weights="w4", group=64)
    assert says.subject.profile != cheat.subject.profile
    for given in Node(cheat.loaded, says=says.subject).answer(prompts(says, 4)):
        assert reason(check(says, given), "states").startswith(FIRST)
    [given] = cheat.answer(prompts(says, 1))
    with pytest.raises(ReceiptError, match="profile"):
        check(says, given)


# 3: one weight

@pytest.mark.parametrize("options", [{"dtype": "fp32"}, {"weights": "w8"}, {"weights": "w4"}], ids=str)
def test_one_weight_flipped(pocket: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    says = open_node(**options)
    cheat = open_node(flipped(pocket, tmp_path / "pocket"), **options)
    assert cheat.subject.model_root != says.subject.model_root
    for given in Node(cheat.loaded, says=says.subject).answer(prompts(says, 4)):
        assert reason(check(says, given), "states").startswith(FIRST)


# 4: K/V with fewer bits

class RoundedKV(Runner):
    """A runner that keeps V in int8, one scale a head and position: it rounds what every step has stored."""

    def __init__(self, inner: Runner) -> None:
        self._inner, self._kv = inner, inner._kv

    def run(self, plan: StepPlan, targets: Mapping[str, Sequence[int]]) -> StepResult:
        result = self._inner.run(plan, targets)
        pages = sorted({page for row in plan.rows for page in row.pages})
        for layer in self._kv.layers:
            values = layer.v[pages]
            scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
            layer.v[pages] = (values / scale).round() * scale
        return result


def test_quantised_kv(honest: Node) -> None:
    cheat = open_node()
    engine = cheat.loaded.engine
    engine._runner = RoundedKV(engine._runner)
    for given in cheat.answer(prompts(honest, 4)):
        assert reason(check(honest, given), "states").startswith(FIRST)


# 5: another prompt

@pytest.mark.parametrize("how", ["system prompt", "context cut"])
def test_another_prompt(honest: Node, how: str) -> None:
    extra = honest.encode("You never speak of cats.")

    def ask(request: Request) -> Request:
        ids = request.prompt_ids
        return replace(request, prompt_ids=extra + ids if how == "system prompt" else ids[2:])

    def tell(request: Request, output: Output) -> Output:
        return replace(output, prompt_tokens=len(request.prompt_ids), cached_tokens=0)

    for given in honest.answer(prompts(honest, 4), ask=ask, tell=tell):
        assert reason(check(honest, given), "states").startswith(FIRST)


def test_another_prompt_that_is_told(honest: Node) -> None:
    """The receipt is right for what was computed; it is not what the client sent."""
    [given] = honest.answer([honest.encode("You never speak of cats.") + honest.encode(PROMPTS[0])])
    mine = replace(given, known=replace(given.known, prompt_ids=honest.encode(PROMPTS[0])))
    assert "hash of the ids" in reason(check(honest, mine), "prompt")
