"""Which exchanges become which chats, how often, and how chats are laid into rows for training."""

from collections.abc import Callable, Iterator
from random import Random

from pocket import facts, reading, stories, sums, talk, tools
from pocket.exchange import Exchange, Generator, Message
from pocket.template import BEGIN, END, ChatFormat

Weighted = tuple[tuple[Generator, float], ...]

FREE: Weighted = (
    (sums.add_or_subtract, 34), (sums.three_terms, 5), (sums.times_table, 7), (sums.told, 8), (sums.chained, 5),
    (sums.bigger, 3), (sums.count, 1), (sums.age, 2), (facts.fact, 13), (facts.capital_then_another, 2),
    (facts.opposite_then_another, 2), (facts.out_of_scope, 3), (reading.read, 17), (reading.read_twice, 5),
    (talk.set_phrase, 4), (talk.remember_name, 2), (talk.remember_favourite, 2), (talk.where_from, 2),
    (talk.repeat, 4), (talk.which_came, 2), (stories.story, 4), (stories.any_story, 1.5),
    (stories.story_then_question, 2.5),
)
"""Exchanges that may follow one another in a chat, and how often each comes."""

BOUND: Weighted = (
    (tools.call, 9), (tools.call_and_tell, 6), (tools.call_again, 3), (tools.no_fitting_tool, 3),
    (tools.tool_not_needed, 3), (talk.persona, 5),
)
"""Exchanges with tools or a system prompt of their own."""

_PERSONA_TOPICS: Weighted = ((sums.add_or_subtract, 1), (facts.fact, 1), (reading.read, 1), (stories.story, 0.3))
_AFTER: Weighted = ((facts.fact, 1), (talk.thanks, 1), (reading.read, 1))
_LENGTHS = ((1, 1, 50), (2, 3, 30), (4, 8, 13), (10, 24, 7))
"""Exchanges in a chat: at least, at most, how often."""


def _pick(rng: Random, table: Weighted) -> Exchange:
    makers, weights = zip(*table, strict=True)
    maker: Generator = rng.choices(makers, weights)[0]
    return maker(rng, False)


def _system(text: str | None) -> tuple[Message, ...]:
    return ({"role": "system", "content": text},) if text else ()


def full_messages(exchange: Exchange) -> tuple[Message, ...]:
    return (*_system(exchange.system), *exchange.messages)


def _free_chat(rng: Random, chat: ChatFormat) -> str:
    low, high, _ = rng.choices(_LENGTHS, [each[2] for each in _LENGTHS])[0]
    messages = [m for _ in range(rng.randint(low, high)) for m in _pick(rng, FREE).messages]
    start = _system(talk.plain_system(rng)) if rng.random() < 0.3 else ()
    return chat.render((*start, *messages))


def _bound_chat(rng: Random, chat: ChatFormat) -> str:
    exchange = _pick(rng, BOUND)
    before: tuple[Message, ...] = ()
    if exchange.system and rng.random() < 0.4:
        before = _pick(rng, _PERSONA_TOPICS).messages
    system = exchange.system or (talk.plain_system(rng) if rng.random() < 0.4 else None)
    after = _pick(rng, _AFTER).messages if rng.random() < 0.3 else ()
    return chat.render((*_system(system), *before, *exchange.messages, *after), exchange.tools)


def document(rng: Random, chat: ChatFormat) -> str:
    """A whole training text: a chat, or now and then a story without a chat."""
    roll = rng.random()
    if roll < 0.05:
        return f"{BEGIN}{stories.plain(rng)}{END}"
    return _bound_chat(rng, chat) if roll < 0.3 else _free_chat(rng, chat)


def documents(rng: Random, chat: ChatFormat) -> Iterator[str]:
    while True:
        yield document(rng, chat)


def rows(texts: Iterator[str], encode: Callable[[str], list[int]], count: int, length: int) -> list[list[int]]:
    """`count` rows of `length` ids; each begins with a document and holds as many as fit, the last one cut."""
    made: list[list[int]] = []
    for _ in range(count):
        row: list[int] = []
        while len(row) < length:
            row.extend(encode(next(texts)))
        made.append(row[:length])
    return made
