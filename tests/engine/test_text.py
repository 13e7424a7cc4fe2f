"""TextStream with tokens chosen by hand; tests/properties/test_text.py has the random ones."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from nearfield.core.request import SamplingParams
from nearfield.engine.text import TextStream
from nearfield.models.tokenizer import Tokenizer, load_tokenizer
from tests.doubles import FakeTokenizer


def stream(text: str | bytes, params: SamplingParams) -> tuple[list[str], str | None]:
    """What each byte of `text` brings, then what finish() brings; and the stop string that was met."""
    data = text.encode() if isinstance(text, str) else text
    answer = TextStream(FakeTokenizer(), params)
    pieces = [answer.push(byte) for byte in data]
    return [*pieces, answer.finish()], answer.stopped


def shown(text: str, **options: Any) -> tuple[str, str | None]:
    pieces, stopped = stream(text, SamplingParams(max_tokens=None, **options))
    return "".join(pieces), stopped


def test_whole_characters_only() -> None:
    pieces, _ = stream("a\u00e9\u2713\U0001f680", SamplingParams())
    assert pieces == ["a", "", "\u00e9", "", "", "\u2713", "", "", "", "\U0001f680", ""]


def test_an_unfinished_character_shows_at_the_end() -> None:
    assert stream(b"a\xe2\x9c", SamplingParams())[0] == ["a", "", "", "\ufffd"]


def test_invalid_bytes_do_not_stall() -> None:
    pieces, _ = stream(b"\xff" * 20 + b"ab", SamplingParams())
    assert pieces == ["\ufffd"] * 20 + ["a", "b", ""]


def test_stop_string_over_many_tokens() -> None:
    pieces, stopped = stream("one END two", SamplingParams(stop=("END",)))
    assert pieces == ["o", "n", "e", " ", *[""] * 8]
    assert stopped == "END"


def test_only_a_possible_stop_string_is_held_back() -> None:
    pieces, stopped = stream("aENaENEx", SamplingParams(stop=("END",)))
    assert pieces == ["a", "", "", "ENa", "", "", "EN", "Ex", ""]
    assert stopped is None


def test_what_is_held_back_comes_at_the_end() -> None:
    assert stream("aEN", SamplingParams(stop=("END",)))[0] == ["a", "", "", "EN"]


def test_stop_string_stays_when_asked_for() -> None:
    assert shown("one END two", stop=("END",), include_stop_str_in_output=True) == ("one END", "END")


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert shown("xabcdef", stop=("abcdef", "cd")) == ("xab", "cd")
    assert shown("xabc", stop=("bc", "abc", "c")) == ("x", "abc")


def test_a_stop_string_may_overlap_itself() -> None:
    assert shown("aaab", stop=("aab",)) == ("a", "aab")
    assert shown("ababac", stop=("abac",)) == ("ab", "abac")


def test_min_tokens_comes_before_stop_strings() -> None:
    """`-` is complete at tokens 2 and 4; only the second counts when three tokens must come."""
    assert shown("a-b-c", stop=("-",)) == ("a", "-")
    assert shown("a-b-c", stop=("-",), min_tokens=2) == ("a", "-")
    assert shown("a-b-c", stop=("-",), min_tokens=3) == ("a-b", "-")
    assert shown("a-b-c", stop=("-",), min_tokens=5) == ("a-b-c", None)


def test_a_stop_string_may_begin_before_min_tokens() -> None:
    assert shown("aENDb", stop=("END",), min_tokens=4) == ("a", "END")


def test_nothing_comes_after_a_stop_string() -> None:
    answer = TextStream(FakeTokenizer(), SamplingParams(stop=("b",)))
    assert [answer.push(byte) for byte in b"abcd"] == ["a", "", "", ""]
    assert answer.finish() == ""


def test_special_tokens_are_hidden_unless_asked_for() -> None:
    special = FakeTokenizer.eos_ids[0]
    hidden = TextStream(FakeTokenizer(), SamplingParams())
    assert [hidden.push(token) for token in (97, special, 98)] == ["a", "", "b"]
    there = TextStream(FakeTokenizer(), SamplingParams(skip_special_tokens=False))
    assert [there.push(token) for token in (97, special, 98)] == ["a", "<|eos|>", "b"]


def test_ids_without_a_spelling_add_nothing() -> None:
    answer = TextStream(FakeTokenizer(), SamplingParams())
    assert [answer.push(token) for token in (97, 100_000, 98)] == ["a", "", "b"]


@pytest.fixture(scope="module")
def spaced(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A SentencePiece vocabulary: encoding puts a space first, decoding takes it away."""
    folder = tmp_path_factory.mktemp("spm")
    model = shared_data / "tokenizers" / "mistral" / "mistral_instruct_tokenizer_240323.model.v3"
    shutil.copy(model, folder / "tokenizer.model")
    return load_tokenizer(folder)


@pytest.mark.parametrize("text", ["the cat", " the cat", "   x", "\n x", "", "\U0001f680 go"])
def test_only_the_first_space_is_dropped(spaced: Tokenizer, text: str) -> None:
    answer = TextStream(spaced, SamplingParams())
    ids = spaced.encode(text)
    assert "".join(map(answer.push, ids)) + answer.finish() == text == spaced.decode(ids)


@pytest.mark.parametrize(("after", "want"), [("Once", " upon"), ("<s>", "upon"), (None, "upon"), ("padding", "upon")])
def test_an_answer_goes_on_with_the_text_of_the_prompt(after: str | None, want: str, spaced: Tokenizer) -> None:
    ids = {"Once": spaced.encode("Once", add_special=False)[-1], "<s>": spaced.bos_id,
           "padding": spaced.vocab_size + 5, None: None}
    answer = TextStream(spaced, SamplingParams(), after=ids[after])
    assert "".join(map(answer.push, spaced.encode("upon", add_special=False))) == want
