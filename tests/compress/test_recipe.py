"""Recipes: what they may say, and stages that are done once, in order, whenever a run is killed."""

import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path
from signal import raise_signal
from typing import Any

import pytest
import torch

from nearfield.compress.compose import compress_folder
from nearfield.compress.folder import Progress
from nearfield.compress.place import made_in_steps, made_whole
from nearfield.compress.recipe import Evaluation, Kind, Recipe, Stage, read_recipe, whole
from nearfield.compress.stages import KINDS, RUNS
from nearfield.core.errors import ConfigError, ModelError
from tests.compress.killed import compressing
from tests.forked import exit_code

ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_is_read_with_its_texts_beside_it(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("texts/a.txt", "texts/b.txt", "own.txt"):
        (tmp_path / name).write_text("x")
    path = written(tmp_path, """
        [[stage]]
        kind = "prune"
        ffn = 0.8
        layers = -1

        [[stage]]
        kind = "distill"
        block-local = true
        tokens = 300_000
        text = "generate"

        [[stage]]
        kind = "quantize"
        fit = "3MB"
        calibration = ["texts/a.txt", "texts/b.txt"]

        [evaluate]
        tokens = 4096
    """)
    own = tmp_path / "own.txt"
    recipe = read_recipe(path, KINDS, [own], [own])
    assert recipe == Recipe(path, (
        Stage("prune", {"ffn": 0.8, "layers": -1}, (own,)),
        Stage("distill", {"tokens": 300_000, "block-local": True}, None),
        Stage("quantize", {"fit": 3_000_000}, (tmp_path / "texts/a.txt", tmp_path / "texts/b.txt"))),
        Evaluation((own,), 4096))


@pytest.mark.parametrize(("text", "message"), [
    ("", r"recipe\.toml: has no stages; each begins with a line \[\[stage\]\]"),
    ("[[stage]", r"recipe\.toml: is not TOML"),
    ("stages = []", r"recipe\.toml: unknown key 'stages' \(did you mean 'stage'\?\)"),
    ("[[stage]]\nffn = 0.8", r"recipe\.toml: stage 1 has no kind; kinds are prune, distill, quantize"),
    ("[[stage]]\nkind = 'quantise'", r"stage 1 is of the unknown kind 'quantise' \(did you mean 'quantize'\?\)"),
    ("[[stage]]\nkind = 'quantize'\nfromat = 'w4'", r"stage 1 \(quantize\): unknown key 'fromat' \(did you mean "
                                                     r"'format'\?\); known are kind, calibration, format"),
    ("[[stage]]\nkind = 'quantize'\nformat = 'w44'", r"\(quantize\): format is 'w44' \(did you mean 'w4'\?\); it is "
                                                      r"one of w8, w4"),
    ("[[stage]]\nkind = 'quantize'\ngroup = 48", r"\(quantize\): group is 48; group must be one of 32, 64, 128"),
    ("[[stage]]\nkind = 'quantize'\nfit = 'big'", r"fit is 'big'; 'big' is not a size"),
    ("[[stage]]\nkind = 'prune'\nlayers = true", r"stage 1 \(prune\): layers is True; it is a whole number"),
    ("[[stage]]\nkind = 'distill'\ntokens = 0", r"\(distill\): tokens is 0; it is a whole number of at least 1"),
    ("[[stage]]\nkind = 'distill'\nblock-local = 1", r"block-local is 1; it is true or false"),
    ("[[stage]]\nkind = 'prune'\nffn = '0.8'", r"ffn is '0\.8'; it is a number"),
    (f"[[stage]]\nkind = 'distill'\nseed = {2**63}", f"seed is {2**63}; the largest number of TOML is {2**63 - 1}"),
    (f"[[stage]]\nkind = 'prune'\nffn = 1{'0' * 400}", r"\(prune\): ffn is larger than any number"),
    ("[[stage]]\nkind = 'prune'\nffn = 0.8", r"stage 1 \(prune\): looks at text and names none; add calibration = "
                                             r"\[\"FILE\"\], or give --calibration FILE"),
    ("[[stage]]\nkind = 'prune'\ncalibration = 'none.txt'", r"\(prune\): calibration: .*none\.txt: no such file"),
    ("[[stage]]\nkind = 'prune'\ncalibration = []", r"calibration is \[\]; it is a list of files"),
    ("[[stage]]\nkind = 'quantize'\nmethod = 'rtn'\n[[stage]]\nkind = 'distill'\ntext = 'generate'",
     r"stage 1 \(quantize\) makes codes, which no later stage can change; put it last"),
    ("[[stage]]\nkind = 'quantize'\nmethod = 'rtn'\n[evaluate]", r"\[evaluate\] names no text; .* or give --text FILE"),
    ("evaluate = 1\n[[stage]]\nkind = 'quantize'\nmethod = 'rtn'", r"\[evaluate\] must be a table, is 1"),
    ("[[stage]]\nkind = 'quantize'\nmethod = 'rtn'\n[evaluate]\ntexts = 1", r"\[evaluate\]: unknown key 'texts' \(did "
                                                                            r"you mean 'text'\?\)"),
])
def test_mistakes_name_file_stage_and_key(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(written(tmp_path, text), KINDS)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read .*; give a recipe"):
        read_recipe(tmp_path / "none.toml", KINDS)
    with pytest.raises(ConfigError, match=r"has no \[evaluate\] to use --text"):
        read_recipe(written(tmp_path, "[[stage]]\nkind = 'quantize'\nmethod = 'rtn'"), KINDS, text=[tmp_path])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: str(path.stem))
def test_recipes_that_ship_are_whole(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("x")
    recipe = read_recipe(path, KINDS, [text], [text])
    assert recipe.evaluate is not None and {stage.kind for stage in recipe.stages} <= RUNS.keys()


class Steps:
    """Stages that add a line to the model's `trace`, and note that they were run."""

    def __init__(self, fails: int | None = None) -> None:
        self.done: list[int] = []
        self.fails = fails
        self.firsts: set[Path] = set()

    def __call__(self, stage: Stage, source: Path, out: Path, first: Path, device: str, progress: Progress) -> None:
        number = stage.options["number"]
        if number == self.fails:
            raise ModelError("it broke")
        self.done.append(number)
        self.firsts.add(first)
        progress(1, 2)
        shutil.copytree(source, out)
        with (out / "trace").open("a") as file:
            file.write(f"{number}\n")
        (out / "report.json").write_text(json.dumps({"add": {"seconds": number * 1.5}}))


def made(source: Path, out: Path, steps: Steps, *numbers: int, **more: Any) -> None:
    text = "".join(f"[[stage]]\nkind = 'add'\nnumber = {number}\n" for number in numbers)
    texts = more.pop("texts", None)
    kind = Kind({"number": whole()}, "text", lambda options: texts is not None)
    recipe = read_recipe(written(out.parent, text), {"add": kind}, texts)
    compress_folder(source, out, recipe, runs={"add": steps}, **more)


def test_stages_are_done_in_order_and_only_the_result_stays(readable: Path, tmp_path: Path) -> None:
    out, steps, told, seen = tmp_path / "out", Steps(), [], []

    def finish(folder: Path) -> None:
        assert not out.exists() and (folder / "config.json").exists()
        told.append((folder / "trace").read_text())

    made(readable, out, steps, 3, 1, 2, finish=finish, progress=lambda *step: seen.append(step))
    assert steps.done == [3, 1, 2] and steps.firsts == {readable} and told == ["3\n1\n2\n"]
    assert seen == [(1, 1, 2), (2, 1, 2), (3, 1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "parent", "recipe.toml"]
    section = json.loads((out / "report.json").read_text())["compress"]
    assert [stage["seconds"] for stage in section["stages"]] == [4.5, 1.5, 3.0]
    assert [stage["options"] for stage in section["stages"]] == [{"number": 3}, {"number": 1}, {"number": 2}]
    assert section["recipe"]["name"] == "recipe.toml" and "model.safetensors" in section["parent"]["sha256"]
    assert section["versions"]["nearfield"]


def test_what_is_finished_is_not_done_again_and_what_differs_is(readable: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "out", tmp_path / "text.txt"
    text.write_text("one")

    def run(fails: int | None, *numbers: int) -> list[int]:
        steps = Steps(fails)
        try:
            made(readable, out, steps, *numbers, texts=[text])
        except ModelError as error:
            assert str(error).endswith(f"recipe.toml: stage {numbers.index(fails or 0) + 1} (add): it broke")
        return steps.done

    assert run(3, 1, 2, 3) == [1, 2] and not out.exists()
    def refused_and_removed(*numbers: int) -> None:
        """What is finished and of no use is named, and left."""
        with pytest.raises(ConfigError, match="finished by another recipe, .*; repeat that .*, or remove") as told:
            run(4, *numbers)
        for name in str(told.value).partition(": ")[0].split(", "):
            shutil.rmtree(name)

    assert run(3, 1, 2, 3) == []                # both are there
    refused_and_removed(1, 5, 4)
    assert run(4, 1, 5, 4) == [5]               # another second stage
    text.write_text("two")
    refused_and_removed(1, 5, 4)
    assert run(4, 1, 5, 4) == [1, 5]            # another text
    (readable / "tokenizer_config.json").write_text("{}")
    refused_and_removed(1, 5, 4)
    assert run(4, 1, 5, 4) == [1, 5]            # another model
    assert len(list((tmp_path / "out.partial").glob("*-add-*"))) == 2
    assert run(None, 1, 5, 4) == [4] and (out / "trace").read_text() == "1\n5\n4\n"
    with pytest.raises(ConfigError, match="out: exists already"):
        run(None, 1, 5, 4)


def test_a_second_run_on_the_same_folder_is_refused_and_takes_nothing_away(readable: Path, tmp_path: Path) -> None:
    out, second = tmp_path / "out", Steps()

    def again(*step: int) -> None:
        with pytest.raises(ConfigError, match="out is being made by another run; wait for it"):
            made(readable, out, second, 7)

    made(readable, out, Steps(), 1, 2, progress=again)
    assert (out / "trace").read_text() == "1\n2\n" and second.done == []
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(("done", "told"), [
    ((), "$"), ((1,), r"^stopped; the same command continues with what is finished in .*/out\.partial$")])
def test_ctrl_c_says_what_it_leaves(done: tuple[int, ...], told: str, readable: Path, tmp_path: Path) -> None:
    """The stage that it stops has a folder of its own, which is not the one to name."""
    class Stopped(Steps):
        def __call__(self, stage: Stage, source: Path, out: Path, first: Path, device: str, progress: Progress) -> None:
            if stage.options["number"] == 2:
                with made_in_steps(out, {"command": "add"}) if done else made_whole(out) as partial:
                    (partial / "begun").write_text("x")
                    raise_signal(signal.SIGINT)
            super().__call__(stage, source, out, first, device, progress)

    with pytest.raises(KeyboardInterrupt) as stop:
        made(readable, tmp_path / "out", Stopped(), *done, 2)
    assert re.search(told, str(stop.value)) and bool(str(stop.value)) == bool(done)
    made(readable, tmp_path / "out", steps := Steps(), *done, 2)
    assert steps.done == [2] and not (tmp_path / "out.partial").exists()


def test_no_other_run_comes_between_the_checks_and_the_stages(readable: Path, tmp_path: Path) -> None:
    """The texts of all stages take long to read."""
    def begin() -> None:
        with pytest.raises(ConfigError, match="out is being made by another run"), made_whole(tmp_path / "out"):
            pass

    made(readable, tmp_path / "out", Steps(), 1, begin=begin)
    assert (tmp_path / "out" / "trace").read_text() == "1\n"


def test_checks_that_fail_leave_nothing_new(readable: Path, tmp_path: Path) -> None:
    def begin() -> None:
        raise ConfigError("too short")

    with pytest.raises(ConfigError, match="too short"):
        made(readable, tmp_path / "out", Steps(), 1, begin=begin)
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(ModelError, match="it broke"):
        made(readable, tmp_path / "out", Steps(2), 1, 2)
    with pytest.raises(ConfigError, match="too short"):
        made(readable, tmp_path / "out", Steps(), 1, 2, begin=begin)
    made(readable, tmp_path / "out", steps := Steps(), 1, 2)
    assert steps.done == [2]


@pytest.mark.parametrize(("done", "code", "told"), [
    ((), errno.EROFS, r"\(Read-only file system\); nothing is left of it; give another place$"),
    ((1,), errno.ENOSPC, r"; make room, and the same command continues with what is finished in .*out\.partial, or "),
    ((1,), errno.EROFS, r"\(Read-only file system\); the same command continues with what is finished in ")])
def test_a_disk_that_fails_says_what_is_left(done: tuple[int, ...], code: int, told: str, readable: Path,
                                             tmp_path: Path) -> None:
    class Fails(Steps):
        def __call__(self, stage: Stage, source: Path, out: Path, first: Path, device: str, progress: Progress) -> None:
            if stage.options["number"] == 2:
                raise OSError(code, os.strerror(code), str(out))
            super().__call__(stage, source, out, first, device, progress)

    with pytest.raises(ConfigError, match=told):
        made(readable, tmp_path / "out", Fails(), *done, 2)
    assert (tmp_path / "out.partial").exists() == bool(done)


PRUNE, DISTILL = "[[stage]]\nkind = 'prune'\n", "[[stage]]\nkind = 'distill'\ntext = 'generate'\n"
QUANTIZE = "[[stage]]\nkind = 'quantize'\nmethod = 'rtn'\n"


@pytest.mark.parametrize(("text", "message"), [
    (f"{PRUNE}ffn = 0.5\n{QUANTIZE}format = 'w8'\ngroup = 32", "stage 2 (quantize): group is of w4: a w8 folder"),
    (f"{PRUNE}ffn = 0.5\n{QUANTIZE}", 'stage 2 (quantize): give format = "w8" or w4, or a size with fit'),
    (f"{QUANTIZE}fit = 9000", 'fit measures on text: give calibration = ["FILE"], text'),
    (PRUNE, "stage 1 (prune): there is nothing to prune; give ffn, layers or heads"),
    (f"{PRUNE}compensate = false", "stage 1 (prune): there is nothing to prune"),
    (f"{PRUNE}ffn = 1.5", "stage 1 (prune): ffn = 1.5: it is the share of channels that stays, between 0 and 1"),
    (f"{PRUNE}ffn = nan", "stage 1 (prune): ffn = nan: it is the share"),
    (f"{PRUNE}layers = 4", "stage 1 (prune): layers says how many fewer: layers = -4, not 4"),
    (f"{PRUNE}layers = -1\n{PRUNE}layers = -1", "stage 2 (prune): layers = -1: the model has 1 layers, and one must"),
    (f"{PRUNE}ffn = 0.5\n{DISTILL}tokens = 63", "stage 2 (distill): 63 tokens are less than a step, which takes "),
    (f"{PRUNE}ffn = 0.5\n{DISTILL}learning-rate = nan", "stage 2 (distill): a learning rate of nan teaches nothing; "
                                                        "give one between 0 and 1 with learning-rate"),
    (f"{PRUNE}ffn = 0.6\n{DISTILL}{QUANTIZE}format = 'w4'",
     "stage 3 (quantize): parent, as stage 1 (prune) will leave it: model.layers.0.mlp.down_proj.weight is 128 x 160, "
     'which cannot be cut into groups of 64 columns; give group = 32, or format = "w8"'),
    (f"{PRUNE}heads = -1\n{PRUNE}ffn = 0.5\n{QUANTIZE}format = 'w4'\ngroup = 128",
     "stage 3 (quantize): parent, as stage 2 (prune) will leave it: model.layers.0.self_attn.o_proj.weight is "),
    (f"{PRUNE}ffn = 0.5\n{QUANTIZE.replace('rtn', 'gptq')}fit = 9000",
     "stage 2 (quantize): parent, as stage 1 (prune) will leave it: cannot be made to fit 8.79 KiB; its codes alone"),
    (f"{PRUNE}layers = -1\n{PRUNE}ffn = 0.5\n{DISTILL}block-local = true",
     "stage 3 (distill): the last stage that prunes is not the one that all layers went in"),
])
def test_what_cannot_be_done_is_told_before_the_first_stage(
        text: str, message: str, readable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, text)
    recipe, steps = read_recipe(path, KINDS, None if "'rtn'" in text and PRUNE not in text else [path]), Steps()
    with pytest.raises(ConfigError) as error:
        compress_folder(Path("parent"), tmp_path / "out", recipe, runs=dict.fromkeys(RUNS, steps))
    assert message in str(error.value) and not steps.done
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parent", "recipe.toml"]


def test_what_a_stage_says_while_it_runs_is_in_words_of_a_recipe(readable: Path, tmp_path: Path) -> None:
    class Fails(Steps):
        def __call__(self, *args: object) -> None:
            raise ModelError("lower --learning-rate, or give --fit 9000, --text FILE or --profile compact; --serve 1")

    with pytest.raises(ModelError, match=r'lower learning-rate, or give fit = 9000, text = \["FILE"\] or profile = '
                                         r'"compact"; --serve 1$'):
        made(readable, tmp_path / "out", Fails(), 1)


REAL = """
[[stage]]
kind = "prune"
ffn = 0.5
compensate = false
[[stage]]
kind = "distill"
tokens = 4096
learning-rate = 0.0003
text = "{chats}"
[[stage]]
kind = "quantize"
format = "w4"
group = 32
"""
def test_real_stages_killed_in_each_of_them_make_the_same_bytes(readable: Path, chats: Path, tmp_path: Path) -> None:
    path = written(tmp_path, REAL.format(chats=chats))
    recipe = read_recipe(path, KINDS, [chats])
    compress_folder(readable, tmp_path / "whole", recipe)
    out = tmp_path / "out"
    for stage in (1, 2, 3):
        killed = exit_code(compressing, readable, out, path, chats, stage, torch.get_num_threads())
        assert killed == -signal.SIGKILL and not out.exists()
    compress_folder(readable, out, recipe)
    names = {file.name for file in out.iterdir()}
    assert names == {file.name for file in (tmp_path / "whole").iterdir()}
    for name in names - {"report.json"}:        # which tells seconds
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    report = json.loads((out / "report.json").read_text())
    assert {"prune", "distill", "quantize", "compress"} <= report.keys()
    assert not (tmp_path / "out.partial").exists()
