"""Reading: one to five given sentences and a question that one of them answers, or none does.

Names and things are partly invented words, so that the answer has to be found in the text.
"""

from dataclasses import dataclass
from random import Random

from pocket.exchange import Exchange, ask, assistant, draw, is_held, user
from pocket.world import ANIMALS, COLOURS, COUNTED, FOODS, JOBS, PLACES, SPOTS, a, articles, city, name, thing

MISSING = "The text does not say that."


@dataclass(frozen=True)
class _Line:
    """A sentence, the questions it answers with their answers, and what names it for the split."""

    sentence: str
    pairs: tuple[tuple[str, str], ...]
    key: str


def _another(rng: Random, who: str) -> str:
    while (other := name(rng)) == who:
        pass
    return other


def _owns(rng: Random, who: str) -> _Line:
    what, colour = thing(rng), rng.choice(COLOURS)
    return _Line(f"{who} has a {colour} {what}.",
                 ((f"What colour is the {what}?", f"The {what} is {colour}."),
                  (f"What colour is {who}'s {what}?", f"{who}'s {what} is {colour}."),
                  (f"Who has a {what}?", f"{who} has a {what}."),
                  (f"What does {who} have?", f"{who} has a {colour} {what}.")),
                 f"{who} has {what}")


def _lies(rng: Random, who: str) -> _Line:
    what, spot, side = thing(rng), rng.choice(SPOTS), rng.choice(("under", "on", "behind", "near", "next to"))
    return _Line(f"The {what} is {side} the {spot}.",
                 ((f"Where is the {what}?", f"The {what} is {side} the {spot}."),
                  (f"What is {side} the {spot}?", f"The {what} is {side} the {spot}.")), f"{what} is at {spot}")


def _likes(rng: Random, who: str) -> _Line:
    food = rng.choice(FOODS)
    return _Line(f"{who} likes {food}.", ((f"What does {who} like?", f"{who} likes {food}."),
                                          (f"Who likes {food}?", f"{who} likes {food}.")), f"{who} likes {food}")


def _lives(rng: Random, who: str) -> _Line:
    town = city(rng)
    said = f"{who} lives in {town}."
    return _Line(said, ((f"Where does {who} live?", said), (f"Who lives in {town}?", said)), f"{who} lives {town}")


def _counts(rng: Random, who: str) -> _Line:
    number, things = rng.randint(2, 99), rng.choice(COUNTED)
    return _Line(f"{who} has {number} {things}.",
                 ((f"How many {things} does {who} have?", f"{who} has {number} {things}."),
                  (f"Who has {number} {things}?", f"{who} has {number} {things}.")), f"{who} counts {things}")


def _went(rng: Random, who: str) -> _Line:
    place, when = rng.choice(PLACES), rng.choice(("yesterday", "today", "on Monday", "on Friday", "in the morning"))
    return _Line(f"{who} went to the {place} {when}.",
                 ((f"Where did {who} go?", f"{who} went to the {place}."),
                  (f"Who went to the {place}?", f"{who} went to the {place}."),
                  (f"When did {who} go to the {place}?", f"{who} went to the {place} {when}.")), f"{who} went {place}")


def _gave(rng: Random, who: str) -> _Line:
    what, other = thing(rng), _another(rng, who)
    return _Line(f"{who} gave {other} a {what}.",
                 ((f"What did {who} give to {other}?", f"{who} gave {other} a {what}."),
                  (f"Who gave {other} a {what}?", f"{who} gave {other} a {what}."),
                  (f"Who got the {what}?", f"{other} got the {what}.")), f"{who} gave {what}")


def _works(rng: Random, who: str) -> _Line:
    job = rng.choice(JOBS)
    return _Line(f"{who} is a {job}.", ((f"What is {who}'s job?", f"{who} is a {job}."),
                                        (f"Who is the {job}?", f"{who} is the {job}.")), f"{who} works {job}")


def _pet(rng: Random, who: str) -> _Line:
    animal, called = rng.choice(ANIMALS), name(rng)
    return _Line(f"{who} has {a(animal)} named {called}.",
                 ((f"What is the name of {who}'s {animal}?", f"{who}'s {animal} is named {called}."),
                  (f"What animal does {who} have?", f"{who} has {a(animal)}."),
                  (f"Who has {a(animal)}?", f"{who} has {a(animal)}.")), f"{who} pet {animal}")


def _taller(rng: Random, who: str) -> _Line:
    other, word = _another(rng, who), rng.choice(("taller", "older", "faster", "stronger"))
    return _Line(f"{who} is {word} than {other}.", ((f"Who is {word}, {who} or {other}?", f"{who} is {word}."),
                                                    (f"Who is {word}, {other} or {who}?", f"{who} is {word}.")),
                 f"{who} over {other}")


_KINDS = (_owns, _lies, _likes, _lives, _counts, _went, _gave, _works, _pet, _taller)
_FRAMES = ("{text} {question}", "{text} {question}", "{text}\n{question}", "Read this: {text} {question}",
           "Text: {text}\nQuestion: {question}")


def _lines(rng: Random) -> list[_Line]:
    """One to five lines, each about someone else; often two of a sort, so that the names decide."""
    whos: list[str] = []
    count = rng.choice((1, 2, 2, 3, 4, 5))
    while len(whos) < count:
        if (who := name(rng)) not in whos:
            whos.append(who)
    same = rng.choice(_KINDS)
    return [(same if rng.random() < 0.4 else rng.choice(_KINDS))(rng, who) for who in whos]


def _clear(question: str, lines: list[_Line]) -> bool:
    """No other line answers the same question."""
    return sum(question == q for line in lines for q, _ in line.pairs) == 1


def read(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        while True:
            lines = _lines(rng)
            line = rng.choice(lines)
            question, answer = rng.choice(line.pairs)
            if _clear(question, lines):
                break
        text = articles(" ".join(each.sentence for each in lines))
        key = line.key
        if rng.random() < 0.08:
            question, answer = rng.choice(_missing(rng))
        frame = rng.choice(_FRAMES).format(text=text, question=articles(question))
        return key, ask("reading", frame, articles(answer))
    return draw(held, propose)


def _missing(rng: Random) -> list[tuple[str, str]]:
    """Questions about somebody the text does not name."""
    stranger = f"{name(rng)[0]}{rng.choice(('ardo', 'elia', 'umbo', 'indra'))}"
    return [(f"Where does {stranger} live?", MISSING), (f"What does {stranger} like?", MISSING),
            (f"What is {stranger}'s job?", MISSING), (f"Where did {stranger} go?", MISSING)]


def read_twice(rng: Random, held: bool) -> Exchange:
    """Two questions about one text; the second turn has to look back over the first answer."""
    first = read(rng, held)
    while True:
        line, other = (rng.choice(_KINDS)(rng, name(rng)) for _ in range(2))
        split_ok = is_held(line.key) == held and is_held(other.key) == held
        if split_ok and all(_clear(q, [line, other]) for q, _ in (*line.pairs, *other.pairs)):
            break
    (q1, a1), (q2, a2) = rng.choice(line.pairs), rng.choice(other.pairs)
    text = f"{line.sentence} {other.sentence}" if rng.random() < 0.5 else f"{other.sentence} {line.sentence}"
    text, q1, a1, q2, a2 = map(articles, (text, q1, a1, q2, a2))
    if rng.random() < 0.3:
        return Exchange("refer back", (*first.messages, user(f"{text} {q2}"), assistant(a2)))
    return Exchange("refer back", (user(f"{text} {q1}"), assistant(a1), user(q2), assistant(a2)))
