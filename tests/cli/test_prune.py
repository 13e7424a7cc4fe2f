"""`nearfield prune` and `nearfield analyze` from the command line."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from nearfield import LLM, SamplingParams
from nearfield.cli.main import main
from nearfield.compress.journal import Journal
from tests.compress.prune_models import make_parent, make_text


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return make_text(tmp_path / "text.txt")


def test_what_went_is_told_and_the_rest_serves(pocket: Path, tmp_path: Path, text: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    assert main(["prune", str(pocket), str(out), "--ffn", "0.79", "--layers", "-1", "--heads", "-1",
                 "--calibration", str(make_text(tmp_path / "long.txt", 20_000))]) == 0
    told = capsys.readouterr().out
    assert f"wrote {out}: " in told and "layers: 6 to 5\n" in told and "key/value heads: 2 to 1\n" in told
    assert "channels of each MLP: 768 to 608 (to quantise it to w4, give --group 32)\n" in told    # --ffn 0.8: 640
    assert "layers taken out: " in told
    assert len(LLM(out, kv_memory="16MiB").generate(["Hello"], SamplingParams(max_tokens=3))[0].token_ids) <= 3
    assert main(["quantize", str(out), str(tmp_path / "w4"), "--format", "w4", "--group", "32"]) == 0


@pytest.mark.parametrize(("words", "message"), [
    (["--ffn", "0.8"], "pruning looks at text: give --calibration FILE"),
    ([], "there is nothing to prune; give --ffn, --layers or --heads"),
    (["--calibration", "text.txt"], "there is nothing to prune; give --ffn, --layers or --heads"),
    (["--layers", "4", "--calibration", "text.txt"], "--layers says how many fewer: --layers -4, not 4"),
    (["--layers", "-6", "--calibration", "text.txt"], "the model has 6 layers, and one must stay"),
    (["--ffn", "x", "--calibration", "text.txt"], "argument --ffn: invalid float value: 'x'"),
    (["--ffn", "0.8", "--calibration", "none.txt"], "none.txt: cannot be read (No such file or directory)"),
    (["--fnn", "0.8"], "unknown option '--fnn' (did you mean '--ffn'?)"),
])
def test_mistakes_are_named(words: list[str], message: str, pocket: Path, tmp_path: Path, text: Path,
                            monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prune", str(pocket), "out", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_ctrl_c_is_a_line_and_the_same_command_continues(
        tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_parent("qwen3", tmp_path / "parent")
    command = ["prune", str(tmp_path / "parent"), str(tmp_path / "out"), "--ffn", "0.5", "--calibration", str(text)]
    add = Journal.add

    def stopped(journal: Journal, layer: int, *rest: Any) -> None:
        add(journal, layer, *rest)
        if layer == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Journal, "add", stopped)
    capsys.readouterr()
    assert main(command) == 130
    assert capsys.readouterr().err == (
        f"nearfield: stopped; the same command continues with what is finished in {tmp_path}/out.partial\n")
    layers: list[int] = []

    def counted(journal: Journal, layer: int, *rest: Any) -> None:
        layers.append(layer)
        add(journal, layer, *rest)

    monkeypatch.setattr(Journal, "add", counted)
    assert main(command) == 0 and layers == [2]


def test_a_folder_of_codes_is_sent_to_unpack(pocket: Path, tmp_path: Path, text: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    coded = tmp_path / "coded"
    assert main(["quantize", str(pocket), str(coded), "--format", "w8"]) == 0
    for command in (["prune", str(coded), str(tmp_path / "out"), "--ffn", "0.8"], ["analyze", str(coded)]):
        assert main([*command, "--calibration", str(text)]) == 2
        assert "coded: is quantised already, as int8" in (error := capsys.readouterr().err)
        assert "make it dense first: nearfield unpack" in error


def test_analysis_is_a_table_and_a_line_of_json(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_parent("qwen3", tmp_path / "parent")
    assert main(["analyze", str(tmp_path / "parent"), "--calibration", str(text), "--json"]) == 0
    *shown, last = capsys.readouterr().out.splitlines()
    assert "1 - cos" in shown[0] and [row.split()[0] for row in shown[1:4]] == ["0", "1", "2"]
    assert "make nothing faster on a" in "\n".join(shown)
    found = json.loads(last)
    assert found["kind"] == "analysis" and len(found["layers"]) == 3 and found["text"]["sha256"].keys() == {"text.txt"}
    for layer in found["layers"]:
        assert 0 < layer["influence"] < 2 and 0 < layer["ffn_80"] < 1 and 0 < layer["one_kv_head_fewer"] < 1
        assert [len(matrix["of"]) for matrix in layer["matrices"]] == [3, 1, 2, 1]
    assert main(["analyze", str(tmp_path / "parent")]) == 2
    assert "analysis looks at text: give --calibration FILE" in capsys.readouterr().err
