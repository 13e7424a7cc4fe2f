"""Text there and back, and TextStream against a slow reference that sees the whole answer at once."""

import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.core.request import SamplingParams
from nearfield.engine.text import TextStream
from nearfield.models.tokenizer import Tokenizer, load_tokenizer
from tests.doubles import FakeTokenizer

UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
TRICKY = st.text(
    st.sampled_from("a b\n\u00e9\u4f60\u597d\U0001f468\u200d\U0001f469\U0001f1eb\u0301\u2581<|>"), max_size=60
)
TEXTS = st.one_of(UNICODE, TRICKY)
NAMES = ("byte-level", "sentencepiece", "small sentencepiece", "byte fallback", "bytes")


@pytest.fixture(scope="module")
def tokenizers(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    def from_model(path: Path) -> Tokenizer:
        folder = tmp_path_factory.mktemp("spm")
        shutil.copy(path, folder / "tokenizer.model")
        return load_tokenizer(folder)

    found = shared_data / "tokenizers"
    return {
        "byte-level": load_tokenizer(found / "qwen2.5-0.5b-instruct"),
        "sentencepiece": from_model(found / "mistral" / "mistral_instruct_tokenizer_240323.model.v3"),
        "small sentencepiece": from_model(shared_data / "weights" / "stories260K" / "tok512.model"),
        "byte fallback": load_tokenizer(shared_data / "weights" / "tinystories-656k"),
        "bytes": FakeTokenizer(),
    }


@given(text=TEXTS, parse_special=st.booleans())
@settings(max_examples=300, deadline=None)
def test_text_survives_encoding(tokenizers: dict[str, Tokenizer], text: str, parse_special: bool) -> None:
    """Save what a vocabulary normalises: NFC in the byte-level one, U+2581 in SentencePiece."""
    byte_level = tokenizers["byte-level"]
    ids = byte_level.encode(text, parse_special=parse_special)
    assert byte_level.decode(ids, skip_special=False) == unicodedata.normalize("NFC", text)
    pieces = tokenizers["sentencepiece"]
    ids = pieces.encode(text, parse_special=False)
    assert pieces.decode(ids) == text.replace("\u2581", " ")


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_stream_adds_up_to_decode(tokenizers: dict[str, Tokenizer], name: str, data: st.DataObject) -> None:
    tokenizer = tokenizers[name]
    ids = data.draw(answers(tokenizer))
    skip = data.draw(st.booleans())
    stream = TextStream(tokenizer, SamplingParams(skip_special_tokens=skip))
    text = ""
    for count, token_id in enumerate(ids, 1):
        text += stream.push(token_id)
        so_far = tokenizer.decode(ids[:count], skip_special=skip)
        assert so_far.startswith(text)
        assert set(so_far[len(text) :]) <= {"\ufffd"}, "more than an unfinished character is held back"
    assert text + stream.finish() == tokenizer.decode(ids, skip_special=skip)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_stop_strings_agree_with_the_reference(
    tokenizers: dict[str, Tokenizer], name: str, data: st.DataObject
) -> None:
    tokenizer = tokenizers[name]
    ids = data.draw(answers(tokenizer))
    stops = data.draw(st.lists(stop_strings(tokenizer.decode(ids)), min_size=1, max_size=4))
    params = SamplingParams(
        max_tokens=None,
        stop=tuple(stops),
        min_tokens=data.draw(st.integers(0, 8)),
        include_stop_str_in_output=data.draw(st.booleans()),
    )
    stream = TextStream(tokenizer, params)
    text = "".join(map(stream.push, ids)) + stream.finish()
    assert (text, stream.stopped) == reference(tokenizer, ids, params)


def answers(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Token ids of real text, of text in which each character is a token or more, or at random."""
    anything = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30)
    low = st.lists(st.integers(0, min(300, tokenizer.vocab_size) - 1), max_size=30)
    spelt = TEXTS.map(lambda text: [i for char in text for i in tokenizer.encode(char, add_special=False)])
    return st.one_of(TEXTS.map(tokenizer.encode), spelt, anything, low)


def stop_strings(text: str) -> st.SearchStrategy[str]:
    """A piece of the text, or a short string that may be in it."""
    short = st.text(st.sampled_from("ab \n\u00e9\ufffd<"), min_size=1, max_size=3)
    if not text:
        return short
    place = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 5))
    return st.one_of(short, place.map(lambda cut: text[cut[0] : cut[0] + cut[1]]))


def reference(tokenizer: Tokenizer, ids: list[int], params: SamplingParams) -> tuple[str, str | None]:
    """Look at every end of the whole text in turn; a character belongs to the token that completes it."""
    plain = TextStream(tokenizer, SamplingParams())
    pieces = [plain.push(token_id) for token_id in ids] + [plain.finish()]
    text = "".join(pieces)
    tokens = [min(count, len(ids)) for count, piece in enumerate(pieces, 1) for _ in piece]
    for end in range(1, len(text) + 1):
        met = [stop for stop in params.stop if text[:end].endswith(stop)]
        if met and tokens[end - 1] >= params.min_tokens:
            stop = max(met, key=len)
            return text[: end if params.include_stop_str_in_output else end - len(stop)], stop
    return text, None
