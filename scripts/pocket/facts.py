"""Facts of the closed world, asked in several wordings; one wording of a fact in ten is held out."""

from random import Random

from pocket.exchange import Exchange, ask, assistant, draw, is_held, user
from pocket.world import a

_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "England": "London",
    "Portugal": "Lisbon", "Austria": "Vienna", "Greece": "Athens", "Norway": "Oslo", "Ireland": "Dublin",
    "Poland": "Warsaw", "Egypt": "Cairo", "Japan": "Tokyo", "China": "Beijing", "Canada": "Ottawa", "Peru": "Lima",
    "Cuba": "Havana", "Finland": "Helsinki", "Sweden": "Stockholm", "Hungary": "Budapest", "Kenya": "Nairobi",
    "India": "New Delhi", "Switzerland": "Bern", "Denmark": "Copenhagen",
}
_OPPOSITES = (
    ("big", "small"), ("hot", "cold"), ("up", "down"), ("fast", "slow"), ("day", "night"), ("happy", "sad"),
    ("open", "closed"), ("old", "young"), ("wet", "dry"), ("light", "dark"), ("full", "empty"), ("high", "low"),
    ("hard", "soft"), ("long", "short"), ("loud", "quiet"), ("good", "bad"), ("left", "right"), ("early", "late"),
    ("strong", "weak"), ("clean", "dirty"), ("near", "far"), ("first", "last"), ("sweet", "sour"), ("thick", "thin"),
)
_SOUNDS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "lion": "roar",
    "frog": "ribbit", "owl": "hoot", "bee": "buzz", "snake": "hiss", "mouse": "squeak",
}
_YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "duck": "duckling", "sheep": "lamb", "horse": "foal",
    "bear": "cub", "hen": "chick", "goat": "kid", "frog": "tadpole", "deer": "fawn", "pig": "piglet",
}
_LEGS = {"dog": 4, "spider": 8, "bird": 2, "cat": 4, "ant": 6, "cow": 4, "bee": 6, "horse": 4, "snake": 0, "hen": 2}
_COLOURS = {
    "grass": "green", "snow": "white", "the sky": "blue", "a banana": "yellow", "blood": "red", "coal": "black",
    "a carrot": "orange", "milk": "white", "a lemon": "yellow", "a frog": "green", "chocolate": "brown",
    "an elephant": "grey", "the night": "black", "a strawberry": "red", "the sea": "blue",
}
_HOMES = {
    "bird": "a nest", "bee": "a hive", "fish": "the water", "bear": "a cave", "rabbit": "a burrow", "cow": "a barn",
    "spider": "a web", "ant": "an anthill", "camel": "the desert", "penguin": "the cold south", "monkey": "the trees",
}
_FOODS = {
    "rabbit": "carrots", "cow": "grass", "cat": "mice", "squirrel": "nuts", "monkey": "bananas", "bear": "honey",
    "lion": "meat", "panda": "bamboo", "hen": "seeds", "horse": "hay", "owl": "mice", "frog": "flies",
}
_GROUPS = {
    "fruit": ("apple", "banana", "pear", "plum", "cherry", "grape", "lemon", "peach"),
    "animal": ("dog", "cat", "lion", "frog", "horse", "owl", "mouse", "goat"),
    "colour": ("red", "blue", "green", "yellow", "purple", "pink", "white"),
    "vegetable": ("carrot", "potato", "onion", "cabbage", "bean", "pea"),
    "tool": ("hammer", "saw", "spade", "drill", "rake"),
    "season": ("spring", "summer", "autumn", "winter"),
}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")
_ORDER = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
          "eleventh", "twelfth")
