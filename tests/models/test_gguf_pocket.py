"""The pocket model as a GGUF file: words, weights and ends come out as they went in."""

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from nearfield import LLM, SamplingParams
from nearfield.cli.main import main
from nearfield.formats.gguf import GgufFile
from nearfield.models.gguf_folder import open_gguf
from tests.gguf_files import write_gguf

GREEDY = SamplingParams(max_tokens=40, temperature=0)


def as_gguf(pocket: Path, path: Path, kind: Type) -> Path:
    config = json.loads((pocket / "config.json").read_text())
    library = json.loads((pocket / "tokenizer.json").read_text())
    special = {token["id"] for token in library["added_tokens"]}
    words = {**library["model"]["vocab"], **{token["content"]: token["id"] for token in library["added_tokens"]}}
    tokens = sorted(words, key=lambda word: words[word])
    template = json.loads((pocket / "tokenizer_config.json").read_text()).get("chat_template")
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if i in special else 1 for i in range(len(tokens))],
        "tokenizer.ggml.merges": [pair if isinstance(pair, str) else " ".join(pair)
                                  for pair in library["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": config["bos_token_id"], "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": template or (pocket / "chat_template.jinja").read_text()}
    write_gguf(path, config, load_file(pocket / "model.safetensors"), lambda name: kind, **keys)
    return path


@pytest.fixture(scope="module")
def chat() -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Tell me a story about a fox named Pip who is 7."}]


def test_the_words_of_a_file_are_read_once(pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start finds the folder by the header; another file in its place has another."""
    path, read = as_gguf(pocket, tmp_path / "model.gguf", Type.BF16), []
    kept = GgufFile.read

    def counted(path: Path, *, words: bool = True) -> GgufFile:
        read.append(words)
        return kept(path, words=words)
    monkeypatch.setattr(GgufFile, "read", counted)
    folder = open_gguf(path)
    assert read == [False, True] and (folder / "tokenizer.json").exists()
    assert open_gguf(path) == folder and read == [False, True, False]
    as_gguf(pocket, path, Type.F16)
    assert open_gguf(path) != folder


def test_a_bf16_file_is_the_model_itself(pocket: Path, chat: list[dict[str, Any]], tmp_path: Path) -> None:
    path = as_gguf(pocket, tmp_path / "pip.gguf", Type.BF16)
    made, own = (LLM(model, kv_memory="16MiB", threads=1) for model in (path, pocket))
    ids = own.encode_chat(chat)
    assert made.encode_chat(chat) == ids and made.encode("Pip, 77 times!") == own.encode("Pip, 77 times!")
    assert made.score(ids) == own.score(ids)
    answers = [llm.generate([ids], GREEDY)[0] for llm in (made, own)]
    assert answers[0].token_ids == answers[1].token_ids and answers[0].text == answers[1].text != ""


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q8_0], ids=lambda kind: kind.name)
def test_a_file_of_codes_and_what_it_is_converted_to_answer_alike(
        kind: Type, pocket: Path, chat: list[dict[str, Any]], tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    path = as_gguf(pocket, tmp_path / "pip.gguf", kind)
    assert main(["convert", str(path), str(tmp_path / "standard")]) == 0
    said = capsys.readouterr().out
    assert f"rounded on the way:\n  1 tensor, {kind.name} to bfloat16: a relative error of 0.00" in said
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["stored"] == {"format": f"int{kind.name[1]}, groups of 32 (gguf)", "bytes": path.stat().st_size}
    made, standard = (LLM(model, kv_memory="16MiB", threads=1) for model in (path, tmp_path / "standard"))
    ids = made.encode_chat(chat)
    assert standard.encode_chat(chat) == ids
    # The table of embeddings was rounded to bf16 between the two.
    assert made.score(ids) == pytest.approx(standard.score(ids), abs=0.2)
    assert made.generate([ids], GREEDY)[0].text.split()[:3] == standard.generate([ids], GREEDY)[0].text.split()[:3]
