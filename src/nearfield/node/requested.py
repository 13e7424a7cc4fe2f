"""Which fields of a request a node hands to its engine.

Engines take the id of an answer from `request_id` or `rid`, as from the header X-Request-Id: a client could have two
answers under one id, of which the ledger charges one. These never pass.

Where answers are paid for, what passes is a list: OpenAI's fields and the sampling options that engines share. What is
not on it could lengthen the answer (`n_predict`) or the prompt (documents, chat_template) unseen.
"""

from typing import Any

from nearfield.node.errors import NodeError

IDS = frozenset({"request_id", "rid"})
SHARED = frozenset({
    "model", "stream", "stream_options", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "seed", "n", "stop",
    "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "response_format", "user"})
CHAT = SHARED | {
    "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
    "chat_template_kwargs", "reasoning_effort", "metadata", "store", "service_tier", "safety_identifier",
    "prompt_cache_key", "verbosity"}
TEXT = SHARED | {"prompt", "best_of", "add_special_tokens"}


def is_chat(path: str) -> bool:
    """Whether `path` takes messages, not a prompt."""
    return path == "/v1/chat/completions"


def passed_on(body: dict[str, Any], path: str, *, priced: bool) -> dict[str, Any]:
    """The fields of `body` for the engine. Raises NodeError (400) for one that can not pass where answers are paid."""
    body = {name: value for name, value in body.items() if name not in IDS}
    if not priced:
        return body
    listed = CHAT if is_chat(path) else TEXT
    if unknown := next((name for name, value in body.items() if name not in listed and value is not None), None):
        raise NodeError(400, f"{unknown[:64]!r} does not pass to the engine of this node, whose answers are paid by "
                             "the token; leave it out")
    return {name: value for name, value in body.items() if name in listed}
