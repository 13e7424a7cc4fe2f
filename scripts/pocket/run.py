"""The whole way to the model's folder: train, save, grade what was saved, write the card, put it in place."""

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pocket.card import table_rows, write_card
from pocket.evaluate import Forward, Grade, grade, grade_stories, questions, write
from pocket.exchange import user
from pocket.model import (
    CONFIG,
    Weights,
    forward,
    load_weights,
    pocket_spec,
    save_weights,
    starting_weights,
    write_config,
)
from pocket.template import ChatFormat
from pocket.tokenizer import save_tokenizer, train_tokenizer
from pocket.training import Progress, Recipe, train

_SAMPLES = ("What is 23 + 45?", "Tell me a story about a fox named Pip.", "Who are you?",
            "What is the capital of Italy?", "Lily has a red ball. Tom has a blue hat. What colour is the hat?")


@dataclass(frozen=True)
class Job:
    """Where the model goes (`out`), where the checkpoints go (`work`), and how it is trained.

    `command` is what the card gives as the way to make the model again.
    """

    out: Path
    work: Path
    recipe: Recipe
    threads: int
    resume: bool
    command: str


def run(job: Job) -> None:
    """Train and install the model. The old folder stays until all of the new one is there."""
    torch.set_num_threads(job.threads)
    recipe, spec = job.recipe, pocket_spec()
    tokenizer = train_tokenizer(recipe.seed)
    weights = starting_weights(spec, recipe.seed)
    seconds = train(recipe, spec, weights, tokenizer, job.work, resume=job.resume,
                    progress=_reporter(recipe.steps, weights, tokenizer))
    folder = job.work / "pocket"
    _write_model(folder, weights, tokenizer)
    write_card(folder, _graded(folder, tokenizer, recipe.seed), command=job.command, steps=recipe.steps,
               tokens=recipe.steps * recipe.batch, parameters=sum(w.numel() for w in weights.values()),
               seconds=seconds)
    _install(folder, job.out)


def _reporter(steps: int, weights: Weights, tokenizer: Tokenizer) -> Progress:
    """Prints the mean loss every 50 steps, and a few samples every 800."""
    recent: list[float] = []
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        recent.append(loss)
        if (step + 1) % 50 == 0:
            spent = (time.monotonic() - started) / 60
            print(f"step {step + 1}/{steps}  loss {sum(recent) / len(recent):.4f}  {spent:.1f} min", flush=True)
            recent.clear()
        if (step + 1) % 800 == 0:
            _show_samples(partial(forward, pocket_spec(), weights), tokenizer)
    return report


def _show_samples(model: Forward, tokenizer: Tokenizer) -> None:
    chat = ChatFormat()
    prompts = [tokenizer.encode(chat.render([user(text)], prompt=True), add_special_tokens=False).ids
               for text in _SAMPLES]
    for text, ids in zip(_SAMPLES, write(model, prompts, CONFIG["eos_token_id"], 200), strict=True):
        print(f"  {text}\n    {tokenizer.decode(ids)}", flush=True)


def _write_model(folder: Path, weights: Weights, tokenizer: Tokenizer) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_config(folder)
    save_tokenizer(tokenizer, folder)
    save_weights(weights, folder)


def _graded(folder: Path, tokenizer: Tokenizer, seed: int) -> dict[str, Grade]:
    """Grade the weights as saved: 150 held-out questions of each sort and 60 stories."""
    model = partial(forward, pocket_spec(), load_weights(folder))
    grades = grade(model, questions(tokenizer, seed, 150))
    grades["stories"] = grade_stories(model, tokenizer, seed, 60)
    print("| kind | questions | loss | right |", *table_rows(grades), sep="\n", flush=True)
    return grades


def _install(made: Path, out: Path) -> None:
    """Put the new folder in place of the old one by renaming, so that no reader sees half a model."""
    fresh, old = out.with_name(f"{out.name}.new"), out.with_name(f"{out.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(made, fresh)
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
