"""Tokenizers of GGUF files: the same ids as the files of the folder that they were made of."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from sentencepiece import SentencePieceProcessor

from nearfield.core.errors import ModelError
from nearfield.formats.gguf import GgufFile
from nearfield.models.chat_template import load_chat_template
from nearfield.models.generation import read_generation
from nearfield.models.gguf_tokenizer import tokenizer_files
from nearfield.models.loader import find_model
from nearfield.models.tokenizer import Tokenizer, load_tokenizer
from tests.gguf_files import add_key, write_gguf
from tests.small_model import CONFIG, small_tensors

TEXTS = ["Hello world! 123 4567", "  two  spaces\n\n\tand 'tis we'll", "Grüße, 日本語 🦙", "", " x", "\r\n a\r\n",
         "<|im_start|>user\nhi<|im_end|>\n", "<tool_call>x</tool_call>", "e\u0301 \u212b", "[INST] hi [/INST]</s>",
         "\x00\u2581"]
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6


def made(folder: Path, **keys: Any) -> Path:
    """A folder with what a GGUF file of these keys says of its tokenizer."""
    path = folder / "words.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        add_key(writer, f"tokenizer.{key}" if key == "chat_template" else f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    (folder / "made").mkdir()
    for name, data in tokenizer_files(GgufFile.read(path)).items():
        (folder / "made" / name).write_bytes(data)
    return folder / "made"


@pytest.fixture(scope="module")
def qwen(shared_data: Path) -> Path:
    return shared_data / "tokenizers" / "qwen2.5-0.5b-instruct"


def byte_level(folder: Path) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes of a folder with vocab.json and merges.txt."""
    vocab = json.loads((folder / "vocab.json").read_text())
    added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    words = {number: (word, NORMAL) for word, number in vocab.items()}
    words |= {int(number): (token["content"], CONTROL if token["special"] else USER) for number, token in added.items()}
    rows = (folder / "merges.txt").read_text().split("\n")
    return {"model": "gpt2", "pre": "qwen2", "tokens": [words[i][0] for i in range(len(words))],
            "token_type": [words[i][1] for i in range(len(words))],
            "merges": [row for row in rows if row and not row.startswith("#version")],
            "eos_token_id": 151645, "bos_token_id": 151643, "padding_token_id": 151643, "add_bos_token": False,
            "chat_template": "{{ messages[0].content }}"}


def same(one: Tokenizer, other: Tokenizer) -> None:
    assert (one.vocab_size, one.eos_ids) == (other.vocab_size, other.eos_ids)
    assert set(one.special_tokens) == set(other.special_tokens)
    for text in TEXTS:
        for special in (True, False):
            ids = one.encode(text, parse_special=special)
            assert ids == other.encode(text, parse_special=special), text
            assert one.decode(ids, skip_special=special) == other.decode(ids, skip_special=special)


def test_byte_level_bpe_is_the_folders(qwen: Path, tmp_path: Path) -> None:
    folder = made(tmp_path, **byte_level(qwen), eot_token_id=151643)
    same(load_tokenizer(folder), load_tokenizer(qwen))
    template = load_chat_template(folder)
    assert template is not None and template.render([{"role": "user", "content": "hey"}]) == "hey"
    (folder / "config.json").write_text("{}")
    assert read_generation(folder).eos_ids == (151645, 151643)


