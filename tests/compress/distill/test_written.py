"""Text that a teacher writes: what it would say, token for token, without a cache; whoever else writes beside it."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from nearfield.compress.distill.network import DTYPE, Network
from nearfield.compress.distill.plan import opening
from nearfield.compress.distill.written import write_chunks
from nearfield.compress.parent import read_parent
from nearfield.core.errors import ConfigError
from nearfield.kernels.ops import SampleRow
from nearfield.layers.attention import dense_inputs
from tests.small_pair import save_pair


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network.load(read_parent(save_pair(tmp_path_factory.mktemp("pair")).teacher), DTYPE)


@torch.inference_mode()
def test_every_token_is_drawn_from_what_the_whole_model_says_of_those_before_it(teacher: Network) -> None:
    ids = write_chunks(teacher, 1, range(5, 8), 64, seed=3)
    assert ids.shape == (3, 64) and ids.dtype == torch.int64 and bool((ids[:, 0] == 1).all())
    model = teacher.decoder(64)
    logits = model.logits(model.hidden(dense_inputs(ids))).view(3, 64, -1)
    drawn = [model.ops.sample(logits[row, :-1], [SampleRow(1.0, 0, 1.0, 0.0, 3, at, 5 + row) for at in range(63)])
             for row in range(3)]
    # The last bits of bf16 depend on how many rows are computed at once; a draw rarely falls between two tokens.
    assert float((torch.tensor(drawn) == ids[:, 1:]).float().mean()) > 0.95


def test_a_chunk_depends_on_its_number_and_the_seed(teacher: Network) -> None:
    first = write_chunks(teacher, 1, range(2), 32, seed=0)
    assert torch.equal(first, write_chunks(teacher, 1, range(2), 32, seed=0))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, write_chunks(teacher, 1, range(2), 32, seed=1))
    assert not torch.equal(first, write_chunks(teacher, 1, range(2, 4), 32, seed=0))


def test_a_tokenizer_that_opens_no_text_cannot_write(tmp_path: Path) -> None:
    tokenizer = Mock(bos_id=None, eos_ids=())
    with pytest.raises(ConfigError, match="no token that begins or ends a text.* give text with --text FILE"):
        opening(tokenizer, tmp_path)
    tokenizer.eos_ids = (7,)
    assert opening(tokenizer, tmp_path) == 7
