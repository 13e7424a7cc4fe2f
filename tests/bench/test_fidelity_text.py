"""Text that a candidate was made by is refused, whichever stage looked at it."""

import json
from pathlib import Path

import pytest

from nearfield.bench.fidelity import run_fidelity
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