def test_published_vectors(qwen: Path, shared_data: Path, tmp_path: Path) -> None:
    """llama.cpp's own texts and ids."""
    tokenizer = load_tokenizer(made(tmp_path, **byte_level(qwen)))
    stem = shared_data / "tokenizers" / "llama.cpp-vectors" / "ggml-vocab-qwen2.gguf"
    texts = Path(f"{stem}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    rows = Path(f"{stem}.out").read_text().split("\n")
    for text, row in zip(texts, rows, strict=True):
        assert tokenizer.encode(text, add_special=False, parse_special=False) == [int(number) for number in row.split()]


@pytest.mark.parametrize(("name", "squeezed"), [
    ("weights/stories260K/tok512.model", True),
    ("tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3", False)])
def test_sentencepiece_is_the_models(name: str, squeezed: bool, shared_data: Path, tmp_path: Path) -> None:
    """squeezed: the model takes runs of spaces for one."""
    model = shared_data / name
    library = SentencePieceProcessor(model_file=str(model))
    count = range(library.vocab_size())

    def kind(i: int) -> int:
        return (UNKNOWN if library.is_unknown(i) else CONTROL if library.is_control(i)
                else BYTE if library.is_byte(i) else NORMAL)
    folder = made(tmp_path, model="llama", tokens=[library.id_to_piece(i) for i in count],
                  scores=[library.get_score(i) for i in count], token_type=[kind(i) for i in count],
                  bos_token_id=library.bos_id(), eos_token_id=library.eos_id(), unknown_token_id=library.unk_id(),
                  remove_extra_whitespaces=squeezed)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "tokenizer.model").write_bytes(model.read_bytes())
    (whole / "tokenizer_config.json").write_text("{}")
    one, other = load_tokenizer(folder), load_tokenizer(whole)
    same(one, other)
    assert one.bos_id == other.bos_id == 1 and one.encode("hi")[0] == 1


LETTERS = {"model": "gpt2", "pre": "llama-bpe", "tokens": ["a", "b", "ab", "abc", "c", "<s>", "1", "2", "12", "123"],
           "token_type": [1, 1, 1, 1, 1, 3, 1, 1, 1, 1], "merges": ["a b", "1 2"], "bos_token_id": 5}


def test_the_cutting_has_a_name(tmp_path: Path) -> None:
    """Whole words come before merges where the name says so, digits are cut by threes, ones or not at all."""
    results = {}
    for pre in ("llama-bpe", "qwen2", "gpt-2", "smollm"):
        (tmp_path / pre).mkdir()
        tokenizer = load_tokenizer(made(tmp_path / pre, **{**LETTERS, "pre": pre}))
        results[pre] = tokenizer.encode("abc"), tokenizer.encode("1212")
    assert results == {"llama-bpe": ([5, 3], [5, 8, 6, 7]), "qwen2": ([2, 4], [6, 7, 6, 7]),
                       "gpt-2": ([2, 4], [8, 8]), "smollm": ([2, 4], [6, 7, 6, 7])}


@pytest.mark.parametrize(("change", "message"), [
    ({"pre": "tekken"}, "tokenizer.ggml.pre 'tekken', how text is cut into words, is not known; known: llama-bpe"),
    ({"pre": None}, "tokenizer.ggml.pre None, how"), ({"model": "bert"}, "tokenizer.ggml.model 'bert'"),
    ({"merges": ["a q"]}, "tokenizer.ggml.merges does not fit the tokens"),
    ({"merges": [1, 2]}, "tokenizer.ggml.merges must be a list of str"),
    ({"tokens": None}, "tokenizer.ggml.tokens must be a list of str"),
    ({"bos_token_id": 10}, "tokenizer.ggml.bos_token_id is 10, and there are 10 tokens"),
    ({"eos_token_id": 1 << 31}, "tokenizer.ggml.eos_token_id is 2147483648, and there are 10 tokens"),
    ({"token_type": [1, 1]}, "token_type has 2 entries for 10 tokens"),
    ({"model": "llama"}, "tokenizer.ggml.scores must be a list of float"),
    ({"model": "llama", "scores": [0.5]}, "scores has 1 entries for 10 tokens"),
])
def test_what_makes_no_tokenizer_names_the_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        made(tmp_path, **{**LETTERS, **change})
    assert str(caught.value).startswith(str(tmp_path / "words.gguf"))


def test_an_id_of_minus_one_is_no_role(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(made(tmp_path, **{**LETTERS, "bos_token_id": (1 << 32) - 1}))
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (None, ())


def test_a_file_with_words_is_a_whole_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    words: dict[str, Any] = {f"tokenizer.ggml.{key}": value for key, value in LETTERS.items()}
    write_gguf(path, CONFIG, small_tensors(dtype=torch.float32), lambda name: Type.F16, **words)
    assert load_tokenizer(find_model(path)).encode("ab") == [5, 2]
