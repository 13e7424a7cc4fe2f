"""The pocket model's texts: right by construction, the same for the same seed, held out where they say so."""

import json
import re
from itertools import islice
from random import Random

import pytest
from jinja2.exceptions import TemplateError

from pocket import facts, reading, stories, sums, talk, tools
from pocket.evaluate import GRADED, story_holds
from pocket.exchange import Exchange, is_held, user
from pocket.mix import documents, rows
from pocket.sums import sum_key
from pocket.template import END, ChatFormat

SUM = re.compile(r"(\d+) ([+*-]) (\d+) = (-?\d+)\.")
THREE = re.compile(r"(\d+) \+ (\d+) \+ (\d+) = (\d+)\.")
RESULT = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(islice(documents(Random("test"), ChatFormat()), 1500))


def drawn(maker: object, held: bool, count: int = 200) -> list[Exchange]:
    rng = Random(f"{maker}:{held}"[:20])
    return [maker(rng, held) for _ in range(count)] if callable(maker) else []


def test_a_seed_makes_the_same_texts(texts: list[str]) -> None:
    assert list(islice(documents(Random("test"), ChatFormat()), 1500)) == texts
    assert list(islice(documents(Random("other"), ChatFormat()), 1500)) != texts


def test_every_sum_is_right(texts: list[str]) -> None:
    found = 0
    for a, op, b, result in SUM.findall("\n".join(texts).replace(" + ", " + ")):
        if f"+ {a} {op} {b} = {result}." not in "".join(texts):   # the tail of a sum of three terms
            assert RESULT[op](int(a), int(b)) == int(result), f"{a} {op} {b} = {result}"
            found += 1
    for *terms, result in THREE.findall("\n".join(texts)):
        assert sum(map(int, terms)) == int(result)
        found += 1
    assert found > 300


def test_training_texts_hold_no_held_out_sum(texts: list[str]) -> None:
    whole = "\n".join(texts)
    tails = {match[1:4] for match in re.findall(r"(\+ )(\d+) (\+) (\d+) =", whole)}
    pairs = [(a, op, b) for a, op, b, _ in SUM.findall(whole) if op != "*" and (a, op, b) not in tails]
    leaked = [pair for pair in pairs if is_held(sum_key(pair[1], int(pair[0]), int(pair[2])))]
    assert pairs and not leaked


@pytest.mark.parametrize("maker", [sums.add_or_subtract, sums.three_terms, sums.told, sums.age, reading.read,
                                   facts.fact, talk.repeat, talk.persona, tools.call, stories.story],
                         ids=lambda maker: maker.__name__)
def test_held_out_questions_are_never_drawn_for_training(maker: object) -> None:
    def asked(held: bool) -> set[str]:
        return {json.dumps((e.system, e.messages[:-1], e.facts or e.answer)) for e in drawn(maker, held)}
    assert not asked(True) & asked(False)


def test_reading_answers_stand_in_the_text() -> None:
    for exchange in drawn(reading.read, False, 500):
        text, answer = exchange.messages[0]["content"], exchange.answer["content"]
        words = set(re.findall(r"\w+", answer)) - {"is", "named", "got", "a", "an", "the", "The"}
        assert answer == reading.MISSING or words <= set(re.findall(r"\w+", text)), (text, answer)


def test_reading_sometimes_asks_for_what_is_not_there() -> None:
    answers = [e.answer["content"] for e in drawn(reading.read, False, 300)]
    assert 0 < answers.count(reading.MISSING) < 60


@pytest.mark.parametrize("maker", [tools.call, tools.call_again], ids=lambda maker: maker.__name__)
def test_a_call_is_of_an_offered_tool_with_its_parameters(maker: object) -> None:
    for exchange in drawn(maker, False):
        called = exchange.answer["tool_calls"][0]["function"]
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in exchange.tools}
        assert list(called["arguments"]) == offered[called["name"]]["required"]
        for value in called["arguments"].values():
            assert str(value) in exchange.messages[-2]["content"]


def test_without_a_fitting_tool_there_is_no_call() -> None:
    for exchange in drawn(tools.no_fitting_tool, False):
        assert exchange.answer["content"] == tools.NO_TOOL and "tool_calls" not in exchange.answer


def test_stories_are_whole() -> None:
    for seed in range(300):
        told = stories.tell(Random(seed), False)
        assert not re.search(r"[{}]|\ba [aeiou]| {2}", told.text), told.text
        assert f"{told.blanks['friend']} the {told.blanks['fkind']}" in told.text or "friend" not in told.text
        assert story_holds(told.text + END, (told.blanks["hero"], told.blanks["kind"])), told.text


def test_a_story_that_changes_its_hero_does_not_hold() -> None:
    told = stories.tell(Random(3), False)
    hero, kind = told.blanks["hero"], told.blanks["kind"]
    middle = len(told.text) // 2
    assert not story_holds(told.text[:middle] + told.text[middle:].replace(hero, "Zelda") + END, (hero, kind))
    assert not story_holds(told.text, (hero, kind))
    assert not story_holds(told.text[:middle] * 3 + told.text[middle:] + END, (hero, kind))


def test_the_chat_format() -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    messages = [{"role": "system", "content": "Be kind."}, user("1 + 2?"),
                {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "3"}]
    assert ChatFormat().render(messages, [tools.ADD], prompt=True) == (
        "<|begin|><|system|>Be kind.\nTools:\nadd(a, b): Add two numbers.<|end|><|user|>1 + 2?<|end|><|assistant|>"
        '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call><|end|><|tool|>3<|end|><|assistant|>')


def test_arguments_may_be_json_text_and_content_may_be_parts() -> None:
    def turn(arguments: object) -> dict[str, object]:
        return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    chat = ChatFormat()
    assert chat.render([turn({"x": "é"})]) == chat.render([turn('{"x": "é"}')])
    assert chat.render([user("ab")]) == chat.render(
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises((TemplateError, ValueError), match="wizard"):
        ChatFormat().render([{"role": "wizard", "content": "x"}])


def test_rows_start_with_a_text_and_are_full(texts: list[str]) -> None:
    made = rows(iter(texts), lambda text: list(text.encode()), 3, 1000)
    assert [len(row) for row in made] == [1000] * 3
    assert all(bytes(row).startswith(b"<|begin|>") for row in made)


def test_every_graded_kind_has_held_out_questions() -> None:
    for maker in GRADED:
        exchange = maker(Random(1), True)
        assert exchange.answer["role"] == "assistant" and exchange.kind
