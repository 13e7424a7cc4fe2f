"""What the `openai` client sees, over the engine double and over the pocket model."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from tests.server.serving import Serving, idle

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, who are you?"}]


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client: openai.OpenAI, server: Serving, **options: Any) -> ChatCompletion:
    reply: ChatCompletion = client.chat.completions.create(model=server.name, messages=MESSAGES, **options)
    return reply


def test_chat(client: openai.OpenAI, server: Serving) -> None:
    reply = ask(client, server, max_tokens=40, temperature=0)
    choice = reply.choices[0]
    assert reply.model == server.name and reply.id.startswith("chatcmpl-")
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert reply.usage and reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert 0 < reply.usage.completion_tokens <= 40


def test_stream_says_the_same_and_counts_tokens(client: openai.OpenAI, server: Serving) -> None:
    whole = ask(client, server, max_tokens=40, temperature=0)
    chunks = list(client.chat.completions.create(
        model=server.name, messages=MESSAGES, max_tokens=40, temperature=0, stream=True,
        stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content and "\ufffd" not in text
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and not any(reasons[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage and whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])


def test_second_question_finds_its_prefix(client: openai.OpenAI, server: Serving) -> None:
    text = "Tell me a story. " * 8
    for attempt in range(2):
        reply = client.completions.create(model=server.name, prompt=text, max_tokens=2)
        assert reply.usage and reply.usage.prompt_tokens_details
        cached = reply.usage.prompt_tokens_details.cached_tokens
        assert cached is not None and (cached >= 16) == bool(attempt)


def test_logprobs_of_chat(client: openai.OpenAI, server: Serving) -> None:
    reply = ask(client, server, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3)
    logprobs = reply.choices[0].logprobs
    assert reply.usage and logprobs and logprobs.content
    assert len(logprobs.content) == reply.usage.completion_tokens
    for token in logprobs.content:
        assert token.logprob <= 0 and token.bytes is not None and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == max(t.logprob for t in token.top_logprobs)
        assert token.logprob == token.top_logprobs[0].logprob, "greedy takes the likeliest"


def test_logprobs_of_a_stream_cover_every_token(client: openai.OpenAI, server: Serving) -> None:
    stream = client.chat.completions.create(
        model=server.name, messages=MESSAGES, max_tokens=6, temperature=0, logprobs=True, stream=True,
        stream_options={"include_usage": True})
    tokens, usage = 0, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            tokens += len(choice.logprobs.content or []) if choice.logprobs else 0
    assert usage and tokens == usage.completion_tokens


def test_logprobs_of_completions(client: openai.OpenAI, server: Serving) -> None:
    reply = client.completions.create(model=server.name, prompt="Once", max_tokens=5, temperature=0, logprobs=2)
    logprobs = reply.choices[0].logprobs
    assert reply.usage and logprobs and logprobs.tokens and logprobs.token_logprobs and logprobs.text_offset
    count = reply.usage.completion_tokens
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == count
    assert logprobs.top_logprobs and all(1 <= len(top) <= 3 for top in logprobs.top_logprobs)
    assert logprobs.text_offset[0] == 0 and logprobs.text_offset == sorted(logprobs.text_offset)


def test_many_prompts_of_every_kind(client: openai.OpenAI, server: Serving) -> None:
    ids = server.http.post("/tokenize", json={"prompt": "Once upon"}).json()["tokens"]
    texts = client.completions.create(model=server.name, prompt=["Once upon", "Two"], max_tokens=3, temperature=0)
    assert [choice.index for choice in texts.choices] == [0, 1]
    for prompt in ("Once upon", ids, [ids], ["Once upon"]):
        reply = client.completions.create(model=server.name, prompt=prompt, max_tokens=3, temperature=0)
        assert reply.choices[0].text == texts.choices[0].text


def test_completions_give_16_tokens_when_not_told(client: openai.OpenAI, server: Serving) -> None:
    reply = client.completions.create(model=server.name, prompt="a", extra_body={"ignore_eos": True})
    assert reply.usage and reply.usage.completion_tokens == 16
    assert reply.choices[0].finish_reason == "length"


def test_n_answers_differ_and_a_seed_repeats_them(client: openai.OpenAI, server: Serving) -> None:
    def texts() -> list[str]:
        reply = client.completions.create(model=server.name, prompt="Once", max_tokens=60, temperature=1.5, n=4, seed=7)
        assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
        return [choice.text for choice in reply.choices]

    first = texts()
    assert len(set(first)) > 1
    assert texts() == first


def test_n_in_a_stream(client: openai.OpenAI, server: Serving) -> None:
    stream = client.chat.completions.create(
        model=server.name, messages=MESSAGES, max_tokens=8, n=3, stream=True,
        stream_options={"include_usage": True})
    ended, usage = [], None
    for chunk in stream:
        usage = chunk.usage or usage
        ended += [choice.index for choice in chunk.choices if choice.finish_reason]
    assert sorted(ended) == [0, 1, 2]
    single = ask(client, server, max_tokens=1)
    assert usage and single.usage and usage.prompt_tokens == single.usage.prompt_tokens, "one prompt counts once"


def test_stop_cuts_the_text(client: openai.OpenAI, server: Serving) -> None:
    whole = ask(client, server, max_tokens=40, temperature=0).choices[0].message.content or ""
    stop = whole[5:8]
    cut = ask(client, server, max_tokens=40, temperature=0, stop=[stop]).choices[0]
    assert cut.message.content == whole[: whole.index(stop)] and cut.finish_reason == "stop"


def test_errors_are_the_clients_own(client: openai.OpenAI, server: Serving) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, server, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match=server.name):
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=server.name, prompt="word " * 20_000)
    assert caught.value.code == "context_length_exceeded"
    assert str(client.models.retrieve(server.name).model_extra["max_model_len"]) in caught.value.message  # type: ignore[index]


def test_models(client: openai.OpenAI, server: Serving) -> None:
    assert [model.id for model in client.models.list()] == [server.name]


def test_leaving_a_stream_frees_its_request(client: openai.OpenAI, server: Serving) -> None:
    stream = client.chat.completions.create(
        model=server.name, messages=MESSAGES, stream=True, extra_body={"ignore_eos": True}, n=2)
    next(iter(stream))
    stream.close()
    assert idle(server.loop)


def test_fifty_streams_at_once(server: Serving) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[str, str | None]:
        text, reason = "", None
        async for chunk in await client.chat.completions.create(
                model=server.name, messages=[{"role": "user", "content": f"Number {number}"}], max_tokens=24,
                temperature=0, stream=True):
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        return text, reason

    async def all_of_them() -> list[tuple[str, str | None]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(50)))

    before = server.loop.stats()
    answers = asyncio.run(all_of_them())
    assert all(reason in ("stop", "length") for _, reason in answers)
    alone = server.chat(messages=[{"role": "user", "content": "Number 31"}], max_tokens=24, temperature=0)
    assert alone.json()["choices"][0]["message"]["content"] == answers[31][0]
    assert server.loop.stats().generated_tokens > before.generated_tokens
    assert server.loop.stats().max_batch > 1
