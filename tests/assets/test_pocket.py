"""The pocket model as it ships: complete, small, in the formats others read, and right most of the time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from safetensors import safe_open

from nearfield import LLM, SamplingParams
from nearfield.models.chat_template import load_chat_template
from nearfield.models.tokenizer import load_tokenizer
from pocket import facts, reading, stories, sums, talk, tools
from pocket.evaluate import story_holds
from pocket.exchange import Exchange
from pocket.mix import full_messages
from pocket.template import CHAT_TEMPLATE, CONTROL, END, ChatFormat

MAKERS = (sums.add_or_subtract, sums.told, sums.chained, facts.fact, facts.capital_then_another, reading.read,
          reading.read_twice, talk.persona, talk.remember_name, talk.set_phrase)
GREEDY = SamplingParams(temperature=0.0, max_tokens=64)


@pytest.fixture(scope="module")
def llm(pocket: Path) -> Iterator[LLM]:
    yield LLM(pocket, kv_memory="64MiB")


def held_out(count: int, *makers: object) -> list[Exchange]:
    rng = Random("shipped")
    return [make(rng, True) for make in makers if callable(make) for _ in range(count)]


def answers(llm: LLM, asked: list[Exchange], params: SamplingParams) -> list[str]:
    """What the model says, through its shipped template, tools included."""
    template, tokenizer = llm.loaded.template, llm.loaded.tokenizer
    assert template is not None and tokenizer is not None
    prompts = [template.encode(tokenizer, list(full_messages(e)[:-1]), tools=list(e.tools) or None) for e in asked]
    return [answer.text for answer in llm.generate(prompts, params, progress=False)]


def called(text: str) -> object:
    """The call that an answer makes; None if it is no call or no JSON."""
    try:
        return json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    except json.JSONDecodeError:
        return None


def test_the_folder_is_complete_and_small(pocket: Path) -> None:
    names = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
             "model.safetensors", "README.md"}
    assert {path.name for path in pocket.iterdir()} == names
    assert sum(path.stat().st_size for path in pocket.iterdir()) <= 12_000_000


def test_the_config_is_of_the_trained_shape(pocket: Path) -> None:
    config = json.loads((pocket / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["num_hidden_layers"]) == ("llama", 256, 6)
    assert config["tie_word_embeddings"] is True
    with safe_open(pocket / "model.safetensors", framework="pt") as weights:
        assert "lm_head.weight" not in weights.keys()
        table = weights.get_slice("model.embed_tokens.weight")
        assert (table.get_shape(), table.get_dtype()) == ([config["vocab_size"], config["hidden_size"]], "BF16")


def test_the_tokens_of_the_chat_format_have_the_ids_that_the_config_names(pocket: Path) -> None:
    tokenizer, config = load_tokenizer(pocket), json.loads((pocket / "config.json").read_text())
    assert [tokenizer.encode(token, add_special=False) for token in CONTROL] == [[i] for i in range(len(CONTROL))]
    assert tokenizer.bos_id == config["bos_token_id"] and config["eos_token_id"] in tokenizer.eos_ids
    assert tokenizer.encode(END, add_special=False) == [config["eos_token_id"]]


def test_digits_stand_alone_and_any_text_comes_back(pocket: Path) -> None:
    tokenizer = load_tokenizer(pocket)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1234", add_special=False)] == list("1234")
    for text in ("Hello, Pip!", " two  spaces ", "naïve café 漢字 🙂", "a\n\tb"):
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_the_shipped_template_is_the_one_it_was_trained_with(pocket: Path) -> None:
    assert json.loads((pocket / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE
    template = load_chat_template(pocket)
    assert template is not None
    for exchange in held_out(3, tools.call, tools.call_and_tell, talk.persona, sums.chained):
        messages, offered = list(full_messages(exchange)), list(exchange.tools)
        assert template.render(messages, tools=offered or None, add_generation_prompt=False) == ChatFormat().render(
            messages, offered)


def test_the_card_has_the_figures_and_the_command(pocket: Path) -> None:
    card = (pocket / "README.md").read_text()
    shares = {kind: float(share) for kind, share in re.findall(r"^\| ([a-z ]+) \|.*\| ([\d.]+)% \|$", card, re.M)}
    assert {"sums", "reading", "facts", "tool call", "stories", "all"} <= shares.keys()
    assert shares["all"] >= 80.0
    assert "license: apache-2.0" in card and "scripts/train_pocket.py --out" in card


def test_held_out_questions_are_answered(llm: LLM) -> None:
    asked = held_out(4, *MAKERS)
    said = answers(llm, asked, GREEDY)
    wrong = [(e.messages[-2]["content"], text) for e, text in zip(asked, said, strict=True)
             if text != e.answer["content"]]
    assert len(asked) == 40 and len(wrong) <= 8, wrong


def test_tools_are_called(llm: LLM) -> None:
    asked = held_out(10, tools.call)
    said = answers(llm, asked, GREEDY)
    assert sum(called(text) == e.answer["tool_calls"][0]["function"]
               for e, text in zip(asked, said, strict=True)) >= 8, said


def test_stories_hold_together(llm: LLM) -> None:
    asked = held_out(6, stories.story)
    told = answers(llm, asked, SamplingParams(temperature=0.0, max_tokens=320))
    assert sum(story_holds(text + END, e.facts) for e, text in zip(asked, told, strict=True)) >= 4, told
