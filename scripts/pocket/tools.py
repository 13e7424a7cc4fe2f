"""Tool calls: the assistant emits one call, or answers from a tool's result, or does without.

The rule is simple: a tool that fits is called. Without one, what the assistant knows (small sums, facts) is
answered, and for the rest it says that it has no tool.
"""

from collections.abc import Callable
from json import dumps
from random import Random
from typing import Any

from pocket.exchange import Exchange, Message, Tool, assistant, draw, user
from pocket.facts import fact
from pocket.sums import add_or_subtract, sum_key
from pocket.talk import set_phrase
from pocket.world import FOODS, PLACES, THINGS, city, name

NO_TOOL = "I have no tool for that."


def _tool(title: str, description: str, **parameters: str) -> Tool:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": title, "description": description, "parameters": schema}}


_WEATHER = (_tool("get_weather", "Get the weather in a city.", city="string"),
            _tool("get_weather", "Get the current weather.", location="string"))
_TIME = (_tool("get_time", "Get the time in a city.", city="string"),
         _tool("get_time", "Get the current time.", location="string"))
ADD = _tool("add", "Add two numbers.", a="integer", b="integer")
MULTIPLY = _tool("multiply", "Multiply two numbers.", a="integer", b="integer")
SEARCH = _tool("search", "Search the web.", query="string")
TIMER = _tool("set_timer", "Set a timer.", minutes="integer")
MESSAGE = _tool("send_message", "Send a message to a person.", to="string", text="string")
MUSIC = _tool("play_music", "Play a song.", song="string")
TOOLS: tuple[Tool, ...] = (*_WEATHER, *_TIME, ADD, MULTIPLY, SEARCH, TIMER, MESSAGE, MUSIC)
_SUBJECTS = ("the history of {}", "the best {} shop", "pictures of {}", "how to make {}", "the price of {}",
             "books about {}", "news about {}", "the colour of {}", "songs about {}", "{} recipes")
_TEXTS = ("I am late", "see you soon", "happy birthday", "the cake is ready", "call me", "I am at the {}",
          "meet me at the {}", "please bring the {}", "I found your {}", "good night")
_SKIES = ("sunny", "rainy", "cloudy", "windy", "foggy", "snowy")

Task = tuple[str, Tool, dict[str, Any], str, str]
"""Question, tool, arguments, the tool's result, the answer that tells it."""


def _name(tool: Tool) -> str:
    return str(tool["function"]["name"])


def _place(tool: Tool, town: str) -> dict[str, Any]:
    """The town under the name that this tool has for it."""
    return {tool["function"]["parameters"]["required"][0]: town}


def _weather(rng: Random) -> Task:
    tool, town, sky, degrees = rng.choice(_WEATHER), city(rng), rng.choice(_SKIES), rng.randint(0, 35)
    question = rng.choice(("What is the weather in {}?", "How is the weather in {}?", "What is the weather like in {}?",
                           "Weather in {}?", "Tell me the weather in {}.", "What's the weather in {} today?"))
    return (question.format(town), tool, _place(tool, town), dumps({"weather": sky, "temperature": degrees}),
            f"It is {sky} in {town}, {degrees} degrees.")


def _time(rng: Random) -> Task:
    tool, town, clock = rng.choice(_TIME), city(rng), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    question = rng.choice(("What time is it in {}?", "What is the time in {}?", "Tell me the time in {}.",
                           "Time in {}?"))
    return question.format(town), tool, _place(tool, town), dumps({"time": clock}), f"It is {clock} in {town}."


def _two_numbers(rng: Random, low: int, middle: int, high: int) -> tuple[int, int]:
    """Both small (up to `middle`: what can be answered without a tool) or both large."""
    first, last = (low, middle) if rng.random() < 0.3 else (middle + 1, high)
    return rng.randint(first, last), rng.randint(first, last)


def _add(rng: Random) -> Task:
    x, y = _two_numbers(rng, 1, 99, 9999)
    question = rng.choice(("What is {} + {}?", "What is {} plus {}?", "Add {} and {}.", "{} + {} = ?",
                           "How much is {} + {}?"))
    return question.format(x, y), ADD, {"a": x, "b": y}, str(x + y), f"{x} + {y} = {x + y}."


def _multiply(rng: Random) -> Task:
    x, y = _two_numbers(rng, 2, 10, 999)
    question = rng.choice(("What is {} * {}?", "What is {} times {}?", "Multiply {} by {}.", "{} * {} = ?"))
    return question.format(x, y), MULTIPLY, {"a": x, "b": y}, str(x * y), f"{x} * {y} = {x * y}."


def _search(rng: Random) -> Task:
    query = rng.choice(_SUBJECTS).format(rng.choice((*FOODS, *THINGS, *PLACES)))
    question = rng.choice(("Search for {}.", "Please search for {}.", "Find {}.", "Can you look up {}?", "Look up {}."))
    found = f"{rng.randint(2, 99)} pages about {query}"
    return question.format(query), SEARCH, {"query": query}, dumps({"found": found}), f"I found {found}."


