"""The folder in the cache that is made of a GGUF file: by several processes at once, and where there is no place."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from nearfield.cli.main import main
from nearfield.core.errors import ModelError
from nearfield.models.chat_template import load_chat_template
from nearfield.models.gguf_folder import LINK, open_gguf
from nearfield.models.tokenizer import load_tokenizer
from tests.gguf_files import write_gguf
from tests.small_model import CONFIG, small_tensors


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEARFIELD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def model(path: Path, **keys: Any) -> Path:
    write_gguf(path, CONFIG, small_tensors(dtype=torch.float32), lambda name: Type.F16, **keys)
    return path


def test_what_another_process_is_making_is_let_be(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file is opened at the worst time, when the folder of this one is there and its link is not."""
    one, other = model(tmp_path / "one.gguf"), model(tmp_path / "other.gguf")
    link = Path.symlink_to

    def linked(self: Path, target: Path) -> None:
        if target == one:
            open_gguf(other)
        link(self, target)

    monkeypatch.setattr(Path, "symlink_to", linked)
    folder = open_gguf(one)
    assert (folder / LINK).readlink() == one and (folder / "config.json").is_file()
    assert not list(cache.glob("partial-*"))


def test_a_folder_that_goes_while_it_is_looked_at_is_no_error(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, listed = model(tmp_path / "one.gguf"), Path.iterdir

    def gone(self: Path) -> list[Path]:
        return [*listed(self), *([self / "partial-gone", self / "gone"] if self == cache else [])]

    monkeypatch.setattr(Path, "iterdir", gone)
    assert (open_gguf(path) / LINK).exists()


def test_what_a_killed_process_left_goes_after_an_hour(cache: Path, tmp_path: Path) -> None:
    path, then = model(tmp_path / "one.gguf"), time.time() - 4000
    for name in ("partial-old", "partial-new"):
        (cache / name / "one").mkdir(parents=True)
    os.utime(cache / "partial-old", (then, then))
    open_gguf(path)
    assert [found.name for found in cache.glob("partial-*")] == ["partial-new"]


def test_where_there_is_no_place_one_is_asked_for(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And not the command that has just failed."""
    path = model(tmp_path / "one.gguf")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEARFIELD_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"one\.gguf: there is no place .*that can be written to in NEARFIELD_CACHE$"):
        open_gguf(path)
    assert main(["unpack", str(path), str(tmp_path / "out")]) == 2
    assert "nearfield unpack" not in capsys.readouterr().err.partition(": ")[2]


def test_a_tokenizer_and_a_template_are_named_by_the_file_and_its_key(cache: Path, tmp_path: Path) -> None:
    path = model(tmp_path / "one.gguf")
    with pytest.raises(ModelError, match=rf"^{path}: has no tokenizer: .* key tokenizer\.ggml\.model; convert"):
        load_tokenizer(open_gguf(path))
    words = [*(chr(33 + i) for i in range(61)), "!!", "<s>", "</s>"]
    keys = {f"tokenizer.ggml.{name}": value for name, value in {
        "model": "gpt2", "pre": "gpt-2", "tokens": words, "token_type": [1] * 62 + [3, 3], "merges": ["! !"],
        "bos_token_id": 62, "eos_token_id": 63}.items()}
    model(path, **keys, **{"tokenizer.chat_template": "{% for m in %}"})
    with pytest.raises(ModelError) as caught:
        load_chat_template(open_gguf(path))
    assert f"({path}: tokenizer.chat_template, line 1" in str(caught.value) and str(cache) not in str(caught.value)
