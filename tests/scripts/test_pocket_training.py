"""Training the pocket model: what is weighed, how it is graded, and that a checkpoint loses nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pocket import training
from pocket.evaluate import Question, answer_weights, grade, write
from pocket.exchange import ask, assistant, user
from pocket.model import CONFIG, Weights, forward, pocket_spec, starting_weights
from pocket.template import BEGIN, END, ChatFormat
from pocket.training import Recipe


@pytest.fixture(scope="module")
def tokenizer(pocket: Path) -> Tokenizer:
    return Tokenizer.from_file(str(pocket / "tokenizer.json"))


def encoded(tokenizer: Tokenizer, text: str) -> Tensor:
    return torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])


def test_only_answers_weigh_fully(tokenizer: Tokenizer) -> None:
    ids = encoded(tokenizer, ChatFormat().render([user("What is 1 + 1?"), assistant("It is 2."), user("Thanks!")]))
    heavy = ids[:, 1:][answer_weights(ids, tokenizer, 0.1) == 1.0]
    assert tokenizer.decode(heavy.tolist(), skip_special_tokens=False) == f"It is 2.{END}"


def test_a_plain_story_weighs_fully(tokenizer: Tokenizer) -> None:
    ids = encoded(tokenizer, f"{BEGIN}Once upon a time.{END}")
    assert answer_weights(ids, tokenizer, 0.1).eq(1.0).all()


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe(steps=1000, warmup=100)
    rates = [training.rate(recipe, step) for step in range(1000)]
    assert rates[0] == 0.01 and max(rates) == rates[99] == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True) and 0.02 <= rates[-1] < 0.021


def test_batches_depend_on_the_step_alone(tokenizer: Tokenizer) -> None:
    recipe, chat = Recipe(steps=9, batch=512), ChatFormat()
    first, again, other = (training.batch(recipe, step, tokenizer, chat)[0] for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_a_checkpoint_brings_everything_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def steps(weights: Weights, first: int, last: int, resume: bool) -> list[float]:
        losses: list[float] = []
        training.train(Recipe(steps=last, batch=128, lengths=((64, 1.0),)), pocket_spec(), weights, tokenizer,
                       tmp_path, resume=resume, progress=lambda step, loss: losses.append(loss), keep_every=first)
        return losses

    whole = steps(starting_weights(pocket_spec(), 0), 2, 3, resume=False)
    assert steps(starting_weights(pocket_spec(), 1), 2, 3, resume=True) == whole[2:]


@pytest.fixture
def counting() -> Iterator[Question]:
    """A question whose answer counts on: 5, 6, 7 after 3, 4."""
    yield Question(ask("counting", "", ""), (3, 4), (5, 6, 7))


def successor(ids: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(ids + 1, 16).float() * 20


def test_grading_counts_what_is_said_right(counting: Question) -> None:
    good = grade(successor, [counting, counting])["counting"]
    assert (good.count, good.accuracy) == (2, 1.0) and good.loss < 1e-3
    bad = grade(lambda ids: successor(ids).roll(1, -1), [counting])["counting"]
    assert bad.accuracy == 0.0 and bad.loss > 10


def test_writing_stops_at_the_end_or_the_limit() -> None:
    assert write(successor, [[3], [1, 2, 6]], 8, 3) == [[4, 5, 6], [7, 8]]


def test_a_new_model_knows_nothing_yet() -> None:
    """Starting weights give every token about the same chance."""
    ids = torch.arange(64).view(2, 32)
    logits = forward(pocket_spec(), starting_weights(pocket_spec(), 0), ids).float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flip(0).flatten())
    assert float(loss) == pytest.approx(torch.tensor(float(CONFIG["vocab_size"])).log().item(), abs=0.3)
