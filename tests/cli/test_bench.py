"""`nearfield bench ...`: a table for people, and one JSON document as the last line when asked for."""

import json
from pathlib import Path

import pytest

from nearfield.bench import limits
from nearfield.cli.main import main


@pytest.fixture(autouse=True)
def _little_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MiB instead of 1 GiB: how quick this machine is, is not asked here."""
    monkeypatch.setattr(limits, "READ_BYTES", 1 << 24)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder with just a config.json."""
    (tmp_path / "config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 100, "max_position_embeddings": 256}))
    return str(tmp_path)


@pytest.mark.parametrize(("argv", "keys"), [
    (["offline", "--prompt", "20", "--output", "4", "--batch", "1,2"],
     {"kind", "model", "weights", "kv", "threads", "load_s", "peak_rss_gib", "prefill", "decode"}),
    (["agents", "--requests", "3", "--shared", "32", "--unique", "4", "--output", "3"],
     {"kind", "wall_s", "cached_tokens", "computed_prompt_tokens", "requests", "shared", "unique", "output",
      "tokens_per_s", "ttft_s", "max_batch"}),
])
def test_last_line_is_the_result(folder: str, capsys: pytest.CaptureFixture[str],
                                 argv: list[str], keys: set[str]) -> None:
    assert main(["bench", argv[0], folder, "--random-weights", "--json", *argv[1:]]) == 0
    captured = capsys.readouterr()
    *table, last = captured.out.splitlines()
    result = json.loads(last)
    assert result["kind"] == argv[0] and keys <= result.keys()
    assert len(table) >= 4 and captured.err.startswith("bench: ")


def test_no_json_unless_asked(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "agents", folder, "--random-weights", "--requests", "2", "--shared", "16",
                 "--unique", "2", "--output", "2"]) == 0
    assert "{" not in capsys.readouterr().out


def test_folder_without_weights(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "agents", folder, "--shared", "16"]) == 2
    assert folder in capsys.readouterr().err
