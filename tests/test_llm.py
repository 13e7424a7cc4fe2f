"""The offline facade on the pocket model."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nearfield import LLM, SamplingParams
from nearfield.core.errors import ConfigError, ContextLengthError, InvalidRequestError, ModelError
from nearfield.core.types import FinishReason

SHORT = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
CHAT = [{"role": "user", "content": "What is 2 + 3?"}]


@pytest.fixture(scope="module")
def shared(pocket: Path) -> LLM:
    return LLM(pocket, dtype="fp32", kv_memory="64MiB")


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    yield shared
    assert not shared.loaded.engine.has_work
    shared.loaded.engine.check()


def test_prompts_come_back_in_order_with_n_answers_each(llm: LLM) -> None:
    hot = replace(SHORT, temperature=1.3, seed=5, n=3)
    answers = llm.generate(["Once upon a time", "One day"], hot)
    assert [(a.prompt_index, a.sample_index) for a in answers] == [(i, j) for i in range(2) for j in range(3)]
    assert len({a.text for a in answers[:3]}) == 3
    again = llm.generate(["Once upon a time", "One day"], hot, progress=False)
    assert [a.token_ids for a in again] == [a.token_ids for a in answers]


def test_text_ids_and_arrays_are_the_same_prompt(llm: LLM) -> None:
    ids = llm.encode("Once upon a time")
    texts = {llm.generate(prompt, SHORT)[0].text
             for prompt in ("Once upon a time", ["Once upon a time"], ids, [ids], list(ids))}
    texts.add(llm.generate(np.array(ids), SHORT)[0].text)  # type: ignore[arg-type]
    assert len(texts) == 1
    assert llm.generate([], SHORT) == []


def test_without_params_the_authors_recommendation_holds(llm: LLM) -> None:
    authors = llm.loaded.generation
    assert authors.temperature is not None
    assert llm.loaded.generation.params(top_p=0.5).temperature == authors.temperature
    assert llm.loaded.generation.params(temperature=0).temperature == 0
    assert llm.chat(CHAT)[0].finish_reason is FinishReason.STOP


def test_one_chat_or_several(llm: LLM) -> None:
    greedy = SamplingParams(max_tokens=20, temperature=0)
    alone = llm.chat(CHAT, greedy)[0]
    assert [a.text for a in llm.chat([CHAT, CHAT], greedy)] == [alone.text] * 2
    assert alone.text and "<|" not in alone.text


def test_a_stream_is_the_answer_in_pieces(llm: LLM) -> None:
    ids = llm.encode("Once upon a time")
    outputs = list(llm.stream(ids, SHORT))
    assert "".join(o.text for o in outputs) == llm.generate(ids, SHORT)[0].text
    assert outputs[-1].finish_reason is FinishReason.LENGTH and outputs[-1].completion_tokens == 12


def test_a_stream_keeps_the_engine_until_it_is_closed(llm: LLM) -> None:
    ids = llm.encode("Once upon a time")
    unread = llm.stream(ids, SHORT)
    stream = llm.stream(ids, SHORT)
    next(stream)
    with pytest.raises(InvalidRequestError, match="under way"):
        next(unread)
    with pytest.raises(InvalidRequestError, match="under way"):
        llm.generate(ids, SHORT)
    stream.close()
    assert len(llm.generate(ids, SHORT)) == 1


def test_one_bad_prompt_refuses_the_call_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="outside the vocabulary"):
        llm.generate([[5, 6], [10**7]], SHORT)
    with pytest.raises(InvalidRequestError, match="two tokens"):
        llm.score([5])
    with pytest.raises(InvalidRequestError, match="takes token ids"):
        llm.score("abc")  # type: ignore[arg-type]


def test_options_are_checked(pocket: Path) -> None:
    with pytest.raises(ConfigError, match='tokenizer must be "auto"'):
        LLM(pocket, tokenizer="foo")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="name is empty"):
        LLM("")
    small = LLM(pocket, kv_memory="100KiB")
    with pytest.raises(ContextLengthError, match=r"length of 32 tokens.*--kv-memory"):
        small.generate("Once", SamplingParams(max_tokens=100))


def test_scores_are_the_logprobs_of_the_tokens_generated(llm: LLM) -> None:
    ids = llm.encode("Once upon a time there was")
    answer = llm.generate(ids, replace(SHORT, logprobs=0))[0]
    scores = llm.score(ids + answer.token_ids)
    assert len(scores) == len(ids) + 12 - 1
    assert all(abs(a - b.logprob) < 1e-4 for a, b in zip(scores[-12:], answer.logprobs, strict=True))


def test_ids_alone_need_no_tokenizer(pocket: Path, tmp_path: Path, llm: LLM) -> None:
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(pocket / name)
    bare = LLM(tmp_path, dtype="fp32", tokenizer=None, kv_memory="16MiB")
    ids = llm.encode("Once upon a time")
    answer = bare.generate(ids, SHORT)[0]
    assert answer.token_ids == llm.generate(ids, SHORT)[0].token_ids and answer.text == ""
    with pytest.raises(InvalidRequestError, match="no tokenizer"):
        bare.generate("text", SHORT)
    with pytest.raises(InvalidRequestError, match="no chat template"):
        bare.chat(CHAT)
    with pytest.raises(InvalidRequestError, match="stop strings need a tokenizer"):
        bare.generate(ids, replace(SHORT, stop=("x",)))
    with pytest.raises(ModelError, match="no tokenizer"):
        LLM(tmp_path, kv_memory="16MiB")


def test_a_list_of_params_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="one SamplingParams for all prompts"):
        llm.generate(["a", "b"], [SHORT, SHORT])  # type: ignore[arg-type]
