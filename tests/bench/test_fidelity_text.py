"""Text that a candidate was made by is refused, whichever stage looked at it."""

import json
from pathlib import Path

import pytest

from nearfield.bench.fidelity import run_fidelity
from nearfield.compress.report import FIDELITY, add_section
from nearfield.compress.text import read_text, text_facts
from nearfield.core.errors import ConfigError
from nearfield.models.tokenizer import load_tokenizer
from tests.small_pair import save_pair


@pytest.mark.parametrize(("section", "key"), [("quantize", "calibration"), ("prune", "calibration"),
                                              ("distill", "text")])
def test_text_that_a_candidate_was_made_by_is_refused(section: str, key: str, tmp_path: Path) -> None:
    pair = save_pair(tmp_path)
    tokenizer = load_tokenizer(pair.student)
    told = text_facts(read_text([pair.text], tokenizer, 64, 64, 8), tokenizer)
    strange = {"someone": "else", "other": {"passages": 1, "text": {"passages": "!"}}}
    (pair.student / "report.json").write_text(json.dumps({**strange, section: {"seconds": 1, key: told}}))
    with pytest.raises(ConfigError, match=r"text\.txt: \d+% of its passages are in .*student was made by"):
        run_fidelity(pair.teacher, pair.student, [pair.text], 512, lambda line: None, lambda done, total: None)


def test_text_of_an_earlier_stage_of_the_same_kind_is_refused_too(tmp_path: Path) -> None:
    pair = save_pair(tmp_path)
    tokenizer, report = load_tokenizer(pair.student), pair.student / "report.json"
    told = text_facts(read_text([pair.text], tokenizer, 64, 64, 8), tokenizer)
    add_section(report, "prune", {"calibration": told})
    for seconds in (1, 2):
        add_section(report, FIDELITY, {"text": told})
        add_section(report, "unpack", {"seconds": seconds})
        add_section(report, "prune", {"calibration": {"passages": "AAAAAAAAAAA="}, "seconds": seconds})
    found = json.loads(report.read_text())
    assert found.keys() == {"prune", "prune-1", "prune-2", "unpack"}      # measurements, and what tells of no text, go
    assert found["prune"]["seconds"] == found["unpack"]["seconds"] == 2
    with pytest.raises(ConfigError, match=r"text\.txt: 100% of its passages are in .*student was made by"):
        run_fidelity(pair.teacher, pair.student, [pair.text], 512, lambda line: None, lambda done, total: None)