_SINGLE = (
    ("How many days are in a week?", "There are 7 days in a week."),
    ("How many months are in a year?", "There are 12 months in a year."),
    ("How many hours are in a day?", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour."),
    ("How many seconds are in a minute?", "There are 60 seconds in a minute."),
    ("What do we breathe?", "We breathe air."), ("What do plants need?", "Plants need water and light."),
    ("What falls from the clouds?", "Rain falls from the clouds."), ("What is ice made of?", "Ice is made of water."),
    ("What shines in the day?", "The sun shines in the day."),
    ("What shines at night?", "The moon and the stars shine at night."),
    ("What is the biggest animal?", "The biggest animal is the blue whale."),
    ("What do bees make?", "Bees make honey."), ("What do cows give us?", "Cows give us milk."),
    ("Where does the sun rise?", "The sun rises in the east."),
    ("Where does the sun set?", "The sun sets in the west."),
    ("How many seasons are there?", "There are 4 seasons: spring, summer, autumn and winter."),
    ("Which planet do we live on?", "We live on the Earth."), ("What do we read?", "We read books."),
    ("What are the days of the week?", "The days of the week are " + ", ".join(_DAYS) + "."),
    ("What are the primary colours?", "The primary colours are red, yellow and blue."),
)
_LEADS = ("", "", "", "Tell me: ", "Please tell me: ", "Quick question: ", "Can you tell me this? ", "Hi! ",
          "I have a question. ", "Do you know this? ")

Fact = tuple[tuple[str, ...], str]
"""Wordings of one question, and its answer."""


def capital(country: str) -> str:
    return f"The capital of {country} is {_CAPITALS[country]}."


def _pairs() -> list[Fact]:
    both = [*_OPPOSITES, *((second, first) for first, second in _OPPOSITES)]
    facts: list[Fact] = [((f"What is the opposite of {x}?", f"Tell me the opposite of {x}.", f"Opposite of {x}?"),
                          f"The opposite of {x} is {y}.") for x, y in both]
    for country in _CAPITALS:
        facts.append(((f"What is the capital of {country}?", f"Which city is the capital of {country}?",
                       f"Tell me the capital of {country}.", f"Capital of {country}?"), capital(country)))
    for country, town in _CAPITALS.items():
        facts.append(((f"Which country has the capital {town}?", f"{town} is the capital of which country?"),
                      f"{town} is the capital of {country}."))
    return facts


def _animals() -> list[Fact]:
    facts: list[Fact] = []
    for x, y in _SOUNDS.items():
        facts.append(((f"What does {a(x)} say?", f"What sound does {a(x)} make?"), f"{a(x).capitalize()} says {y}."))
    for x, y in _YOUNG.items():
        facts.append(((f"What is a young {x} called?", f"What do you call a young {x}?", f"What is a baby {x} called?"),
                      f"A young {x} is called {a(y)}."))
    for x, n in _LEGS.items():
        facts.append(((f"How many legs does {a(x)} have?", f"How many legs has {a(x)}?"),
                      f"{a(x).capitalize()} has {n} legs."))
    for x, y in _HOMES.items():
        facts.append(((f"Where does {a(x)} live?", f"What is the home of {a(x)}?"),
                      f"{a(x).capitalize()} lives in {y}."))
    for x, y in _FOODS.items():
        facts.append(((f"What does {a(x)} eat?", f"What does {a(x)} like to eat?"), f"{a(x).capitalize()} eats {y}."))
    return facts


def _things() -> list[Fact]:
    facts: list[Fact] = [((question,), answer) for question, answer in _SINGLE]
    for x, y in _COLOURS.items():
        facts.append(((f"What colour is {x}?", f"Which colour has {x}?", f"What color is {x}?"),
                      f"{x[0].upper()}{x[1:]} is {y}."))
    for group, members in _GROUPS.items():
        for x in members:
            noun = x if group in ("colour", "season") else a(x)
            facts.append(((f"What is {noun}?", f"What kind of thing is {noun}?"),
                          f"{noun[0].upper()}{noun[1:]} is {a(group)}."))
    return facts


def _calendar() -> list[Fact]:
    facts: list[Fact] = []
    for row, unit in ((_DAYS, "day"), (_MONTHS, "month")):
        for i, x in enumerate(row):
            after, before = row[(i + 1) % len(row)], row[i - 1]
            facts.append(((f"What {unit} comes after {x}?", f"Which {unit} is after {x}?", f"What follows {x}?"),
                          f"{after} comes after {x}."))
            facts.append(((f"What {unit} comes before {x}?", f"Which {unit} is before {x}?"),
                          f"{before} comes before {x}."))
            span = "week" if unit == "day" else "year"
            facts.append(((f"What is the {_ORDER[i]} {unit} of the {span}?",
                           f"Which {unit} of the {span} is {_ORDER[i]}?"),
                          f"The {_ORDER[i]} {unit} of the {span} is {x}."))
    return facts


def _all() -> tuple[tuple[Fact, ...], ...]:
    return tuple(_pairs()), tuple(_animals()), tuple(_things()), tuple(_calendar())


_FACTS = _all()


def fact(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        wordings, answer = rng.choice(rng.choice(_FACTS))
        question = rng.choice(_LEADS) + rng.choice(wordings)
        if rng.random() < 0.1:
            question = question[0].lower() + question[1:].rstrip("?.")
        return question, ask("facts", question, answer)
    return draw(held, propose)


def capital_then_another(rng: Random, held: bool) -> Exchange:
    """A second question that leaves out what the first one said."""
    while True:
        first, second = rng.sample(sorted(_CAPITALS), 2)
        follow = rng.choice(("And of {}?", "And {}?", "What about {}?")).format(second)
        if is_held(first + follow) == held:
            return Exchange("refer back", (user(f"What is the capital of {first}?"), assistant(capital(first)),
                                           user(follow), assistant(capital(second))))


def opposite_then_another(rng: Random, held: bool) -> Exchange:
    while True:
        (x, y), (u, v) = rng.sample(_OPPOSITES, 2)
        if is_held(x + u) == held:
            return Exchange("refer back", (
                user(f"What is the opposite of {x}?"), assistant(f"The opposite of {x} is {y}."),
                user(rng.choice(("And of {}?", "And {}?", "What about {}?")).format(u)),
                assistant(f"The opposite of {u} is {v}.")))


_ODD = ("Who won the game in {}?", "What did the king say in {}?", "How tall is the tower of {}?",
        "Who wrote the song about {}?", "What is the phone number of {}?", "How do I fix my {}?",
        "What is the meaning of {}?", "Can you explain {} to me?", "Why is {} so famous?", "Who is {}?",
        "Tell me a joke about {}.",
        "Write a poem about {}.",
        "Translate a text about {} into French.", "What do you think about {}?", "Write code for {}.",
        "Give me advice about {}.", "When was {}?")
_TOPICS = ("1998", "quantum physics", "my computer", "the stock market", "the president", "Shakespeare", "my car",
           "philosophy", "the law", "chemistry", "football", "the internet", "the war", "my neighbour", "2015",
           "medicine", "democracy", "the pyramids", "an engine", "music theory", "the mayor", "poetry")
UNKNOWN = "I do not know that. I am a small model."


def out_of_scope(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        question = rng.choice(_ODD).format(rng.choice(_TOPICS))
        return question, ask("unknown", question, UNKNOWN)
    return draw(held, propose)
