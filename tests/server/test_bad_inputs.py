"""Bad bodies: each gets its status and names its field, none a 500, and the server answers the next request."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfield.server.body import MAX_BODY
from tests.doubles import FakeEngine, FakeTokenizer
from tests.server.serving import Serving, idle

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
VOCAB = FakeTokenizer.vocab_size
DEEP: Any = json.loads("[" * 500 + "]" * 500)
USER = {"role": "user", "content": "x"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def canary(server: Serving) -> None:
    reply = server.chat(max_tokens=3)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("body", [
    b"", b"\x00", b"{", b"{}{}", b"[" * 100_000, b'{"a":' * 100_000, b"[]", b'"x"', b"null", b"5", b"\xff",
    b'{"model":"fake","prompt":"\\ud800"}', b'{"model":"fake","prompt":"x","temperature":NaN}',
    b'{"model":"fake","prompt":"x","temperature":1e400}', b'{"model":"fake","prompt":"x","seed":' + b"9" * 5000 + b"}",
    b'{"model":"fake","prompt":"x","logit_bias":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"model":"fake","prompt":"x","zzz":' + b"[" * 900 + b"]" * 900 + b"}",
    b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}",
], ids=lambda body: repr(body[:40]))
def test_bad_json(fake: Serving, body: bytes) -> None:
    for path in (CHAT, COMPLETIONS, "/tokenize", "/detokenize"):
        reply = fake.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400, (path, reply.text)
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert len(reply.content) < 1000
    canary(fake)


COMMON: list[tuple[str, Any]] = [
    ("model", None), ("model", 5),
    ("n", 0), ("n", -1), ("n", 65), ("n", 10**9), ("n", "5"), ("n", 1.0), ("n", True),
    ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 2**63), ("max_tokens", 1.5), ("max_tokens", "5"),
    ("min_tokens", -1), ("min_tokens", 2**40),
    ("temperature", -1), ("temperature", "hot"), ("temperature", 1e9), ("temperature", True),
    ("top_p", 0), ("top_p", -1), ("top_p", 2), ("top_k", -5), ("top_k", 2**40), ("top_k", 0.5),
    ("min_p", 2), ("min_p", -0.1),
    ("repetition_penalty", 0), ("repetition_penalty", -1), ("repetition_penalty", 1e-38),
    ("presence_penalty", 3), ("frequency_penalty", -3),
    ("seed", 2**70), ("seed", 1.5), ("seed", "x"),
    ("logit_bias", {"-1": 1}), ("logit_bias", {"999999": 1}), ("logit_bias", {"a": 1}), ("logit_bias", {"5": 1e38}),
    ("logit_bias", {"5": "x"}), ("logit_bias", {"5": True}), ("logit_bias", {str(i): 0 for i in range(2000)}),
    ("logit_bias", []), ("logit_bias", {"\u0665": 1}), ("logit_bias", {"9" * 5000: 1}),
    ("stop", ["x"] * 17), ("stop", ["x"] * 10_000), ("stop", "y" * 1000), ("stop", ""), ("stop", [1]), ("stop", 5),
    ("stop_token_ids", [-1]), ("stop_token_ids", [VOCAB]), ("stop_token_ids", [True]), ("stop_token_ids", 5),
    ("stop_token_ids", [1] * 2000),
    ("stream", "yes"), ("stream_options", {"include_usage": True}), ("stream_options", "a"),
    ("ignore_eos", 1), ("skip_special_tokens", "no"), ("include_stop_str_in_output", 0),
    ("best_of", 2), ("prompt_logprobs", 10**6), ("allowed_token_ids", []), ("bad_words", ["x"] * 10_000),
    ("prompt_embeds", "x"), ("kv_transfer_params", {}), ("mm_processor_kwargs", {}), ("echo", True),
    ("response_format", {"type": "json_object"}), ("response_format", {"type": "json_schema", "json_schema": {}}),
    ("guided_json", {}), ("structured_outputs", {"regex": "(a{1,300}){300}"}), ("guided_grammar", "(" * 60_000),
    ("temprature", 1), ("", 1), ("\x1b[31m", 1), ("k" * 10_000, 1), ("{x}", 1), ("truncate_prompt_tokens", 5),
    ("use_beam_search", True), ("chat_template", "{{ 7*7 }}"), ("store", True), ("store", 0),
]


@pytest.mark.parametrize(("field", "value"), COMMON, ids=lambda v: repr(v)[:40])
def test_bad_field(fake: Serving, field: str, value: Any) -> None:
    for reply in (fake.chat(**{field: value}), fake.complete(**{field: value})):
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["param"].startswith(field[:64])
        assert len(reply.content) < 2000
    canary(fake)


@pytest.mark.parametrize(("prompt", "status"), [
    ("", 200), ([], 400), ([[]], 400), (["x"] * 100_000, 400), (["x"] * 65, 400), ([-1], 400), ([VOCAB], 400),
    ([2**31], 400), ([2**63], 400), ([1.5], 400), ([True], 400), ([1, "x"], 400), (["x", [1]], 400), ([[1], [-1]], 400),
    (None, 400), ({}, 400), (5, 400), ([[[1]]], 400), (DEEP, 400), ([None], 400),
], ids=lambda v: repr(v)[:40])
def test_prompts(fake: Serving, prompt: Any, status: int) -> None:
    reply = fake.complete(prompt=prompt, max_tokens=1)
    assert reply.status_code == status, reply.text
    if status == 400:
        assert reply.json()["error"]["param"] == "prompt"
    canary(fake)


def test_prompts_times_n_are_bounded(fake: Serving) -> None:
    assert fake.complete(prompt=["x"] * 64, n=3).json()["error"]["param"] == "n"
    assert fake.complete(prompt=["x"] * 64, n=2, max_tokens=1).status_code == 200


@pytest.mark.parametrize(("messages", "param"), [
    ([], "messages"), (None, "messages"), ("x", "messages"), ({}, "messages"), ([None], "messages.0"),
    ([{}], "messages.0.role"), ([{"role": "root", "content": "x"}], "messages.0.role"),
    ([{"role": "user"}], "messages.0.content"), ([{"role": "assistant", "content": None}], "messages.0.content"),
    ([{"role": "user", "content": 0}], "messages.0.content"),
    ([{"role": "user", "content": {}}], "messages.0.content"),
    ([{"role": "user", "content": [{"type": "nope"}]}], "messages.0.content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]}], "messages.0.content"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages.0.content"),
    ([{"role": "user", "content": [None]}], "messages.0.content"),
    ([{"role": "user", "content": DEEP}], "messages.0.content"),
    ([USER, {"role": "user", "content": "x", "contnet": 1}], "messages.1.contnet"),
    ([USER] * 3000, "messages"),
    ([{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]}],
     "messages.0.tool_calls.0.function.arguments"),
    ([{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "5"}}]}],
     "messages.0.tool_calls.0.function.arguments"),
    ([{"role": "assistant", "tool_calls": [
        {"id": "1", "function": {"name": "f", "arguments": '{"a":' + "[" * 500 + "]" * 500 + "}"}}]}],
     "messages.0.tool_calls.0.function.arguments"),
    ([{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]}],
     "messages.0.tool_calls.0.function.arguments"),
], ids=lambda v: repr(v)[:60])
def test_bad_messages(fake: Serving, messages: Any, param: str) -> None:
    reply = fake.chat(messages=messages)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    canary(fake)


@pytest.mark.parametrize("fields", [
    {"top_logprobs": 21, "logprobs": True}, {"top_logprobs": 10**6, "logprobs": True}, {"top_logprobs": 2},
    {"logprobs": 3}, {"logprobs": "yes"}, {"max_completion_tokens": 0}, {"max_completion_tokens": "9"},
    {"tools": "x"}, {"tools": [TOOL] * 300}, {"tools": [{"type": "web"}]}, {"tools": [TOOL | {"x": 1}]},
    {"tools": [{"type": "function", "function": {"name": "a b"}}]},
    {"tools": [{"type": "function", "function": {"name": "f" * 65}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": DEEP}}}]},
    {"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": {"type": "function", "function": {"name": "g"}}},
    {"tools": [TOOL], "parallel_tool_calls": False}, {"functions": []}, {"function_call": "auto"},
    {"modalities": ["audio"]}, {"audio": {}}, {"reasoning_effort": "high"}, {"prediction": {}},
    {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, {"chat_template_kwargs": {"tokenize": True}},
    {"chat_template_kwargs": {"messages": "x"}}, {"chat_template_kwargs": {"add_generation_prompt": "x"}},
    {"chat_template_kwargs": {"__class__": 1}}, {"chat_template_kwargs": {"x": {}}}, {"chat_template_kwargs": []},
    {"chat_template_kwargs": {"a b": 1}}, {"chat_template_kwargs": {"x": "y" * 5000}},
    {"chat_template_kwargs": {f"v{i}": 1 for i in range(100)}},
], ids=lambda v: repr(v)[:60])
def test_bad_chat_fields(fake: Serving, fields: dict[str, Any]) -> None:
    reply = fake.chat(**fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].split(".")[0] in fields
    canary(fake)


@pytest.mark.parametrize("logprobs", [-1, 21, 10**6, True, "1"])
def test_bad_logprobs_of_completions(fake: Serving, logprobs: Any) -> None:
    assert fake.complete(logprobs=logprobs).json()["error"]["param"] == "logprobs"


@pytest.mark.parametrize("stream", [False, True])
def test_context_is_stated_with_both_numbers(fake: Serving, stream: bool) -> None:
    context = FakeEngine().max_context
    for ids, answer in ((context + 1, 1), (context, 1), (10, context)):
        reply = fake.complete(prompt=[65] * ids, max_tokens=answer, stream=stream)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (400, "context_length_exceeded")
        assert str(context) in error["message"] and str(ids) in error["message"]
    assert fake.complete(prompt=[65] * (context - 1), max_tokens=1).status_code == 200


def test_an_unknown_field_names_the_nearest(fake: Serving) -> None:
    error = fake.chat(temprature=1).json()["error"]
    assert "'temprature'" in error["message"] and "'temperature'" in error["message"]


def test_a_large_body_is_refused(fake: Serving) -> None:
    for size in (MAX_BODY + 1, 50 << 20):
        reply = fake.http.post("/tokenize", content=b" " * size, headers={"Content-Type": "application/json"})
        assert reply.status_code == 413
    canary(fake)


@pytest.mark.parametrize("body", [
    {}, {"prompt": 5}, {"prompt": "x", "messages": [USER]}, {"messages": []}, {"prompt": "x", "y": 1},
])
def test_bad_tokenize(fake: Serving, body: dict[str, Any]) -> None:
    assert fake.http.post("/tokenize", json=body).status_code == 400


@pytest.mark.parametrize("tokens", [None, "x", [-1], [VOCAB], [2**70], [1.5], [True], [[1]], DEEP])
def test_bad_detokenize(fake: Serving, tokens: Any) -> None:
    reply = fake.http.post("/detokenize", json={"tokens": tokens})
    assert reply.status_code == 400 and reply.json()["error"]["param"].startswith("tokens")


NAMES = st.sampled_from([
    "model", "messages", "prompt", "n", "stream", "stop", "tools", "logprobs", "top_logprobs", "max_tokens", "seed",
    "temperature", "logit_bias", "stream_options", "chat_template_kwargs", "tool_choice", "user", "response_format",
    "stop_token_ids", "role", "content", "tokens", "add_special_tokens"]) | st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
                      max_leaves=12)


@given(path=st.sampled_from([CHAT, COMPLETIONS, "/tokenize", "/detokenize"]),
       fields=st.dictionaries(NAMES, VALUES, max_size=6), whole=st.booleans())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body(server: Serving, path: str, fields: dict[str, Any], whole: bool) -> None:
    """Whatever the fields hold, on a body that is otherwise right (`whole`) or on none."""
    right: dict[str, Any] = {"messages": [USER]} if path == CHAT else {"prompt": "x"}
    right |= {"model": server.name} if "token" in path else {"model": server.name, "max_tokens": 3}
    reply = server.http.post(path, json=(right if whole else {}) | fields)
    assert reply.status_code < 500, reply.text
    assert server.http.get("/health").json() == {"status": "ok"}


def test_the_engine_is_as_it_was(server: Serving) -> None:
    """After all of the above: an answer, and nothing left behind."""
    canary(server)
    assert idle(server.loop)


@given(text=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(fake: Serving, text: bytes) -> None:
    reply = fake.http.post(CHAT, content=text, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
