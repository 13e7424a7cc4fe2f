"""How good the model is on what it never saw: held-out loss and accuracy, kind by kind.

An answer counts when the greedy answer is the expected one, token for token, its end included: the
greedy answer equals the expected one exactly if the most probable token is the expected one at each
place, so one forward pass over question and answer decides. Stories have no single right text: they are
written out greedily and must hold together (see `story_holds`).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from pocket import facts, reading, stories, sums, talk, tools
from pocket.exchange import Exchange, Generator
from pocket.mix import full_messages
from pocket.template import ASSISTANT, BEGIN, END, ChatFormat
from pocket.world import NAMES

Forward = Callable[[Tensor], Tensor]
"""Ids [B, L] to logits [B, L, V]."""

GRADED: tuple[Generator, ...] = (
    sums.add_or_subtract, sums.three_terms, sums.times_table, sums.told, sums.chained, sums.bigger, sums.count,
    sums.age, facts.fact, facts.capital_then_another, facts.opposite_then_another, facts.out_of_scope, reading.read,
    reading.read_twice, talk.persona, talk.remember_name, talk.remember_favourite, talk.where_from, talk.repeat,
    talk.which_came, tools.call, tools.call_and_tell, tools.call_again, tools.no_fitting_tool, tools.tool_not_needed,
)
_STORY_TOKENS = 320
_BATCH = 32


@dataclass(frozen=True)
class Question:
    """A held-out exchange as ids: what the model is given, and what it should say, <|end|> included."""

    exchange: Exchange
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Grade:
    """Over `count` questions of a kind: mean loss of an answer's token (nats), share answered right."""

    count: int
    loss: float
    accuracy: float


def question(exchange: Exchange, tokenizer: Tokenizer, chat: ChatFormat) -> Question:
    messages = full_messages(exchange)
    prompt = chat.render(messages[:-1], exchange.tools, prompt=True)
    whole = chat.render(messages, exchange.tools)
    ids, start = (tokenizer.encode(text, add_special_tokens=False).ids for text in (whole, prompt))
    return Question(exchange, tuple(start), tuple(ids[len(start):]))


def questions(tokenizer: Tokenizer, seed: int, each: int, makers: Sequence[Generator] = GRADED) -> list[Question]:
    """`each` held-out questions of every maker, the same for the same seed."""
    rng, chat = Random(f"{seed}:held"), ChatFormat()
    return [question(make(rng, True), tokenizer, chat) for make in makers for _ in range(each)]


def grade(forward: Forward, asked: Sequence[Question]) -> dict[str, Grade]:
    """Loss and exact-match accuracy by kind."""
    results: dict[str, list[tuple[float, int, bool]]] = defaultdict(list)
    by_length = sorted(asked, key=lambda q: len(q.prompt) + len(q.answer))
    for i in range(0, len(by_length), _BATCH):
        batch = by_length[i:i + _BATCH]
        for each, outcome in zip(batch, _answered(forward, batch), strict=True):
            results[each.exchange.kind].append(outcome)
    return {kind: _summary(outcomes) for kind, outcomes in sorted(results.items())}


def _summary(outcomes: list[tuple[float, int, bool]]) -> Grade:
    tokens = sum(count for _, count, _ in outcomes)
    return Grade(len(outcomes), sum(loss for loss, _, _ in outcomes) / tokens,
                 sum(right for _, _, right in outcomes) / len(outcomes))


@torch.inference_mode()
def _answered(forward: Forward, batch: Sequence[Question]) -> list[tuple[float, int, bool]]:
    """For each question: summed loss of the answer, its tokens, whether greedy gives just this answer."""
    logits = forward(_padded([q.prompt + q.answer for q in batch]))
    outcomes = []
    for row, asked in zip(logits, batch, strict=True):
        start, target = len(asked.prompt) - 1, torch.tensor(asked.answer)
        said = row[start:start + len(target)].float()
        right = bool((said.argmax(-1) == target).all())
        outcomes.append((float(F.cross_entropy(said, target, reduction="sum")), len(target), right))
    return outcomes


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


@torch.inference_mode()
def write(forward: Forward, prompts: Sequence[Sequence[int]], end: int, limit: int) -> list[list[int]]:
    """Greedy continuations of all prompts at once, each up to `end` (included) or `limit` tokens.

    Every token is computed anew each time: slow, but with no cache there is nothing to get wrong.
    """
    rows, open_rows = [list(prompt) for prompt in prompts], set(range(len(prompts)))
    while open_rows:
        order = sorted(open_rows)
        logits = forward(_padded([rows[i] for i in order]))
        for at, i in enumerate(order):
            rows[i].append(int(logits[at, len(rows[i]) - 1].argmax()))
            if rows[i][-1] == end or len(rows[i]) - len(prompts[i]) >= limit:
                open_rows.discard(i)
    return [row[len(prompt):] for row, prompt in zip(rows, prompts, strict=True)]


def grade_stories(forward: Forward, tokenizer: Tokenizer, seed: int, count: int) -> Grade:
    """Held-out heroes: loss of one telling, and the share of written stories that hold together."""
    asked = questions(tokenizer, seed, count, (stories.story,))
    loss = grade(forward, asked)["stories"].loss
    end = asked[0].answer[-1]
    written = write(forward, [q.prompt for q in asked], end, _STORY_TOKENS)
    held = [story_holds(tokenizer.decode(ids, skip_special_tokens=False), q.exchange.facts)
            for ids, q in zip(written, asked, strict=True)]
    return Grade(count, loss, sum(held) / count)


def story_holds(text: str, about: tuple[str, ...]) -> bool:
    """Whether a story ends, is of story length, is about its hero from first to last, adds one friend at
    most, and says no sentence more than twice."""
    if not text.endswith(END):
        return False
    sentences = [s for s in re.split(r'[.!?]"?\s*', text.removesuffix(END)) if s]
    hero, kind = about
    named = set(re.findall(r"\b[A-Z][a-z]+\b(?! you)", text)) & set(NAMES)   # "Will you" names nobody
    opening, ending = " ".join(sentences[:2]), " ".join(sentences[-2:])
    return (40 <= len(text.split()) <= 250 and hero in opening and kind in opening and hero in ending
            and len(named - {hero}) <= 1 and max(Counter(sentences).values()) <= 2)


def answer_weights(ids: Tensor, tokenizer: Tokenizer, elsewhere: float) -> Tensor:
    """For each target ids[:, 1:]: 1 in assistant turns and in plain stories, `elsewhere` in all other places."""
    begin, end, speaks = (tokenizer.token_to_id(token) for token in (BEGIN, END, ASSISTANT))
    roles = {tokenizer.token_to_id(token) for token in ("<|system|>", "<|user|>", "<|tool|>")}
    weights = torch.full(ids.shape, elsewhere)
    for row, out in zip(ids.tolist(), weights, strict=True):
        spans: list[int] = []
        counts = False
        for at, token in enumerate(row):
            if counts and token not in roles:
                spans.append(at)
            counts = token in (speaks, begin) or (counts and token not in roles and token != end)
        out[spans] = 1.0
    return weights[:, 1:]
