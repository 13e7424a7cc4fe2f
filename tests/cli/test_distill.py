"""`nearfield distill` from the command line: options, mistakes, and what is said at the end."""

import argparse
import json
from pathlib import Path

import pytest

from nearfield.cli.distill import tokens
from nearfield.cli.main import main
from tests.small_pair import SmallPair, save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SmallPair:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize(("text", "number"), [("300000", 300_000), ("300k", 300_000), ("1.5M", 1_500_000)])
def test_tokens_are_counted_as_people_write_them(text: str, number: int) -> None:
    assert tokens(text) == number


@pytest.mark.parametrize("text", ["", "k", "0", "-1", "1.5", "nan", "inf", "3K", "many", "1e400"])
def test_what_is_no_number_of_tokens_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number of tokens, such as 300000, 300k or 2M"):
        tokens(text)


def test_a_student_is_taught(pair: SmallPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["distill", str(pair.student), "--teacher", str(pair.teacher), str(out), "--text", str(pair.text),
                 "--tokens", "1k", "--learning-rate", "2e-3", "--seed", "4", "--block-local"]) == 0
    told = json.loads((out / "report.json").read_text())["distill"]
    assert told["options"] == {"tokens": 1000, "block_local": True, "learning_rate": 2e-3, "seed": 4}
    held, said = told["held_out_kl"], capsys.readouterr()
    assert said.out.startswith(f"wrote {out}: held-out KL {held['before']:.4f} to {held['after']:.4f} in ")
    assert said.err == ""                                       # no bar where no terminal is


@pytest.mark.parametrize(("words", "message"), [
    ([], "--teacher"), (["--text", "a.txt"], "--teacher"), (["--teacher", "T"], "--text"),
    (["--teacher", "T", "--text", "a.txt", "--tokens", "lots"], "'lots' is not a number of tokens"),
    (["--teacher", "T", "--text", "a.txt", "--tokens", "-5k"], "'-5k' is not a number of tokens, such as 300000"),
    (["--teacher", "T", "--text", "a.txt", "--seed", str(2**63)], f"'{2**63}' is not a whole number from 0 to"),
    (["--teacher", "T", "--text", "a.txt", "--seed", "-1"], "'-1' is not a whole number from 0"),
    (["--teacher", "T", "--txt", "a.txt"], "unknown option '--txt' (did you mean '--text'?)"),
    (["--teacher", "no/such/place", "--text", "a.txt"], "no/such/place: no such folder"),
])
def test_mistakes_are_named(words: list[str], message: str, pair: SmallPair, tmp_path: Path,
                            capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", str(pair.student), str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_generated_text_stands_alone(pair: SmallPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", str(pair.student), "--teacher", str(pair.teacher), str(tmp_path / "out"), "--text", "generate"]
    assert main([*words, str(pair.text)]) == 2
    assert "--text generate stands alone" in capsys.readouterr().err
    assert main([*words, "--tokens", "256"]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["distill"]["text"]["generated_by"] == "teacher"
