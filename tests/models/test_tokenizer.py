"""Tokenizers against published vectors, the libraries themselves, and broken folders."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from nearfield.core.errors import InvalidRequestError, ModelError
from nearfield.models.tokenizer import Tokenizer, load_tokenizer

SENTENCE = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big red ball in the grass."
)


@pytest.fixture(scope="module")
def qwen_folder(shared_data: Path) -> Path:
    return shared_data / "tokenizers" / "qwen2.5-0.5b-instruct"


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path) -> Tokenizer:
    return load_tokenizer(qwen_folder)


@pytest.fixture(scope="module")
def tiny(shared_data: Path) -> Tokenizer:
    return load_tokenizer(shared_data / "weights" / "tinystories-656k")


@pytest.fixture(scope="module")
def mistral_model(shared_data: Path) -> Path:
    return shared_data / "tokenizers" / "mistral" / "mistral_instruct_tokenizer_240323.model.v3"


def spm_folder(folder: Path, model: Path, **config: object) -> Path:
    shutil.copy(model, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory, mistral_model: Path) -> Tokenizer:
    return load_tokenizer(spm_folder(tmp_path_factory.mktemp("mistral"), mistral_model))


def read_vectors(shared_data: Path, name: str) -> list[tuple[str, list[int]]]:
    stem = shared_data / "tokenizers" / "llama.cpp-vectors" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{stem}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    rows = Path(f"{stem}.out").read_text().split("\n")
    return [(text, [int(number) for number in row.split()]) for text, row in zip(texts, rows, strict=True)]


@pytest.mark.parametrize("name", ["qwen2", "deepseek-r1-qwen"])
def test_published_vectors(shared_data: Path, qwen: Tokenizer, name: str) -> None:
    vectors = read_vectors(shared_data, name)
    assert len(vectors) > 40
    for text, ids in vectors:
        assert qwen.encode(text, add_special=False, parse_special=False) == ids, text


def test_stories260k_reference(shared_data: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(spm_folder(tmp_path, shared_data / "weights" / "stories260K" / "tok512.model"))
    ids = tokenizer.encode(SENTENCE)
    assert len(ids) == 51
    assert ids[:12] == [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315]
    assert tokenizer.decode(ids) == SENTENCE
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids) == (512, 1, (2,))


def test_tinystories_reference(tiny: Tokenizer) -> None:
    ids = tiny.encode(SENTENCE)
    assert len(ids) == 21
    assert ids[:10] == [1, 80, 147, 201, 282, 215, 286, 598, 1662, 887]
    assert tiny.decode(ids) == SENTENCE
    assert tiny.encode(SENTENCE, add_special=False) == ids[1:]


def test_qwen_agrees_with_transformers(shared_data: Path, qwen: Tokenizer, qwen_folder: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(qwen_folder)
    texts = [text for text, _ in read_vectors(shared_data, "qwen2")]
    texts += ["<|im_start|>user\nhi<|im_end|>\n", "<tool_call>x</tool_call>", "e\u0301 \u212b", "a<|im_end|><|x|>"]
    for text in texts:
        ids = reference.encode(text)
        assert qwen.encode(text) == ids
        for skip in (True, False):
            assert qwen.decode(ids, skip_special=skip) == reference.decode(ids, skip_special_tokens=skip)


def test_sentencepiece_agrees_with_the_library(
    shared_data: Path, mistral: Tokenizer, mistral_model: Path
) -> None:
    library = SentencePieceProcessor(model_file=str(mistral_model))
    for text, _ in read_vectors(shared_data, "llama-spm"):
        ids = library.encode(text)
        assert mistral.encode(text, add_special=False, parse_special=False) == ids
        assert mistral.decode(ids) == library.decode(ids)


def test_sentencepiece_control_tokens(mistral: Tokenizer, mistral_model: Path) -> None:
    library = SentencePieceProcessor(model_file=str(mistral_model))
    text = "[INST] hi[/INST]"
    assert mistral.encode(text) == [1, 3, *library.encode(" hi"), 4]
    assert mistral.encode(text, parse_special=False) == [1, *library.encode(text)]
    assert {"<s>", "</s>", "[INST]"} <= set(mistral.special_tokens)
    assert mistral.decode([1, *library.encode("hi"), 4], skip_special=False) == "<s> hi[/INST]"


def test_sentencepiece_without_legacy_spaces(tmp_path: Path, mistral_model: Path) -> None:
    """Only the beginning of the text gets a space in front; `hi` after a control token does not."""
    tokenizer = load_tokenizer(spm_folder(tmp_path, mistral_model, legacy=False, add_bos_token=False))
    library = SentencePieceProcessor(model_file=str(mistral_model))
    assert tokenizer.encode("[INST] hi") == [3, *library.encode("hi")]
    assert tokenizer.encode("hi") == library.encode("hi")


def test_sentencepiece_added_tokens(tmp_path: Path, mistral_model: Path) -> None:
    added = {"32768": {"content": "<|end|>", "special": True}, "32769": {"content": "<t>", "special": False}}
    folder = spm_folder(tmp_path, mistral_model, added_tokens_decoder=added, eos_token="<|end|>")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == 32770
    assert tokenizer.encode("<t><|end|>") == [1, 32769, 32768]
    plain = tokenizer.encode("<t><|end|>", parse_special=False)
    assert plain[:2] == [1, 32769]
    assert 32768 not in plain
    assert tokenizer.eos_ids == (32768,)
    assert tokenizer.decode([32769, 32768]) == "<t>"


def test_ends_of_text(qwen: Tokenizer) -> None:
    assert qwen.eos_ids == (151645, 151643)
    assert qwen.bos_id == 151643
    assert qwen.vocab_size == 151665


def test_special_spellings_as_plain_text(qwen: Tokenizer, tiny: Tokenizer) -> None:
    assert qwen.encode("<|im_end|>") == [151645]
    plain = qwen.encode("<|im_end|>", parse_special=False)
    assert 151645 not in plain
    assert qwen.decode(plain) == "<|im_end|>"
    assert "<tool_call>" not in qwen.special_tokens
    assert qwen.encode("<tool_call>", parse_special=False) == [151657]
    assert 2 not in tiny.encode("a <|end_story|> b", parse_special=False)


def test_decoding_hides_special_tokens(qwen: Tokenizer) -> None:
    ids = qwen.encode("<|im_start|>hi<tool_call><|im_end|>")
    assert qwen.decode(ids) == "hi<tool_call>"
    assert qwen.decode(ids, skip_special=False) == "<|im_start|>hi<tool_call><|im_end|>"


def test_token_bytes(qwen: Tokenizer, tiny: Tokenizer, mistral: Tokenizer) -> None:
    for tokenizer in (qwen, mistral):
        ids = tokenizer.encode(" na\u00efve \U0001f9d1\u200d\U0001f680", add_special=False)
        assert b"".join(map(tokenizer.token_bytes, ids)).decode().strip() == "na\u00efve \U0001f9d1\u200d\U0001f680"
    assert qwen.token_bytes(151645) == b"<|im_end|>"
    assert mistral.token_bytes(mistral.encode("\u0001", add_special=False)[-1]) == b"\x01"
    assert tiny.token_bytes(tiny.encode("a", add_special=False)[0]) == b" a"
    assert qwen.token_bytes(qwen.vocab_size) == b""
    assert mistral.token_bytes(-1) == b""


def test_invalid_bytes_decode_one_by_one(mistral: Tokenizer, mistral_model: Path) -> None:
    """A wrong byte does not take its valid neighbours with it, as the tokenizers library would have it."""
    library = SentencePieceProcessor(model_file=str(mistral_model))
    assert mistral.decode([library.piece_to_id(f"<0x{byte}>") for byte in ("C3", "A9", "FF")]) == "\u00e9\ufffd"


def test_empty_text(qwen: Tokenizer, tiny: Tokenizer, mistral: Tokenizer) -> None:
    assert [t.encode("", add_special=False) for t in (qwen, tiny, mistral)] == [[], [], []]
    assert [t.encode("") for t in (qwen, tiny, mistral)] == [[], [1], [1]]
    assert [t.decode([]) for t in (qwen, tiny, mistral)] == ["", "", ""]


def test_lone_surrogates_are_refused(qwen: Tokenizer, mistral: Tokenizer) -> None:
    for tokenizer in (qwen, mistral):
        with pytest.raises(InvalidRequestError, match=r"U\+D83D\) at character 1"):
            tokenizer.encode("a\ud83d")


@pytest.mark.parametrize("wrong", [-1, 151665, 2**40])
def test_ids_outside_the_vocabulary_are_refused(qwen: Tokenizer, wrong: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"{wrong} at place 1"):
        qwen.decode([0, wrong])


def test_threads_do_not_disturb_each_other(qwen: Tokenizer) -> None:
    text = "<|im_end|>" * 50

    def encode(number: int) -> bool:
        return (151645 in qwen.encode(text, parse_special=number % 2 == 0)) == (number % 2 == 0)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(encode, range(200)))


def test_truncation_in_the_file_is_ignored(shared_data: Path, tmp_path: Path) -> None:
    source = json.loads((shared_data / "weights" / "tinystories-656k" / "tokenizer.json").read_text())
    source["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(source))
    assert len(load_tokenizer(tmp_path).encode(SENTENCE)) == 21


def test_gpt2_style_folder(qwen_folder: Path, tmp_path: Path) -> None:
    """Without Qwen2Tokenizer in the config, digits stay together and bos is put first where asked."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(qwen_folder / name, tmp_path)
    config = {"bos_token": "<|bos|>", "eos_token": {"content": "<|eos|>"}, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("e\u0301<|eos|>")
    assert ids[0] == tokenizer.bos_id == 151643
    assert ids[-1] == 151644
    assert tokenizer.eos_ids == (151644,)
    assert tokenizer.decode(ids) == "e\u0301"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(text)

    return damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("vocab.json", cut),
        ("vocab.json", write("[1]")),
        ("vocab.json", write("[" * 100_000)),
        ("merges.txt", write("a b c\n")),
        ("merges.txt", write("nosuch token\n")),
        ("tokenizer_config.json", cut),
        ("tokenizer_config.json", write('{"added_tokens_decoder": {"x": {}}}')),
        ("tokenizer_config.json", write('{"added_tokens_decoder": [1]}')),
        ("added_tokens.json", write('{"<x>": "1"}')),
        ("added_tokens.json", write('{"<x>": 5}')),
        ("generation_config.json", write('{"eos_token_id": "two"}')),
        ("tokenizer.json", write("")),
        ("tokenizer.json", write('{"version": "1.0", "model": {"type": "Dream"}}')),
    ],
)
def test_damaged_files_name_themselves(
    qwen_folder: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(qwen_folder, tmp_path / "m")
    for file in (tmp_path / "m").iterdir():
        file.chmod(0o644)
    damage(tmp_path / "m" / name)
    with pytest.raises(ModelError, match=f"{name}|{tmp_path / 'm'}"):
        load_tokenizer(tmp_path / "m")


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_damaged_sentencepiece(tmp_path: Path, mistral_model: Path, size: int) -> None:
    (tmp_path / "tokenizer.model").write_bytes(mistral_model.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"tokenizer\.model is not a SentencePiece model"):
        load_tokenizer(tmp_path)


def test_tiktoken_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(ModelError, match=r"tiktoken.*tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_unsupported_spelling_is_refused(shared_data: Path, tmp_path: Path) -> None:
    source = json.loads((shared_data / "weights" / "tinystories-656k" / "tokenizer.json").read_text())
    source["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(source))
    with pytest.raises(ModelError, match="WordPiece"):
        load_tokenizer(tmp_path)


def test_oversized_files_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 30)  # sparse: takes no room
    with pytest.raises(ModelError, match="larger than 256 MiB"):
        load_tokenizer(tmp_path)


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(tmp_path)
