"""The small closed world: who and what the texts are about."""

import re
from random import Random

GIRLS = (
    "Lily", "Mia", "Anna", "Zoe", "Ella", "Nora", "Ruby", "Ivy", "Rosa", "Lena", "Tina", "Maya", "Sara", "Emma",
    "Clara", "Daisy", "Hazel", "Luna", "Alice", "Poppy", "Wendy", "Fiona", "Greta", "Kira", "Molly", "Penny",
    "Stella", "Vera", "Amy", "Jane", "Olive", "Pearl",
)
BOYS = (
    "Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Finn", "Oscar", "Hugo", "Theo", "Noah", "Adam", "Paul", "Pip",
    "Milo", "Felix", "Otto", "Bruno", "Victor", "Simon", "Peter", "Oliver", "Henry", "George", "Toby", "Rufus",
    "Jasper", "Karl", "Dan", "Nico", "Ralph", "Will",
)
NAMES = GIRLS + BOYS
ANIMALS = (
    "fox", "rabbit", "bear", "mouse", "frog", "owl", "cat", "dog", "duck", "hedgehog", "squirrel", "turtle",
    "pig", "goat", "otter", "badger", "lamb", "pony", "beaver", "penguin", "elephant", "lion", "monkey", "deer",
)
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink", "purple", "orange", "grey")
THINGS = (
    "ball", "hat", "kite", "cup", "book", "bag", "box", "coat", "boat", "drum", "lamp", "scarf", "bell", "spoon",
    "key", "ring", "basket", "bike", "pencil", "blanket", "umbrella", "button", "whistle", "doll", "plate",
)
SPOTS = ("table", "bed", "chair", "tree", "shelf", "bench", "door", "sofa", "window", "desk", "stairs", "rug")
PLACES = (
    "park", "school", "shop", "beach", "farm", "library", "zoo", "market", "river", "garden", "museum", "forest",
    "station", "lake", "bakery", "castle",
)
FOODS = (
    "apples", "bread", "cheese", "soup", "cake", "rice", "pears", "honey", "nuts", "plums", "cookies", "carrots",
    "pancakes", "grapes", "noodles", "beans",
)
COUNTED = (
    "apples", "books", "shells", "stones", "cookies", "marbles", "stamps", "flowers", "pencils", "buttons",
    "balloons", "eggs", "coins", "cards", "leaves", "toys",
)
CITIES = (
    "Paris", "Rome", "Madrid", "Berlin", "London", "Lisbon", "Vienna", "Athens", "Oslo", "Dublin", "Prague",
    "Warsaw", "Cairo", "Tokyo", "Beijing", "Delhi", "Ottawa", "Lima", "Havana", "Bern", "Helsinki", "Stockholm",
    "Budapest", "Nairobi", "Boston", "Chicago", "Seattle", "Milan", "Porto", "Hamburg", "Kyoto", "Sydney",
    "Mumbai", "Toronto", "Geneva", "Naples", "Seville", "Munich", "Denver", "Dallas",
)
JOBS = ("baker", "farmer", "teacher", "doctor", "sailor", "painter", "pilot", "singer", "gardener", "cook")

_BARE = re.compile(r"\b([Aa]) (?=[aeiou])")
_STARTS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "tr", "sk", "pl", "sh")
_VOWELS = ("a", "e", "i", "o", "u", "ee", "oo")
_ENDS = ("", "", "n", "l", "r", "s", "k", "m", "x")


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def articles(text: str) -> str:
    """`a` becomes `an` before a vowel, in a text that was filled in."""
    return _BARE.sub(r"\1n ", text)


def invent(rng: Random) -> str:
    """A word that nobody has heard, so that names are read from the text and not remembered."""
    syllables = (rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 3)))
    return "".join(syllables) + rng.choice(_ENDS)


def name(rng: Random) -> str:
    return rng.choice(NAMES) if rng.random() < 0.7 else invent(rng).capitalize()


def city(rng: Random) -> str:
    return rng.choice(CITIES) if rng.random() < 0.7 else invent(rng).capitalize()


def thing(rng: Random) -> str:
    return rng.choice(THINGS) if rng.random() < 0.85 else invent(rng)


def two(rng: Random) -> tuple[str, str]:
    """Two different names."""
    first = name(rng)
    while (second := name(rng)) == first:
        pass
    return first, second
