"""A model too small to say anything that can read: what calibration needs."""

import shutil
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from nearfield.models.loader import pocket_folder
from pocket.mix import documents
from pocket.template import ChatFormat
from tests.small_model import save_model, small_tensors

VOCAB = 2048


def readable_tensors() -> dict[str, torch.Tensor]:
    """The small model's, with tables for the pocket model's tokenizer."""
    random = torch.Generator().manual_seed(1)
    tables = {name: torch.randn(VOCAB, 128, generator=random).bfloat16()
              for name in ("model.embed_tokens.weight", "lm_head.weight")}
    return {**small_tensors(), **tables}


def save_readable(folder: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    """A folder of `tensors` with a tokenizer."""
    save_model(folder, tensors, vocab_size=VOCAB, **changes)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(pocket_folder() / name, folder / name)
    return folder


@pytest.fixture
def readable(tmp_path: Path) -> Path:
    """Its folder."""
    return save_readable(tmp_path / "parent", readable_tensors())


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 4,000 tokens."""
    file = tmp_path_factory.mktemp("text") / "chats.txt"
    file.write_text("".join(islice(documents(Random("chats"), ChatFormat()), 36)), "utf-8")
    return file
