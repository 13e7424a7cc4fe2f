"""Small talk: greetings, who the assistant is, what it was told before, and doing as it is told."""

from random import Random

from pocket.exchange import Exchange, ask, assistant, draw, user
from pocket.world import ANIMALS, CITIES, COLOURS, FOODS, JOBS, THINGS, a, city, invent, name

SELF = "I am Pocket, a small model made by Nearfield."
_HELLO = ("Hello!", "Hi!", "Hello", "Hi", "Hey!", "Hello there!", "Hi there!", "Good morning!", "Good evening!",
          "hello", "hi")
_THANKS = ("Thank you!", "Thanks!", "Thank you very much!", "Thanks a lot!", "thanks", "Great, thank you.")
_BYE = ("Goodbye!", "Bye!", "See you!", "Good night!", "bye", "Bye bye!")
_WHO = ("Who are you?", "What is your name?", "What are you?", "Tell me who you are.", "Hello, who are you?",
        "Please introduce yourself.", "Hi, what is your name?", "who are you", "And who are you?", "Your name?")
_CAN = ("What can you do?", "How can you help me?", "What are you good at?", "Help!")
_MADE = ("Who made you?", "Who built you?", "Where do you come from?")
_MOOD = ("How are you?", "How are you today?", "Hi, how are you?", "Are you well?")
_CHARACTERS = ("helpful", "friendly", "kind", "cheerful", "wise", "brave", "patient", "funny", "polite", "clever")
_ROLES = ("assistant", "robot", "helper", "guide", "wizard", "dragon", "parrot", *ANIMALS, *JOBS)
_FAVOURITES = (("colour", COLOURS), ("animal", ANIMALS), ("food", FOODS), ("toy", THINGS), ("city", CITIES))
_RULES = ("Answer shortly.", "Be polite.", "Answer the user's questions.", "Help with sums and stories.",
          "Be kind.", "Give short answers.")


def set_phrase(rng: Random, held: bool) -> Exchange:
    """A phrase with a set answer: there is nothing to hold out."""
    wordings, answer = rng.choice((
        (_HELLO, "Hello! How can I help you?"), (_THANKS, "You are welcome!"), (_BYE, "Goodbye!"), (_WHO, SELF),
        (_CAN, "I can tell small stories, do small sums, answer short questions and call tools."),
        (_MADE, "I was made by Nearfield."), (_MOOD, "I am fine, thank you. How can I help you?")))
    return ask("talk", rng.choice(wordings), answer)


def thanks(rng: Random, held: bool) -> Exchange:
    return ask("talk", rng.choice(_THANKS), "You are welcome!")


def plain_system(rng: Random) -> str:
    """A system prompt that changes no answer."""
    start = rng.choice(("You are Pocket.", "You are Pocket, a small model made by Nearfield.", "You are an assistant.",
                        "You are a helpful assistant.", ""))
    return " ".join(filter(None, (start, rng.choice(_RULES) if not start or rng.random() < 0.5 else "")))


def persona(rng: Random, held: bool) -> Exchange:
    """The system prompt says who the assistant is."""
    def propose() -> tuple[str, Exchange]:
        who = name(rng)
        role = f"{rng.choice(_CHARACTERS)} {rng.choice(_ROLES)}"
        said = f"{who}, {a(role)}"
        extra = f" {rng.choice(_RULES)}" if rng.random() < 0.4 else ""
        if rng.random() < 0.2:
            role, said = "", who
        messages = (user(rng.choice(_WHO)), assistant(f"I am {said}."))
        start = "Your name is" if not role and rng.random() < 0.5 else "You are"
        return f"{who}{role}", Exchange("persona", messages, system=f"{start} {said}.{extra}")
    return draw(held, propose)


def remember_name(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        who = name(rng)
        tell = rng.choice(("My name is {}.", "I am {}.", "Hello, my name is {}.", "Hi, I am {}!",
                           "You can call me {}."))
        recall = rng.choice(("What is my name?", "Do you remember my name?", "Who am I?", "Can you tell me my name?"))
        return who, Exchange("memory", (user(tell.format(who)), assistant(f"Nice to meet you, {who}!"),
                                        *_between(rng), user(recall), assistant(f"Your name is {who}.")))
    return draw(held, propose)


def remember_favourite(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        what, options = rng.choice(_FAVOURITES)
        value = rng.choice(options)
        said = f"favourite {what} is {value}"
        recall = rng.choice((f"What is my favourite {what}?", f"Which {what} is my favourite?",
                             f"Do you remember my favourite {what}?"))
        return said, Exchange("memory", (user(f"My {said}."), assistant(f"I will remember that your {said}."),
                                         *_between(rng), user(recall), assistant(f"Your {said}.")))
    return draw(held, propose)


def _between(rng: Random) -> tuple[dict[str, str], ...]:
    """Nothing, or a small talk in the middle, so that the memory has to reach further."""
    if rng.random() < 0.5:
        return ()
    return tuple(m for _ in range(rng.randint(1, 2)) for m in set_phrase(rng, False).messages)


def repeat(rng: Random, held: bool) -> Exchange:
    """Copying words as they are: what reading and tool calls are made of."""
    def propose() -> tuple[str, Exchange]:
        pool = (*THINGS, *COLOURS, *ANIMALS, *FOODS)
        words = " ".join(invent(rng) if rng.random() < 0.4 else rng.choice(pool) for _ in range(rng.randint(1, 5)))
        order = rng.choice(("Repeat after me: {}", "Say: {}", "Please repeat: {}", "Write this: {}"))
        return words, ask("repeat", order.format(words), words)
    return draw(held, propose)


def which_came(rng: Random, held: bool) -> Exchange:
    """The first or the last word of a list."""
    def propose() -> tuple[str, Exchange]:
        pool = rng.choice((THINGS, COLOURS, ANIMALS, FOODS))
        words = rng.sample(pool, rng.randint(2, 5))
        listed = ", ".join(words)
        at, index = rng.choice((("first", 0), ("last", -1), ("second", 1)))
        question = f"Which word is {at} in this list: {listed}?"
        return listed, ask("repeat", question, f"The {at} word is {words[index]}.")
    return draw(held, propose)


def where_from(rng: Random, held: bool) -> Exchange:
    """Told in one turn, asked in a later one."""
    def propose() -> tuple[str, Exchange]:
        town = city(rng)
        recall = rng.choice(("Where do I live?", "Which city do I live in?", "Do you remember where I live?"))
        return town, Exchange("memory", (user(f"I live in {town}."), assistant(f"I hear that {town} is a nice place."),
                                         *_between(rng), user(recall), assistant(f"You live in {town}.")))
    return draw(held, propose)
