"""Small stories: a hero, a friend, a plot whose moments are told in different ways, and a moral.

What is held out is the pair of hero's name and kind: a story asked for in a test has a hero that no
training story had.
"""

from dataclasses import dataclass
from random import Random

from pocket import more_plots, plots
from pocket.exchange import Exchange, assistant, is_held, user
from pocket.plots import Plot
from pocket.world import ANIMALS, BOYS, COLOURS, FOODS, GIRLS, PLACES, THINGS, a, articles

_PLOTS: tuple[Plot, ...] = (
    plots.LOST, plots.SHARE, plots.DARK, plots.SWIM, plots.SEED, plots.RACE, plots.STORM, plots.BIRTHDAY,
    more_plots.TRUTH, more_plots.BOAT, more_plots.MOON, more_plots.SNOW, more_plots.KITE, more_plots.NEW,
    more_plots.MAP,
)
_KINDS = (*ANIMALS, "child", "dragon", "robot", "unicorn")
_LOOKS = ("little", "small", "young", "shy", "brave", "kind", "clever", "cheerful", "curious", "funny")
_OPENINGS = (
    "Once upon a time, there was {a_hero} named {hero}.", "There once was {a_hero} named {hero}.",
    "In a small house near the {place} lived {a_hero} named {hero}.", "Long ago, there lived {a_hero} named {hero}.",
    "Once there was {a_hero}. {His} name was {hero}.",
)
_ENDINGS = ("That day, {hero} learned that {moral}.", "And so {hero} learned that {moral}.",
            "{hero} went to bed happy. {He} had learned that {moral}.", "From that day on, {hero} knew that {moral}.")
_REQUESTS = ("Tell me a story about {a_kind} named {hero} {title}.",
             "Write a short story about {a_kind} named {hero} {title}.",
             "Please tell me a story about {a_kind} named {hero} {title}.")
_SHORT_REQUESTS = ("Tell me a story about {a_kind} named {hero}.", "Write a short story about {hero}, {a_kind}.",
                   "Can you tell me a story about {a_kind} named {hero}?",
                   "I want a story about {a_kind} named {hero}.")
_OPEN_REQUESTS = ("Tell me a story.", "Tell me a story, please.", "Write a short story.", "Can you tell me a story?",
                  "I want to hear a story.", "tell me a story", "Another story, please.",
                  "Tell me a story about {a_kind}.", "Tell me a short story about {a_kind}.",
                  "Write a story about {a_kind} {title}.", "Please tell me a story about {a_kind}.")


@dataclass(frozen=True)
class Story:
    """A told story and what it is about; `blanks` fill the texts that ask about it."""

    text: str
    plot: Plot
    blanks: dict[str, str]


def _pronouns(name: str) -> dict[str, str]:
    she = name in GIRLS
    return {"he": "she", "him": "her", "his": "her", "himself": "herself"} if she else \
        {"he": "he", "him": "him", "his": "his", "himself": "himself"}


def _blanks(rng: Random, held: bool) -> dict[str, str]:
    """Names and things for one story; the hero's name and kind are on the wanted side of the split."""
    while True:
        hero, kind = rng.choice(GIRLS + BOYS), rng.choice(_KINDS)
        if kind == "child":
            kind = "girl" if hero in GIRLS else "boy"
        if is_held(hero + kind) == held:
            break
    friend, fkind = rng.choice([n for n in GIRLS + BOYS if n != hero]), rng.choice([k for k in ANIMALS if k != kind])
    own = _pronouns(hero)
    return {
        "hero": hero, "kind": kind, "friend": friend, "fkind": fkind, "fhe": _pronouns(friend)["he"], **own,
        "He": own["he"].capitalize(), "His": own["his"].capitalize(), "place": rng.choice(PLACES),
        "thing": rng.choice(THINGS), "colour": rng.choice(COLOURS), "food": rng.choice(FOODS), "a_kind": a(kind),
        "a_hero": a(f"{rng.choice(_LOOKS)} {kind}"),
    }


def tell(rng: Random, held: bool) -> Story:
    plot, blanks = rng.choice(_PLOTS), _blanks(rng, held)
    blanks["moral"], blanks["title"] = plot.moral, plot.title.format(**blanks)
    told = [rng.choice(_OPENINGS), *(rng.choice(moment) for moment in plot.moments), rng.choice(_ENDINGS)]
    return Story(articles(" ".join(told).format(**blanks)), plot, blanks)


def _requested(story: Story, request: str, kind: str = "stories") -> Exchange:
    facts = (story.blanks["hero"], story.blanks["kind"])
    return Exchange(kind, (user(articles(request.format(**story.blanks))), assistant(story.text)), facts=facts)


def story(rng: Random, held: bool) -> Exchange:
    """A story about a named hero, with a plot half of the time."""
    return _requested(tell(rng, held), rng.choice(rng.choice((_REQUESTS, _SHORT_REQUESTS))))


def any_story(rng: Random, held: bool) -> Exchange:
    return _requested(tell(rng, False), rng.choice(_OPEN_REQUESTS), kind="any story")


def story_then_question(rng: Random, held: bool) -> Exchange:
    """A story and then a question about it: the answer stands a few hundred tokens back."""
    told = tell(rng, held)
    hero, kind, friend, fkind = (told.blanks[key] for key in ("hero", "kind", "friend", "fkind"))
    question, answer = rng.choice((
        (f"What did {hero} learn?", f"{hero} learned that {told.plot.moral}."),
        ("What is the moral of the story?", f"The moral is that {told.plot.moral}."),
        ("Who is the story about?", f"The story is about {hero}, {a(kind)}."),
        ("Who is the friend in the story?", f"The friend is {friend} the {fkind}."),
        (f"What kind of animal is {friend}?", f"{friend} is {a(fkind)}."),
    ))
    first = _requested(told, rng.choice(_REQUESTS + _SHORT_REQUESTS))
    return Exchange("refer back", (*first.messages, user(question), assistant(answer)))


def plain(rng: Random) -> str:
    """A story as running text, for completion without a chat."""
    return tell(rng, False).text

