"""Approximate receipts: a torch peer in bf16 passes, and so does not what the tolerance is said to tell."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfield.core.config import EngineConfig
from nearfield.core.errors import ConfigError
from nearfield.engine.build import load_engine
from nearfield.kernels import cpu, select
from nearfield.proof.approximate import MAX_DISTANCE, PREFIX, SKETCH_BYTES, Sketcher, agrees, distance, sketch_hash
from nearfield.proof.errors import ReceiptError
from nearfield.proof.model_root import subject_of
from nearfield.proof.opening import open_notary
from nearfield.proof.report import Report
from nearfield.proof.verify import verify
from tests.proof.node import PROMPTS, SAMPLED, Given, Node, check, open_node, prompts, reason, resigned
from tests.proof.signer import NodeKey

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

PARAMS = replace(SAMPLED, max_tokens=64)


@pytest.fixture(scope="module")
def peer() -> Iterator[Node]:
    """A node that computes in torch's bf16, whose bits are its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "build", lambda dtype, *_, **__: select.plain(dtype))
        loaded = load_engine(None, EngineConfig(dtype="bf16", kv_memory=32 << 20))
    with pytest.raises(ConfigError, match=r"C\+\+ kernels"):
        subject_of(loaded)
    yield Node(loaded, says=subject_of(loaded, approximate=True))


def pretending(node: Node, peer: Node) -> Node:
    """A node that gives approximate receipts for what it computes."""
    return Node(node.loaded, says=peer.says)


def report(honest: Node, given: Given) -> Report:
    with pytest.raises(ReceiptError, match="--approximate"):
        check(honest, given)
    made = verify(given.disclosure, honest.loaded, honest.subject, given.known, allow_approximate=True)
    assert made.approximate and made.to_json()["approximate"]
    return made


def test_an_honest_peer_passes(honest: Node, peer: Node) -> None:
    for one in peer.answer(prompts(honest), PARAMS):
        made = report(honest, one)
        assert made.verified, made.lines()
        assert all("approximate" in each.reason for each in made.checks if each.name in ("states", "tokens"))


def test_quantised_weights_do_not(honest: Node, peer: Node) -> None:
    ways: tuple[dict[str, Any], ...] = ({"weights": "w8"}, {"weights": "w4", "group": 64})
    for options in ways:
        cheat = pretending(open_node(dtype="bf16", **options), peer)
        for one in cheat.answer(prompts(honest, 3), PARAMS):
            assert "apart in the median" in reason(report(honest, one), "states")


def test_a_smaller_model_and_another_prompt_do_not(honest: Node, small: Node, peer: Node) -> None:
    for one in pretending(small, peer).answer(prompts(honest, 3), PARAMS):
        assert "apart in the median" in reason(report(honest, one), "states")
    extra = honest.encode(PROMPTS[1])
    for one in pretending(honest, peer).answer(
            prompts(honest, 1), PARAMS, ask=lambda r: replace(r, prompt_ids=extra + r.prompt_ids),
            tell=lambda r, output: replace(output, prompt_tokens=len(r.prompt_ids), cached_tokens=0)):
        assert "apart in the median" in reason(report(honest, one), "states")


def test_sketches_are_bound_and_checked(honest: Node, peer: Node) -> None:
    [one] = peer.answer(prompts(honest, 1), PARAMS)
    for data in (b"", bytes(7), b"\xff" * len(one.disclosure.sketches), one.disclosure.sketches[:-SKETCH_BYTES]):
        loose = replace(one, disclosure=replace(one.disclosure, sketches=data))
        assert "sketches are not those" in reason(report(honest, loose), "states")
        assert "apart in the median" in reason(report(honest, resigned(loose, sketch=sketch_hash(data))), "states")


def test_an_exact_receipt_is_not_checked_with_a_tolerance(honest: Node, peer: Node) -> None:
    """Whoever claims a profile is held to its bits, sketches or none."""
    [one] = Node(peer.loaded, says=honest.subject).answer(prompts(honest, 1), PARAMS)
    made = check(honest, one)
    assert not made.approximate and reason(made, "states").startswith("tokens 0 to 31")


def test_a_notary_says_what_it_gives(peer: Node, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"C\+\+ kernels"):
        open_notary(peer.loaded, NodeKey(), tmp_path)
    notary = open_notary(peer.loaded, NodeKey(), tmp_path, approximate=True)
    assert notary.subject.profile.startswith(PREFIX) and notary.selftest.body()["status"] == "no golden vector"
    notary.close()


@given(st.integers(1, 70), st.floats(0.001, 0.2))
def test_the_distance_is_that_of_the_states(tokens: int, size: float) -> None:
    """Projections keep lengths, about: the median distance of sketches is near that of the states."""
    random, sketcher = np.random.default_rng(tokens), Sketcher()
    states = random.standard_normal((tokens, 256)).astype("<f4")
    noise = random.standard_normal((tokens, 256)).astype("<f4") * np.float32(size)
    mine, theirs = (b"".join(sketcher(row.tobytes()) for row in rows) for rows in (states, states + noise))
    assert 0.3 * size < distance(mine, theirs) < 2.5 * size
    assert distance(mine, mine) == 0.0 < MAX_DISTANCE


@pytest.mark.parametrize("differ, tokens, honest", [(2, 3, True), (3, 3, False), (15, 100, True), (16, 100, False)])
def test_how_many_tokens_may_differ(differ: int, tokens: int, honest: bool) -> None:
    mine: list[Any] = [1] * tokens
    assert agrees(mine, [2] * differ + [1] * (tokens - differ)) == (differ, honest)
