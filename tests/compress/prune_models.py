"""Small random models with a tokenizer of bytes and a text, as folders: what the tests of pruning prune."""

import json
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.models.test_parity import make_folder

LENGTH = 64
WORDS = "the cat sat on a mat and saw two birds in an old tree near the river while rain fell".split()


def make_parent(family: str, folder: Path, **changes: Any) -> Any:
    """A model of tests/models/test_parity in `folder`, whose texts have LENGTH tokens at most; transformers' own."""
    model = make_folder(family, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": LENGTH, **changes}))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: 3 + i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def make_text(path: Path, tokens: int = 20 * LENGTH) -> Path:
    """A text of so many bytes, which are tokens."""
    random = Random(0)
    path.write_text(" ".join(random.choice(WORDS) for _ in range(tokens))[:tokens])
    return path
