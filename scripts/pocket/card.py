"""The model card: what the model is, what it was trained on, its held-out figures, its limits."""

from collections.abc import Mapping
from pathlib import Path

from pocket.evaluate import Grade

_CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# Pocket

A Llama-architecture language model of {millions:.1f} million parameters (hidden 256, 6 layers, 4 heads of 64,
2 key/value heads, MLP 768, 2,048 tokens of vocabulary, tied embeddings, bf16: {mib:.1f} MiB).
It ships with Nearfield, so that everything can be tried and tested with real weights and without a network.
It tells small stories, does small sums, answers short questions and calls tools.

## Training

`scripts/train_pocket.py` trained it from nothing, through Nearfield's own model code, in {minutes:.0f} minutes on
2 CPU cores: {steps:,} steps, {tokens:.1f} million tokens. All text was written by the project's own generator
(`scripts/pocket/`) from rules and a seed; no other text and no other model was used. About one item in ten is
held out of training by construction: sums with their terms in either order, names with what they own or do,
arguments of tools, heroes of stories, wordings of facts. To make it again, tokenizer, weights and this card:

    {command}

## Figures

From the same command, on the saved bf16 weights and held-out questions only. An answer is right when the greedy
answer is the expected one, token for token. A story is right when it ends, keeps its hero from first to last,
has one friend at most and says no sentence more than twice. Loss is in nats a token of the answer. Set
phrases such as greetings cannot be held out: they are graded only as a sixth of "no tool".

| kind | questions | loss | right |
|---|---:|---:|---:|
{table}

## Chat format

    <|begin|><|system|>You are Nea, a kind robot.<|end|><|user|>Who are you?<|end|><|assistant|>I am Nea,
    a kind robot.<|end|>

The template is in `tokenizer_config.json`. Tools are listed in the system turn; a call is
`<tool_call>{{"name": ..., "arguments": {{...}}}}</tool_call>`; a tool's answer is a `<|tool|>` turn.

## What it can be asked

- stories: "Tell me a story about a fox named Pip who learns to swim."
- sums of two numbers up to 99, the times table, sums told as small events
- capitals, opposites, animals, colours, days and months; questions about a few given sentences
- who it is (the system prompt decides), and what it was told earlier in the chat
- calls of the tools get_weather, get_time, add, multiply, search, set_timer, send_message and play_music

## Limits

It knows nothing beyond this small world, and says so at best. Of several given sentences it sometimes reads the
wrong one (see reading). Sums of three terms (see sums of three) and of more digits often fail. Stories
are graded with heroes whose names it has met; a new name is often cut to its first letter on the way, and a story
asked for without a hero may give its friend the hero's name. Questions about a story that it told, other tools and
other ways of asking often fail. It was trained on up to 1,024 tokens of context. It is a
model for demonstrations and tests: rely on it for nothing else.
"""


def write_card(folder: Path, grades: Mapping[str, Grade], *, command: str, parameters: int, steps: int,
               tokens: int, seconds: float) -> None:
    """Write README.md into the model's folder."""
    size = (folder / "model.safetensors").stat().st_size
    (folder / "README.md").write_text(_CARD.format(
        millions=parameters / 1e6, mib=size / 2**20, minutes=seconds / 60, steps=steps, tokens=tokens / 1e6,
        command=command, table="\n".join(table_rows(grades))))


def table_rows(grades: Mapping[str, Grade]) -> list[str]:
    """A Markdown row for every kind, and one for all."""
    rows = [f"| {kind} | {g.count} | {g.loss:.3f} | {g.accuracy:.1%} |" for kind, g in grades.items()]
    count = sum(g.count for g in grades.values())
    mean = sum(g.accuracy * g.count for g in grades.values()) / count
    return [*rows, f"| all | {count} | | {mean:.1%} |"]