def _timer(rng: Random) -> Task:
    minutes = rng.randint(2, 90)
    question = rng.choice(("Set a timer for {} minutes.", "Timer for {} minutes, please.", "Wake me in {} minutes.",
                           "Please set a {} minute timer."))
    return (question.format(minutes), TIMER, {"minutes": minutes}, dumps({"ok": True}),
            f"The timer is set for {minutes} minutes.")


def _message(rng: Random) -> Task:
    to, text = name(rng), rng.choice(_TEXTS).format(rng.choice((*PLACES, *THINGS)))
    question = rng.choice(("Send a message to {to}: {text}", "Tell {to}: {text}", "Write to {to}: {text}"))
    return (question.format(to=to, text=text), MESSAGE, {"to": to, "text": text}, dumps({"ok": True}),
            f"I sent the message to {to}.")


def _music(rng: Random) -> Task:
    first, noun = rng.choice(("The", "My", "Little", "Old", "Blue", "Golden")), rng.choice((*THINGS, *PLACES))
    song = f"{first} {noun.capitalize()}"
    question = rng.choice(("Play {}.", "Please play {}.", "Play the song {}.", "I want to hear {}."))
    return question.format(song), MUSIC, {"song": song}, dumps({"ok": True}), f"I am playing {song}."


_TASKS: tuple[Callable[[Random], Task], ...] = (_weather, _time, _add, _multiply, _search, _timer, _message, _music)


def _offer(rng: Random, needed: Tool | None) -> tuple[Tool, ...]:
    """Some tools in any order, no two of one name, with the needed one among them."""
    others = [tool for tool in TOOLS if needed is None or _name(tool) != _name(needed)]
    chosen = rng.sample(others, rng.randint(0 if needed else 1, 3)) + ([needed] if needed else [])
    rng.shuffle(chosen)
    return tuple({_name(tool): tool for tool in chosen}.values())


def _calling(tool: Tool, arguments: dict[str, Any]) -> Message:
    call = {"id": "call_0", "type": "function", "function": {"name": _name(tool), "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _key(tool: Tool, arguments: dict[str, Any]) -> str:
    return sum_key("+", *arguments.values()) if tool is ADD else _name(tool) + str(sorted(arguments.values(), key=str))


def _known(tool: Tool, arguments: dict[str, Any]) -> bool:
    """Whether the assistant can answer this without a tool."""
    largest = max(arguments.values()) if tool in (ADD, MULTIPLY) else 0
    return 0 < largest < 100 if tool is ADD else 0 < largest < 11


def call(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        question, tool, arguments, _, _ = rng.choice(_TASKS)(rng)
        messages = (user(question), _calling(tool, arguments))
        return _key(tool, arguments), Exchange("tool call", messages, tools=_offer(rng, tool))
    return draw(held, propose)


def call_and_tell(rng: Random, held: bool) -> Exchange:
    """The whole way: question, call, result, answer; graded is the answer."""
    def propose() -> tuple[str, Exchange]:
        question, tool, arguments, result, told = rng.choice(_TASKS)(rng)
        answer: Message = {"role": "tool", "content": result, "tool_call_id": "call_0"}
        messages = (user(question), _calling(tool, arguments), answer, assistant(told))
        return _key(tool, arguments), Exchange("tool result", messages, tools=_offer(rng, tool))
    return draw(held, propose)


def call_again(rng: Random, held: bool) -> Exchange:
    """A second call after a first one was answered."""
    def propose() -> tuple[str, Exchange]:
        first = call_and_tell(rng, False)
        while True:
            question, tool, arguments, _, _ = rng.choice(_TASKS)(rng)
            if tool in first.tools:
                break
        messages = (*first.messages, user(question), _calling(tool, arguments))
        return _key(tool, arguments), Exchange("tool call", messages, tools=first.tools)
    return draw(held, propose)


def no_fitting_tool(rng: Random, held: bool) -> Exchange:
    def propose() -> tuple[str, Exchange]:
        while True:
            question, tool, arguments, _, _ = rng.choice(_TASKS)(rng)
            if not _known(tool, arguments):
                break
        offered = tuple(each for each in _offer(rng, None) if _name(each) != _name(tool))
        messages = (user(question), assistant(NO_TOOL))
        return _key(tool, arguments), Exchange("no tool", messages, tools=offered)
    return draw(held, propose)


def tool_not_needed(rng: Random, held: bool) -> Exchange:
    """Tools are there, but the answer is known."""
    plain = rng.choice((fact, add_or_subtract, set_phrase))(rng, held)
    tools = tuple(tool for tool in _offer(rng, None) if tool is not ADD)
    return Exchange("no tool", plain.messages, tools=tools)
