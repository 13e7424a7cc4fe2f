"""`nearfield compress` from the command line: a folder made by a recipe, judged beside the one it was made of."""

import json
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from nearfield.bench.footprint import Footprint
from nearfield.cli.main import main
from nearfield.core.errors import ConfigError
from nearfield.kernels import cpu
from pocket.mix import documents
from pocket.template import ChatFormat

RECIPE = """
[[stage]]
kind = "quantize"
format = "w8"
method = "rtn"
profile = "compact"

[evaluate]
tokens = 512
"""


def chats(file: Path, seed: str) -> Path:
    file.write_text("".join(islice(documents(Random(seed), ChatFormat()), 60)), "utf-8")
    return file


@pytest.fixture(autouse=True)
def _without_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed and memory take eight processes, and are another test's."""
    one = Footprint(1, 0.1, 1.0, 1.0, (0.9, 1.1), (0.9, 1.1))
    monkeypatch.setattr("nearfield.bench.fidelity.side_by_side", lambda base, candidate: (one, one))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_makes_a_folder_with_its_measures(
        recipe: Path, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := cpu.missing():
        pytest.skip(reason)
    out, text = tmp_path / "small", chats(tmp_path / "text.txt", "held out")
    assert main(["compress", str(pocket), str(out), "--recipe", str(recipe), "--text", str(text)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("small beside pocket: near-lossless") and f"wrote {out}: " in said
    assert said.endswith("`nearfield unpack` makes a folder that they read\n")
    report = json.loads((out / "report.json").read_text())
    assert {"quantize", "compress", "fidelity"} <= report.keys()
    assert report["fidelity"]["models"] == {"base": "pocket", "candidate": "small"}
    assert report["compress"]["stages"][0]["options"] == {"format": "w8", "method": "rtn", "profile": "compact"}
    assert "<html" in (out / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml", "small", "text.txt"]


def test_text_that_a_stage_reads_is_refused_before_the_first(
        recipe: Path, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text("[[stage]]\nkind = 'prune'\nffn = 0.5\n" + RECIPE.replace('"rtn"', '"gptq"'))
    seen, other = chats(tmp_path / "seen.txt", "seen"), chats(tmp_path / "other.txt", "other")
    assert main(["compress", str(pocket), str(tmp_path / "small"), "--recipe", str(recipe), "--calibration", str(other),
                 str(seen), "--text", str(seen)]) == 2
    error = capsys.readouterr().err
    assert "seen.txt: " in error and "in the text that the stages read, which would flatter it" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.txt", "recipe.toml", "seen.txt"]


def test_what_is_finished_stays_where_measuring_fails(
        recipe: Path, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command goes on from the finished stages."""
    if reason := cpu.missing():
        pytest.skip(reason)
    out, text = tmp_path / "small", chats(tmp_path / "text.txt", "held out")
    command = ["compress", str(pocket), str(out), "--recipe", str(recipe), "--text", str(text)]

    def fails(*_: object) -> None:
        raise ConfigError("no more memory")
    with monkeypatch.context() as patched:
        patched.setattr("nearfield.bench.fidelity_report.report_fidelity", fails)
        assert main(command) == 2
    assert "no more memory" in capsys.readouterr().err and not out.exists()
    (made,) = (tmp_path / "small.partial").glob("1-quantize-*")
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (out / "model.safetensors").stat().st_mtime_ns == before and not (tmp_path / "small.partial").exists()


def test_texts_that_are_too_short_for_a_later_stage_are_told_before_the_first(
        pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long, short, path = chats(tmp_path / "long.txt", "seen"), tmp_path / "short.txt", tmp_path / "recipe.toml"
    short.write_text("Too short.")
    stages = ("[[stage]]\nkind = 'quantize'\nformat = 'w4'\n", "[[stage]]\nkind = 'prune'\nlayers = -1\n"
              "[[stage]]\nkind = 'distill'\ntext = 'short.txt'\n", RECIPE)
    for number, (stage, text) in enumerate(zip(stages, (short, long, short), strict=True)):
        path.write_text(stage)
        words = ["--text", str(text)] if "evaluate" in stage else ["--calibration", str(text)]
        assert main(["compress", str(pocket), str(tmp_path / "out"), "--recipe", str(path), *words]) == 2
        error = capsys.readouterr().err
        assert ("stage 1 (quantize)", "stage 2 (distill)", "")[number] in error and "short.txt: " in error
        assert "are needed at least" in error and error.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["long.txt", "recipe.toml", "short.txt"]


def test_the_new_folder_is_not_one_of_the_models_own(
        recipe: Path, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = chats(tmp_path / "text.txt", "held out")
    assert main(["compress", str(pocket), str(pocket / "small"), "--recipe", str(recipe), "--text", str(text)]) == 2
    assert "would lie in the model's own folder" in capsys.readouterr().err
    assert not list(pocket.glob("small*"))


def test_mistakes_are_one_line(recipe: Path, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "small")
    for words, message in (
            (["--recipe", str(recipe)], "[evaluate] names no text"),
            (["--recipe", str(tmp_path / "none.toml")], "none.toml: cannot be read"),
            (["--recipe", str(recipe), "--text", str(tmp_path / "none.txt")], "none.txt: no such file"),
            ([], "--recipe")):
        assert main(["compress", str(pocket), out, *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_no_other_run_begins_while_texts_are_read(
        recipe: Path, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    text = chats(tmp_path / "text.txt", "held out")

    def reads(*_: object) -> None:
        assert main(["quantize", str(pocket), str(tmp_path / "small"), "--format", "w8"]) == 2
        raise ConfigError("too short")
    monkeypatch.setattr("nearfield.compress.compose.check_recipe_texts", reads)
    assert main(["compress", str(pocket), str(tmp_path / "small"), "--recipe", str(recipe), "--text", str(text)]) == 2
    error = capsys.readouterr().err
    assert "small is being made by another run" in error and error.endswith("too short\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml", "text.txt"]
