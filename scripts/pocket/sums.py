"""Sums: additions and subtractions up to two digits, three small terms, times tables, and sums told as stories.

A sum that is held out is held out in both orders and in every wording, so that accuracy is never recall.
The times table is the exception: ten by ten products have no rule to generalise from at this size, so
there the wording is held out and the product is not.
"""

from random import Random

from pocket.exchange import Exchange, ask, assistant, draw, is_held, user
from pocket.world import COUNTED, name, two

_PLUS = ("What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} + {b}?", "{a} + {b} = ?", "Add {a} and {b}.",
         "Please add {a} and {b}.", "Can you tell me what {a} plus {b} is?", "{a}+{b}", "Calculate {a} + {b}.",
         "what is {a} + {b}", "What's {a} + {b}?", "{a} plus {b}?", "{a} + {b}")
_MINUS = ("What is {a} - {b}?", "What is {a} minus {b}?", "How much is {a} - {b}?", "{a} - {b} = ?",
          "Take {b} away from {a}.", "Subtract {b} from {a}.", "{a}-{b}", "Calculate {a} - {b}.", "what is {a} - {b}",
          "What's {a} - {b}?", "{a} minus {b}?", "{a} - {b}")
_TIMES = ("What is {a} * {b}?", "What is {a} times {b}?", "How much is {a} times {b}?", "{a} * {b} = ?",
          "Multiply {a} by {b}.", "{a}*{b}", "Calculate {a} * {b}.", "Tell me what {a} times {b} is.")
_MORE = ("{x} has {a} {things}. {y} gives {x} {b} more. How many {things} does {x} have now?",
         "{x} has {a} {things} and finds {b} more. How many {things} does {x} have now?",
         "There are {a} {things} on the table. {x} puts {b} more there. How many {things} are there now?",
         "{x} has {a} {things}. {y} has {b} {things}. How many {things} do they have together?")
_LESS = ("{x} has {a} {things}. {x} gives {b} to {y}. How many {things} does {x} have now?",
         "{x} had {a} {things} and lost {b}. How many {things} does {x} have now?",
         "There are {a} {things} in a box. {x} takes {b} out. How many {things} are left?")


def sum_key(op: str, *terms: int) -> str:
    """Names a sum whatever the order of its terms."""
    return op + ",".join(map(str, sorted(terms)))


def _number(rng: Random) -> int:
    return rng.randint(0, 99) if rng.random() < 0.8 else rng.randint(0, 20)


def _pair(rng: Random) -> tuple[str, int, int, int]:
    """An operator, two terms and the result; a result is never negative."""
    first, second = _number(rng), _number(rng)
    if rng.random() < 0.5:
        return "+", first, second, first + second
    return "-", max(first, second), min(first, second), abs(first - second)


def add_or_subtract(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        op, first, second, result = _pair(rng)
        question = rng.choice(_PLUS if op == "+" else _MINUS).format(a=first, b=second)
        return sum_key(op, first, second), ask("sums", question, f"{first} {op} {second} = {result}.")
    return draw(held, propose)


def three_terms(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        terms = [rng.randint(0, 20) for _ in range(3)]
        written = " + ".join(map(str, terms))
        question = rng.choice(("What is {}?", "How much is {}?", "{} = ?", "Calculate {}.")).format(written)
        return sum_key("+", *terms), ask("sums of three", question, f"{written} = {sum(terms)}.")
    return draw(held, propose)


def times_table(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        first, second, wording = rng.randint(1, 10), rng.randint(1, 10), rng.choice(_TIMES)
        question = wording.format(a=first, b=second)
        return question, ask("times table", question, f"{first} * {second} = {first * second}.")
    return draw(held, propose)


def told(rng: Random, held: bool) -> Exchange:
    """A sum told as a small event; the answer shows the sum first and then says it in words."""
    def propose() -> tuple[str, Exchange]:
        op, first, second, result = _pair(rng)
        x, y = two(rng)
        things = rng.choice(COUNTED)
        question = rng.choice(_MORE if op == "+" else _LESS).format(a=first, b=second, x=x, y=y, things=things)
        answer = f"{first} {op} {second} = {result}. {_said(question, x, things, result)}"
        return sum_key(op, first, second), ask("told sums", question, answer)
    return draw(held, propose)


def _said(question: str, x: str, things: str, result: int) -> str:
    if "together" in question:
        return f"They have {result} {things} together."
    if question.endswith("left?"):
        return f"{result} {things} are left."
    if "are there now" in question:
        return f"There are {result} {things} now."
    return f"{x} has {result} {things} now."


def chained(rng: Random, held: bool) -> Exchange:
    """A second question that starts from the first one's result."""
    while True:
        first, second, third = rng.randint(1, 40), rng.randint(1, 40), rng.randint(1, 19)
        total = first + second
        grow = rng.random() < 0.5 or third > total
        key = sum_key("+" if grow else "-", total, third)
        if is_held(key) != held or is_held(sum_key("+", first, second)):
            continue
        wording = ("And if you add {} more?", "Now add {}.") if grow else ("And minus {}?", "Now take away {}.")
        op, result = ("+", total + third) if grow else ("-", total - third)
        return Exchange("chained sums", (
            user(rng.choice(_PLUS).format(a=first, b=second)), assistant(f"{first} + {second} = {total}."),
            user(rng.choice(wording).format(third)), assistant(f"{total} {op} {third} = {result}.")))


def bigger(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        first, second = rng.sample(range(100), 2)
        word, wanted = rng.choice((("bigger", max), ("smaller", min)))
        chosen = wanted(first, second)
        other = first + second - chosen
        question = rng.choice((f"Which is {word}, {first} or {second}?",
                               f"Which number is {word}: {first} or {second}?"))
        return sum_key(word, first, second), ask("sums", question, f"{chosen} is {word} than {other}.")
    return draw(held, propose)


def count(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        low = rng.choice((1, rng.randint(0, 30)))
        high = low + rng.randint(2, 9)
        numbers = ", ".join(map(str, range(low, high + 1)))
        wordings = [f"Count from {low} to {high}.", f"Can you count from {low} to {high}?"]
        question = rng.choice(wordings + [f"Count to {high}."] * (low == 1))
        return f"count{low},{high}", ask("sums", question, f"{numbers}.")
    return draw(held, propose)


def age(rng: Random, held: bool) -> Exchange:
    """Sums about ages, where the names decide what is asked."""
    def propose() -> tuple[str, Exchange]:
        years, more, who = rng.randint(2, 60), rng.randint(1, 9), name(rng)
        question = f"{who} is {years} years old. How old will {who} be in {more} years?"
        return sum_key("+", years, more), ask(
            "told sums", question, f"{years} + {more} = {years + more}. {who} will be {years + more} years old.")
    return draw(held, propose)
