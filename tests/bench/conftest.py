"""A model to measure: the config of a very small one, with weights made up."""

import json
from pathlib import Path

import pytest

from nearfield.bench import limits
from nearfield.bench.workload import Subject


@pytest.fixture(autouse=True)
def _little_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MiB instead of 1 GiB: how quick this machine is, is not asked here."""
    monkeypatch.setattr(limits, "READ_BYTES", 1 << 24)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """Two layers of width 32, 512 positions, in fp32."""
    config = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512,
        "eos_token_id": 2, "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return Subject(str(tmp_path), {"dtype": "fp32"}, random_weights=True)
