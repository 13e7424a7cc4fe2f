"""What a chat hands to the engine, and what a reply is made of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from nearfield.core.request import Request
from nearfield.models.generation import GenerationDefaults
from tests.doubles import FakeEngineLoop, FakeLoaded, FakeTemplate, FakeTokenizer, say
from tests.server.serving import Serving, events, serving, started

TOOL = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'


@contextmanager
def saying(text: str) -> Iterator[Serving]:
    with serving(loop=started(FakeEngineLoop(script=say(text)))) as server:
        yield server


Ask = Callable[..., Request]


@pytest.fixture
def asked() -> Iterator[Ask]:
    """Sends a chat and returns the request that reached the engine."""
    loop = started(FakeEngineLoop())
    loaded = FakeLoaded(generation=GenerationDefaults(temperature=0.3, top_k=40))
    with serving(loaded, loop) as server:

        def ask(**fields: Any) -> Request:
            reply = server.chat(**fields)
            assert reply.status_code == 200, reply.text
            return loop.seen[-1]

        yield ask


def text(request: Request) -> str:
    return FakeTokenizer().decode(request.prompt_ids, skip_special=False)


def test_the_models_defaults_fill_the_gaps(asked: Ask) -> None:
    params = asked().params
    assert (params.temperature, params.top_k, params.top_p) == (0.3, 40, 1.0)
    params = asked(temperature=0, top_k=None, top_p=0.5).params
    assert (params.temperature, params.top_k, params.top_p) == (0.0, 40, 0.5)


def test_every_option_reaches_the_engine(asked: Ask) -> None:
    options = {
        "max_tokens": 7, "min_tokens": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1,
        "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3, "seed": 5, "stop": ["a", "b"],
        "stop_token_ids": [7, 8], "include_stop_str_in_output": True, "ignore_eos": True, "skip_special_tokens": False}
    params = asked(**options, logit_bias={"65": 2, "66": -100}, logprobs=True, top_logprobs=2).params
    for name, value in options.items():
        assert getattr(params, name) == (tuple(value) if isinstance(value, list) else value), name
    assert params.logit_bias == {65: 2.0, 66: -100.0} and params.logprobs == 2


def test_limits_of_an_answer(asked: Ask) -> None:
    assert asked().params.max_tokens is None, "what the context holds"
    assert asked(max_tokens=5).params.max_tokens == 5
    assert asked(max_completion_tokens=6).params.max_tokens == 6
    assert asked(max_tokens=None, max_completion_tokens=None).params.max_tokens is None


def test_what_is_ignored_or_neutral_is_taken(asked: Ask) -> None:
    asked(user="u", metadata={"a": "b"}, store=False, service_tier="auto", parallel_tool_calls=True,
          response_format={"type": "text"}, best_of=None, functions=None, modalities=["text"], tool_choice="auto",
          safety_identifier="s", prompt_cache_key="k", stream_options=None, stop=None, logit_bias=None)


def test_messages_become_turns(asked: Ask) -> None:
    assert text(asked(messages=[
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "assistant", "content": "", "refusal": None, "annotations": [], "audio": None},
        {"role": "user", "content": "ok"},
    ])) == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n"
            "<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\nsunny<|im_end|>\n"
            "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\nok<|im_end|>\n<|im_start|>assistant\n")


def test_template_variables(asked: Ask) -> None:
    assert text(asked(chat_template_kwargs={"enable_thinking": False})).startswith("enable_thinking=False;")


def test_tools_are_rendered_unless_the_choice_is_none(asked: Ask) -> None:
    assert text(asked(tools=[TOOL])).startswith("tools:weather")
    assert text(asked(tools=[TOOL], tool_choice="none")).startswith("<|im_start|>")
    assert text(asked(tools=[])).startswith("<|im_start|>")


class NoTools(FakeTemplate):
    """A template that knows nothing of tools."""

    def render(self, messages: Sequence[Any], **options: Any) -> str:
        return super().render(messages, **(options | {"tools": None}))


def test_tools_are_refused_where_the_template_drops_them() -> None:
    with serving(FakeLoaded(template=NoTools())) as server:
        assert server.chat(tools=[TOOL]).json()["error"]["param"] == "tools"
        assert server.chat(tools=[TOOL], tool_choice="none").status_code == 200


def test_a_model_without_a_template_says_so() -> None:
    with serving(FakeLoaded(template=None)) as server:
        assert "/v1/completions" in server.chat().json()["error"]["message"]
        assert server.complete().status_code == 200


def test_a_call_of_a_tool() -> None:
    with saying(f"Let me see. {CALL}\n{CALL}") as server:
        choice = server.chat(tools=[TOOL]).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "Let me see."
        first, second = choice["message"]["tool_calls"]
        assert first["function"] == {"name": "weather", "arguments": '{"city":"Rome","days":2}'}
        assert first["type"] == "function" and first["id"] != second["id"]
        plain = server.chat().json()["choices"][0]
        assert plain["finish_reason"] == "stop" and CALL in plain["message"]["content"]


def test_a_call_of_a_tool_in_a_stream() -> None:
    with saying(f"{CALL}{CALL}") as server:
        choices = [e["choices"][0] for e in events(server.chat(tools=[TOOL], stream=True))]
        calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
        assert [call["index"] for call in calls] == [0, 1]
        assert all(call["function"]["name"] == "weather" and call["id"] for call in calls)
        assert choices[-1]["finish_reason"] == "tool_calls"
        assert not any(choice["delta"].get("content") for choice in choices)


def test_a_call_that_was_cut_off_is_text_and_not_a_call() -> None:
    with saying(CALL) as server:
        choice = server.chat(tools=[TOOL], max_tokens=30).json()["choices"][0]
        assert choice["finish_reason"] == "length" and choice["message"]["content"] == CALL[:30]


def test_no_half_characters_in_a_stream() -> None:
    with saying("caf\u00e9 \U0001f600!") as server:
        texts = [e["choices"][0]["delta"].get("content", "") for e in events(server.chat(stream=True))]
        assert "".join(texts) == "caf\u00e9 \U0001f600!" and "\ufffd" not in "".join(texts)


def test_lowest_logprob_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from nearfield.core.request import TokenLogprob

    worst = TokenLogprob(65, float("-inf"), ((66, 0.0), (65, float("-inf"))))
    monkeypatch.setattr(FakeEngineLoop, "_logprobs", lambda *_args: (worst,))
    with saying("x") as server:
        tokens = server.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
        assert tokens[0]["logprob"] == tokens[0]["top_logprobs"][1]["logprob"] == -9999.0
        top = server.complete(logprobs=2).json()["choices"][0]["logprobs"]["top_logprobs"][0]
        assert top == {"B": 0.0, "A": -9999.0}


def test_other_endpoints(fake: Serving) -> None:
    chat = [{"role": "user", "content": "x"}]
    ids = fake.http.post("/tokenize", json={"messages": chat}).json()
    assert ids == {"count": len(ids["tokens"]), "max_model_len": 512, "tokens": ids["tokens"]}
    spelt = fake.http.post("/detokenize", json={"tokens": ids["tokens"]}).json()["prompt"]
    assert spelt == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert fake.http.post("/tokenize", json={"prompt": "", "add_special_tokens": False}).json()["tokens"] == []
    assert fake.http.post("/tokenize", json={"prompt": "ab", "model": "fake"}).json()["tokens"] == [256, 97, 98]
    assert fake.http.post("/tokenize", json={"prompt": "ab", "model": "other"}).status_code == 404
    assert fake.http.get("/v1/models").json()["data"][0]["max_model_len"] == 512
    assert fake.http.get("/v1/models/other").status_code == 404
    assert set(fake.http.get("/version").json()) == {"version"}
    assert fake.http.get("/ready").json() == {"status": "ready"}
