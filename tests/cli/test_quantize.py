"""`nearfield quantize` from the command line: a folder that serves as its parent does with --weights."""

import json
from pathlib import Path

import pytest

from nearfield import LLM, SamplingParams
from nearfield.cli.main import main
from nearfield.kernels import cpu

GREEDY = SamplingParams(max_tokens=60, temperature=0)


@pytest.mark.parametrize("options", [("w8",), ("w4",), ("w4", "--group", "32")], ids=" ".join)
def test_the_folder_serves_the_same_tokens_as_its_parent(
        options: tuple[str, ...], pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := cpu.missing():
        pytest.skip(reason)
    out = tmp_path / "small"
    assert main(["quantize", str(pocket), str(out), "--format", *options]) == 0
    assert f"wrote {out}: {options[0]}, " in capsys.readouterr().out
    made = LLM(out, kv_memory="16MiB")
    group = int(options[-1]) if "--group" in options else None
    parent = LLM(pocket, kv_memory="16MiB", weights=options[0], group=group)  # type: ignore[arg-type]
    ids = parent.encode_chat([{"role": "user", "content": "Tell me a story about a fox named Pip."}])
    assert made.encode_chat([{"role": "user", "content": "Tell me a story about a fox named Pip."}]) == ids
    answers = [llm.generate([ids], GREEDY)[0].token_ids for llm in (made, parent)]
    assert answers[0] == answers[1] and len(answers[0]) > 20
    assert made.score(ids) == parent.score(ids)


def test_info_tells_the_format_and_the_bytes(
        pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    assert main(["quantize", str(pocket), str(out), "--format", "w4"]) == 0
    capsys.readouterr()
    assert main(["info", str(out), "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)["stored"]
    assert stored == {"format": "int4, groups of 64 (compressed-tensors)",
                      "bytes": (out / "model.safetensors").stat().st_size}
    assert main(["info", str(out)]) == 0
    assert "int4, groups of 64 (compressed-tensors); 3." in capsys.readouterr().out
    assert main(["info", str(pocket), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stored"]["format"] == "dense"


@pytest.mark.parametrize(("words", "message"), [
    (["--format", "w88"], "argument --format: unknown 'w88' (did you mean 'w8'?); it is one of w8, w4"),
    (["--format", "w4", "--method", "rnt"], "unknown 'rnt' (did you mean 'rtn'?); it is one of rtn"),
    (["--format", "w4", "--group", "48"], "--group"),
    (["--format", "w8", "--group", "64"], "--group is of w4: a w8 folder has one scale a row"),
    ([], "give --format w8 or w4, or a size with --fit: one of the two"),
    (["--format", "w4", "--fit", "3MB"], "give --format w8 or w4, or a size with --fit: one of the two"),
    (["--fit", "3MB"], "--fit measures on text: give --calibration FILE"),
    (["--fit", "small"], "'small' is not a size"),
    (["--fit", "3MB", "--group", "64", "--calibration", "none.txt"], "--fit chooses groups itself"),
    (["--format", "w4", "--device", "cuda"], "--device is of gptq, awq and auto"),
    (["--format", "w4", "--profile", "compakt"], "unknown 'compakt' (did you mean 'compact'?)"),
    (["--format", "w4", "--method", "gptq"], "--method gptq looks at text: give --calibration FILE"),
    (["--format", "w4", "--method", "rtn", "--calibration", "none.txt"], "rtn looks at no text"),
    (["--format", "w4", "--calibration", "none.txt"], "none.txt: cannot be read"),
    (["--format", "w4", "--grup", "64"], "unknown option '--grup' (did you mean '--group'?)"),
])
def test_mistakes_are_named(words: list[str], message: str, pocket: Path, tmp_path: Path,
                            capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(pocket), str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_empty_name_is_no_folder(pocket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(pocket), "", "--format", "w8"]) == 2
    assert "argument OUT: the name is empty; give that of a folder to make" in capsys.readouterr().err


@pytest.mark.parametrize("profile", ["vllm", "compact"])
def test_who_reads_int8_embeddings_is_told(
        profile: str, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(pocket), str(tmp_path / "out"), "--format", "w8", "--profile", profile]) == 0
    said = capsys.readouterr().out
    assert ("neither transformers nor every vLLM" in said and "nearfield unpack" in said) == (profile == "compact")
