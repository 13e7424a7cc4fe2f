"""What an audit asks: requests that vary as those of many people do, so that no list of them tells the auditor.

Endpoint, prompt, length, sampling and the form of the answer are drawn for each. A node may still be honest to all
who ask for receipts, and to them alone.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_BEGIN = ("Tell me about", "Write a story about", "What is", "Explain", "Give me three facts about", "I dreamt of",
          "A short poem about", "Once upon a time there was", "Write a letter about", "What do you think of",
          "How would you describe", "Make a list of things to do with", "Translate into French:", "Why do people like",
          "What should a child know about", "Summarise what is known about")
_WHAT = ("sea", "moon", "cat", "old house", "river", "railway", "bread", "winter", "clock", "garden", "lighthouse",
         "violin", "desert", "honey bee", "post office", "market", "volcano", "bicycle", "library", "storm", "bridge",
         "tea", "mountain", "mirror", "ship", "school", "apple tree", "telescope", "football", "dragon", "king",
         "train to the north", "computer", "forest at night", "birthday", "doctor", "small town", "island")
_HOW = ("", ".", "?", " in one sentence.", " for a friend.", ", please.", " as simply as you can.", " and a dog",
        " with an example.", ", briefly", " that nobody has heard before.", " in the year 1900.")


def questions(model: str, prompts: Sequence[str], chat: bool, given: Mapping[str, Any],
              draw: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths and bodies without end. prompts: the ones to draw from (none: made up). chat: whether the model takes
    chats too. given: options of every request; answers have up to its `max_tokens`."""
    while True:
        prompt = draw.choice(prompts) if prompts else _made_up(draw)
        body: dict[str, Any] = {"model": model, **given}
        body["max_tokens"] = draw.randint(max(1, given["max_tokens"] // 4), given["max_tokens"])
        if "temperature" not in given and draw.random() < 0.7:
            body["temperature"] = round(draw.uniform(0, 1.2), 1)
        if draw.random() < 0.4:
            body["stream"] = True
        if chat and draw.random() < 0.6:
            yield "/v1/chat/completions", body | {"messages": [{"role": "user", "content": prompt}]}
        else:
            yield "/v1/completions", body | {"prompt": prompt}


def _made_up(draw: random.Random) -> str:
    return f"{draw.choice(_BEGIN)} the {draw.choice(_WHAT)}{draw.choice(_HOW)}"
