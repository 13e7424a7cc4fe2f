"""The benches' engine is big enough, and their prompts are the same each time and share nothing."""

from pathlib import Path

import pytest

from nearfield.bench.workload import Prompts, Subject, peak_rss_gib, requests
from nearfield.compress.folder import quantize_folder
from nearfield.compress.plan import Target
from tests.small_model import save_model, small_tensors


@pytest.mark.parametrize(("count", "context"), [(1, 1), (1, 16), (3, 17), (7, 100)])
def test_engine_holds_every_request(subject: Subject, count: int, context: int) -> None:
    loaded, seconds = subject.load(count, context)
    assert seconds > 0
    assert loaded.engine.max_context == context
    assert loaded.engine.stats().pages_total * 16 >= count * context


def test_no_request_is_preempted_when_all_are_full(subject: Subject) -> None:
    loaded, _ = subject.load(6, 60)
    prompts = Prompts(loaded.spec.vocab_size)
    for request in requests([prompts.ids(33) for _ in range(6)], None):
        loaded.engine.add(request)
    ends = 0
    while loaded.engine.has_work:
        ends += sum(output.completion_tokens == 27 for output in loaded.engine.step())
    assert ends == 6 and loaded.engine.stats().preemptions == 0


def test_prompts_repeat_by_seed_alone() -> None:
    first, again = Prompts(50_000), Prompts(50_000)
    drawn = [first.ids(20) for _ in range(3)]
    assert drawn == [again.ids(20) for _ in range(3)]
    assert len({ids[:4] for ids in drawn}) == 3
    assert all(0 <= token < 50_000 for ids in drawn for token in ids)


def test_peak_memory_is_that_of_this_process() -> None:
    assert 0.01 < peak_rss_gib() < 64


def test_a_folder_of_codes_is_said_to_be_one(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "dense", small_tensors())
    quantize_folder(folder, tmp_path / "codes", Target("w4"))
    assert Subject(str(folder), {"dtype": "fp32", "weights": None}).stored == "fp32"
    assert Subject(str(tmp_path / "codes"), {"weights": None}).stored == "w4"
    assert Subject(str(tmp_path / "codes"), {"weights": "w8"}, random_weights=True).stored == "w8"
