"""stories260K through the conversion script: the published ids, loss and greedy text."""

import subprocess
import sys
from pathlib import Path

import pytest

from nearfield import LLM, SamplingParams

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_llama2c.py"
SENTENCE = ("Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
            "One day, she saw a big red ball in the grass.")


def convert(*args: Path | str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, SCRIPT, *args], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", ["stories260K.bin", "checkpoint_v1.bin"])
def test_reference_sentence(file: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "weights" / "stories260K"
    done = convert(source / file, source / "tok512.model", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    llm = LLM(tmp_path / "out", dtype="fp32", kv_memory="16MiB")
    ids = llm.encode(SENTENCE)
    assert len(ids) == 51 and ids[:12] == (1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315)
    scores = llm.score(ids)
    assert len(scores) == 50
    assert abs(-sum(scores) / 50 - 0.3932) <= 1e-3
    answer = llm.generate([1], SamplingParams(max_tokens=60, temperature=0))[0]
    assert "Once upon a time, there was a little girl named Lily. She loved to play outside" in answer.text


def test_a_file_of_another_length_is_refused(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "weights" / "stories260K"
    short = tmp_path / "short.bin"
    short.write_bytes((source / "stories260K.bin").read_bytes()[:-4])
    done = convert(short, source / "tok512.model", tmp_path / "out")
    assert done.returncode == 2 and "floats" in done.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
