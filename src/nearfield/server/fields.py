"""The fields of a request that Nearfield does not act on, and what happens to each.

Nothing is ignored in silence: a field is acted on, stands in one of the tables below, or is refused with
400 and its name. `null` counts as left out everywhere.

IGNORED: labels and hints that can not change an answer. Any value is taken.
NEUTRAL: options of OpenAI's or other servers' that are taken only with the value that asks for nothing.

Two nested fields are taken and not acted on: `tools[].function.strict` (arguments are not constrained to
their schema) and a message's `refusal`, `annotations`, `audio` and `function_call`, which clients send
back from an earlier reply and which are taken empty only.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from nearfield.core.errors import nearest
from nearfield.server.errors import bad_request

IGNORED = frozenset({
    "user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
    "request_id",
})

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "store": (False,),
    "parallel_tool_calls": (True,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "functions": (),
    "function_call": (),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "prompt_logprobs": (),
    "prompt_embeds": (),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "early_stopping": (False,),
    "spaces_between_special_tokens": (True,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "documents": (),
    "mm_processor_kwargs": (),
    "kv_transfer_params": (),
    "priority": (0,),
}


def known_fields(body: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The fields of `body` that are in `known`; the rest is dropped where a table allows it.

    Raises ApiError (400) for the first field that is unknown, or known and not supported.
    """
    known = frozenset(known)
    kept = {}
    for name, value in body.items():
        if name in known:
            kept[name] = value
        elif name not in IGNORED:
            _require_neutral(name, value, known)
    return kept


def _require_neutral(name: str, value: Any, known: frozenset[str]) -> None:
    if name not in NEUTRAL:
        short = name[:64]
        raise bad_request(f"unknown field {short!r}{nearest(short, known | IGNORED)}", short)
    if value is None:
        return
    allowed = NEUTRAL[name]
    if not any(type(value) is type(v) and value == v for v in allowed):
        remedy = "".join(f" or send {orjson.dumps(v).decode()}" for v in allowed[:1])
        raise bad_request(f"{name} is not supported; leave it out{remedy}", name)
