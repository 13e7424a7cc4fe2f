"""Where a folder is made: what lies there is continued, cleared or left alone, and nothing of a user's is touched."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from nearfield.cli.main import main
from nearfield.compress import place
from nearfield.compress.calibrated import quantize_calibrated
from nearfield.compress.compose import compress_folder
from nearfield.compress.distill.folder import distill_folder
from nearfield.compress.distill.plan import DistillOptions
from nearfield.compress.folder import quantize_folder
from nearfield.compress.place import check_out, claimed, made_in_steps, made_whole
from nearfield.compress.plan import Target
from nearfield.compress.prune.folder import prune_folder
from nearfield.compress.prune.options import PruneOptions
from nearfield.compress.recipe import read_recipe
from nearfield.compress.stages import KINDS
from nearfield.core.errors import ConfigError
from tests.gguf_files import write_gguf
from tests.small_model import CONFIG, save_model, small_tensors

RUN = {"command": "quantize", "device": "cpu", "seed": 1}
W4, SOME = Target("w4"), PruneOptions(ffn=0.5)


def files(folder: Path) -> dict[str, str]:
    """What is there, by path; links are not followed."""
    return {str(path.relative_to(folder)): "" if path.is_dir() else path.read_bytes().hex()
            for path in folder.rglob("*")}


def left(out: Path, run: place.Run | None, name: str = "layers/layer-0.safetensors") -> Path:
    """What a run that is killed leaves, once it has written the file `name`. Returns where."""
    with claimed(out, run) as partial:
        (partial / name).parent.mkdir(exist_ok=True)
        (partial / name).write_text("x")
        shutil.copytree(partial, out.with_name("copy"))
    return out.with_name("copy").rename(place.partial_of(out))


def recipe(folder: Path, text: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(f"[[stage]]\nkind = 'quantize'\nformat = 'w4'\ncalibration = '{text}'\n"
                    f"[evaluate]\ntext = '{text}'\n")
    return path


COMMANDS: dict[str, Callable[[Path, Path, Path], object]] = {       # of a model, a text, and OUT
    "quantize": lambda model, text, out: quantize_folder(model, out, W4),
    "calibrate": lambda model, text, out: quantize_calibrated(model, out, W4, "gptq", [text]),
    "prune": lambda model, text, out: prune_folder(model, out, SOME, [text]),
    "student": lambda model, text, out: distill_folder(model, model, out, DistillOptions(), [text]),
    "compress": lambda model, text, out: compress_folder(
        model, out, read_recipe(recipe(text.parent, text), KINDS)),
}


@pytest.mark.parametrize(("command", "inside"), [
    (command, inside) for command in COMMANDS for inside in ("model", "text", "at", "link")
    if (command, inside) != ("quantize", "text")])      # which reads none
@pytest.mark.parametrize("marked", [False, True])
def test_what_is_read_is_not_cleared(command: str, inside: str, marked: bool, tmp_path: Path) -> None:
    """It lies where the folder would be made, by whatever name: as a run's own stages do, or a user's things."""
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    model = tmp_path / "model" if inside == "text" else partial if inside == "at" else partial / "model"
    partial.mkdir()
    save_model(model, small_tensors())
    text = (partial if inside == "text" else tmp_path) / "text.txt"
    text.write_text("precious")
    if marked:
        (partial / "nearfield-run.json").write_text('{"run": null}')
    if inside == "link":
        (tmp_path / "linked").symlink_to(model)
        model = tmp_path / "linked"
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"lies in .*out\.partial, where .*out would be made; move it, or "):
        COMMANDS[command](model, text, out)
    assert {name: data for name, data in files(tmp_path).items() if name in before} == before and not out.exists()


def test_a_teacher_a_recipe_and_a_linked_file_are_not_cleared_either(tmp_path: Path) -> None:
    model, out, partial = save_model(tmp_path / "model", small_tensors()), tmp_path / "out", tmp_path / "out.partial"
    partial.mkdir()
    teacher = save_model(partial / "teacher", small_tensors())
    with pytest.raises(ConfigError, match=r"teacher: lies in .*out\.partial, where"):
        distill_folder(model, teacher, out, DistillOptions(), None)
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"recipe\.toml: lies in .*out\.partial, where"):
        compress_folder(model, out, read_recipe(recipe(partial, tmp_path / "text.txt"), KINDS))
    (model / "model.safetensors").rename(partial / "weights")
    (model / "model.safetensors").symlink_to(partial / "weights")       # as the hub's cache has it
    with pytest.raises(ConfigError, match=r"model\.safetensors: lies in .*out\.partial, where"):
        quantize_folder(model, out, W4)
    (tmp_path / "cached").mkdir()
    (tmp_path / "cached" / "model.gguf").symlink_to(partial / "Q8_0.gguf")
    with pytest.raises(ConfigError, match=r"out\.partial/Q8_0\.gguf: lies in .*out\.partial, where"):
        check_out(out, tmp_path / "cached")
    assert (partial / "weights").exists() and (teacher / "config.json").exists() and not out.exists()


def claims(out: Path) -> list[Callable[[], None]]:
    """The ways to make it, each of which fails at once where it comes to that."""
    def whole() -> None:
        with made_whole(out):
            raise AssertionError

    def steps() -> None:
        with made_in_steps(out, RUN):
            raise AssertionError

    return [whole, steps, lambda: check_out(out)]


def users_folder(partial: Path) -> None:
    partial.mkdir()
    (partial / "mine.safetensors").write_text("precious")


def users_link(partial: Path) -> None:
    (partial.parent / "elsewhere").mkdir()
    partial.symlink_to(partial.parent / "elsewhere")


@pytest.mark.parametrize("make", [users_folder, users_link, lambda path: path.write_text("precious"),
                                  lambda path: path.symlink_to("nowhere")])
def test_a_users_own_is_left_alone(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "out.partial")
    before = sorted(os.listdir(tmp_path))
    for claim in claims(tmp_path / "out"):
        with pytest.raises(ConfigError, match=r"out\.partial: is where .*out would be made, and no run .* made it; "
                                              "move or remove it, or give another name"):
            claim()
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("name", [None, "nearfield-run.json.part"])
def test_what_a_run_left_before_its_mark_is_used(name: str | None, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    if name is not None:
        (tmp_path / "out.partial" / name).write_text('{"run": {"comm')
    with made_whole(tmp_path / "out") as folder:
        (folder / "x").write_text("x")
    assert files(tmp_path).keys() == {"out", "out/x"}


def test_a_link_to_nothing_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/nowhere")
    for claim in claims(tmp_path / "out"):
        with pytest.raises(ConfigError, match="out: exists already; give a new folder, or remove it first"):
            claim()
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(("other", "told"), [
    (None, r"\(quantize\)"), ({"command": "prune"}, r"\(quantize\)"),
    ({**RUN, "seed": 2}, r"\(quantize with another seed\)"),
    ({**RUN, "seed": 2, "device": "cuda"}, r"\(quantize with another device, seed\)")])
def test_what_another_run_finished_is_left_to_it(other: place.Run | None, told: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    partial = left(out, RUN)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=rf"out\.partial: has what another run {told} finished; repeat that command "
                                          "to continue it, or remove that folder"), claimed(out, other):
        raise AssertionError
    assert files(tmp_path) == before
    with made_in_steps(out, dict(reversed(RUN.items()))) as again:
        assert (again / "layers" / "layer-0.safetensors").read_text() == "x" and again == partial
        place.empty_model(again)
    assert files(tmp_path).keys() == {"out"}


def test_what_another_device_has_begun_is_left_to_it(tmp_path: Path) -> None:
    left(tmp_path / "out", RUN)
    with pytest.raises(ConfigError, match=r"out\.partial: has what this run finished with --device cpu; on cuda other "
                                          "bits would"), claimed(tmp_path / "out", {**RUN, "device": "cuda"}):
        raise AssertionError


@pytest.mark.parametrize(("run", "name"), [(None, "model/model.safetensors"), (RUN, "layers/states.safetensors.part"),
                                           ({"command": "compress"}, "1-prune-0/report.json")])
@pytest.mark.parametrize("other", [None, {**RUN, "seed": 2}, {"command": "prune"}])
def test_what_was_quick_or_is_not_finished_is_cleared(run: place.Run | None, name: str, other: place.Run | None,
                                                      tmp_path: Path) -> None:
    left(tmp_path / "out", run, name)
    with claimed(tmp_path / "out", other) as partial:
        assert os.listdir(partial) == ["nearfield-run.json"]


def test_a_quick_stage_of_a_recipe_is_nothing_that_took_long(tmp_path: Path) -> None:
    partial = left(tmp_path / "out", {"command": "compress"}, "report.json")
    shutil.move(left(tmp_path / "out2", None, "model/model.safetensors"), partial / "1-quantize-0.partial")
    assert not place.has_finished(partial)
    shutil.move(left(tmp_path / "out3", RUN), partial / "2-prune-0.partial")
    assert place.has_finished(partial)


@pytest.mark.parametrize("mark", ["{", "[]", '{"walk": 1}', '{"run": 5}', '{"run": {}}', "\x00"])
def test_a_mark_that_is_not_ours_marks_nothing(mark: str, tmp_path: Path) -> None:
    partial = left(tmp_path / "out", RUN)
    (partial / "nearfield-run.json").write_text(mark)
    for claim in claims(tmp_path / "out"):
        with pytest.raises(ConfigError, match=r"out\.partial: is where .*out would be made, and no run .* made it"):
            claim()
    assert (partial / "layers" / "layer-0.safetensors").exists()


def test_a_removal_that_is_cut_off_leaves_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next run may clear the rest."""
    def fails(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError), made_whole(tmp_path / "out") as folder:
        (folder / "x").write_text("x")
        patched.setattr("shutil.rmtree", fails)
        raise ZeroDivisionError
    assert {"nearfield-run.json", "model"} == set(os.listdir(tmp_path / "out.partial"))
    with made_whole(tmp_path / "out") as folder:
        assert not any(folder.iterdir())
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG])
@pytest.mark.parametrize("kept", [False, True])
def test_room_is_the_remedy_of_a_full_disk_alone(code: int, kept: bool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error, claimed(tmp_path / "out", RUN) as partial:
        if kept:
            (partial / "layer-0.safetensors").write_text("x")
        raise OSError(code, os.strerror(code), "file")
    told, full = str(error.value), code in (errno.ENOSPC, errno.EDQUOT)
    assert told.startswith(f"file: cannot be written ({os.strerror(code)}); ") and told.endswith(" give another place")
    assert ("make room" in told) == full and ("nothing is left of it" in told) != kept
    assert (f"the same command continues with what is finished in {tmp_path / 'out.partial'}, or" in told) == kept
    assert (tmp_path / "out.partial").exists() == kept


def test_no_folder_can_be_begun_on_a_disk_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(ConfigError, match=r"out\.partial: cannot be written \(Read-only file system\); nothing is left "
                                          "of it; give another place$"), made_in_steps(tmp_path / "out", RUN):
        raise AssertionError


@pytest.mark.parametrize("command", ["convert", "unpack"])
@pytest.mark.parametrize("name", ["q4.gguf", ""])
def test_a_gguf_file_is_not_cleared(command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    """What is read is a folder in the cache, with a link to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEARFIELD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "out.partial").mkdir()
    file = tmp_path / "out.partial" / "q4.gguf"
    write_gguf(file, CONFIG, small_tensors(dtype=torch.float32), lambda name: Type.Q4_0)
    before = file.read_bytes()
    assert main([command, f"out.partial/{name}", "out"]) == 2
    error = capsys.readouterr().err
    assert "out.partial/q4.gguf: lies in out.partial, where out would be made; move it" in error
    assert file.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["cache", "out.partial"]
