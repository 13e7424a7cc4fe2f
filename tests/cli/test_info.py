"""`nearfield info`: the facts of a folder, and that no weight is needed for them."""

import json
from pathlib import Path
from typing import Any

import pytest

from nearfield.cli.main import main


def _facts(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["info", *argv, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    facts: dict[str, Any] = json.loads(out)
    return facts


@pytest.mark.parametrize(("name", "parameters", "kv"), [
    # From the model cards: 0.49 billion, 1.24 billion, 135 million.
    ("qwen2.5-0.5b", 494_032_768, 12_288),
    ("llama-3.2-1b", 1_235_814_400, 32_768),
    ("smollm2-135m", 134_515_008, 23_040),
])
def test_known_models(shared_data: Path, capsys: pytest.CaptureFixture[str],
                      name: str, parameters: int, kv: int) -> None:
    facts = _facts(capsys, str(shared_data / "shapes" / name))
    assert facts["model"] == name and facts["parameters"] == parameters
    assert facts["bytes"] == {"bf16": 2 * parameters, "fp16": 2 * parameters, "fp32": 4 * parameters}
    assert facts["kv_bytes_per_token"] == {"bf16": kv, "fp16": kv, "fp32": 2 * kv}
    assert facts["tokenizer"] is None and facts["chat_template"] is False


@pytest.mark.usefixtures("pocket")
def test_pocket_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    facts = _facts(capsys, "--dtype", "fp32")
    assert facts["model"] == "pocket" and facts["tokenizer"] and facts["chat_template"]
    used = facts["would_use"]
    assert used["dtype"] == "fp32" and used["threads"] >= 1
    assert {"linear", "attention", "sample"} <= used["ops"].keys()


@pytest.mark.usefixtures("pocket")
def test_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "architecture" in out and "KV cache" in out and "attention" in out


def test_unknown_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "perceptron"}')
    assert main(["info", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "'perceptron'" in error and "supported" in error
