"""--device: all that is multiplied is on the device asked for, what is kept is the CPU's, and what one device has begun
another does not continue. Without a GPU, by tensors that are elsewhere in name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nearfield.cli.main import main
from nearfield.compress.analyze import analyze
from nearfield.compress.calibrated import quantize_calibrated
from nearfield.compress.compose import compress_folder
from nearfield.compress.device import computing_on
from nearfield.compress.distill.folder import distill_folder
from nearfield.compress.distill.lesson import Standing
from nearfield.compress.distill.network import DTYPE, Network
from nearfield.compress.distill.plan import DistillOptions
from nearfield.compress.distill.written import write_chunks
from nearfield.compress.parent import read_parent
from nearfield.compress.plan import Target
from nearfield.compress.prune.folder import prune_folder
from nearfield.compress.prune.options import PruneOptions
from nearfield.compress.recipe import read_recipe
from nearfield.compress.stages import KINDS
from nearfield.core.errors import ConfigError
from tests.compress.prune_models import make_parent, make_text
from tests.elsewhere import NAME, elsewhere
from tests.small_pair import SmallPair, save_pair

PRUNED = PruneOptions(ffn=0.7, layers=-1, heads=-1)
STEP = 64
TAUGHT = DistillOptions(tokens=4 * STEP, learning_rate=3e-3)


@pytest.fixture
def pair(tmp_path: Path) -> SmallPair:
    return save_pair(tmp_path)


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def close(one: Path, other: Path) -> None:
    """Weights of the same names, alike."""
    want, got = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert want.keys() == got.keys()
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-3, atol=1e-4)


def away(make: Callable[[str], Any]) -> Any:
    """What is made elsewhere, every product of it there."""
    with elsewhere() as products:
        made = make(NAME)
    assert len(products) > 50 and set(products) == {NAME}
    return made


@pytest.mark.parametrize("family", ["qwen2-window", "qwen3"])
def test_pruning_computes_where_it_is_told(family: str, tmp_path: Path) -> None:
    make_parent(family, tmp_path / "parent")
    text = make_text(tmp_path / "text.txt")
    for name, run in (("cpu", lambda make: make("cpu")), (NAME, away)):
        run(lambda device: prune_folder(tmp_path / "parent", tmp_path / device, PRUNED, [text], device=device))
        assert json.loads((tmp_path / name / "report.json").read_text())["prune"]["device"] == name
    close(tmp_path / "cpu", tmp_path / NAME)


def test_analysis_computes_where_it_is_told(tmp_path: Path) -> None:
    make_parent("qwen2", tmp_path / "parent")
    text = make_text(tmp_path / "text.txt")
    want = analyze(tmp_path / "parent", [text])["layers"]
    got = away(lambda device: analyze(tmp_path / "parent", [text], device=device))["layers"]
    for one, other in zip(want, got, strict=True):
        assert other["influence"] == pytest.approx(one["influence"], rel=1e-3)
        assert other["ffn_80"] == pytest.approx(one["ffn_80"], rel=1e-3)


@pytest.mark.slow
def test_calibration_computes_where_it_is_told(tmp_path: Path) -> None:
    make_parent("qwen2", tmp_path / "parent")
    text = make_text(tmp_path / "text.txt")
    away(lambda device: quantize_calibrated(tmp_path / "parent", tmp_path / "out", Target("w4", 32), "auto", [text],
                                            device=device))
    told = json.loads((tmp_path / "out" / "report.json").read_text())["quantize"]
    assert told["device"] == NAME and "device" not in told["recipe"]


def test_a_lesson_is_held_where_it_is_told_and_goes_on_there(pair: SmallPair, tmp_path: Path) -> None:
    """Killed after the first checkpoint, it makes the bits that it makes whole."""
    def taught(device: str, out: str, progress: Callable[[Standing], None] = lambda standing: None) -> dict[str, Any]:
        distill_folder(pair.student, pair.teacher, tmp_path / out, TAUGHT, [pair.text], device=device,
                       progress=progress)
        found: dict[str, Any] = json.loads((tmp_path / out / "report.json").read_text())["distill"]
        return found

    def stop(standing: Standing) -> None:
        if standing.stage == "all layers" and standing.done >= 2 * STEP:
            raise KeyboardInterrupt

    want, got = taught("cpu", "here"), away(lambda device: taught(device, "whole"))
    assert (want["device"], got["device"]) == ("cpu", NAME)
    for when in ("before", "after"):
        assert got["held_out_kl"][when] == pytest.approx(want["held_out_kl"][when], rel=2e-2)
    with pytest.raises(KeyboardInterrupt):
        away(lambda device: taught(device, "killed", stop))
    with pytest.raises(ConfigError, match=f"killed.partial: has what this run finished with --device {NAME}; on cpu "
                                          f"other bits .* Continue with --device {NAME}, or remove that folder"):
        taught("cpu", "killed")
    away(lambda device: taught(device, "killed"))
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")


def test_a_teacher_writes_where_it_is(pair: SmallPair) -> None:
    parent = read_parent(pair.teacher)
    want = write_chunks(Network.load(parent, DTYPE), 1, range(4), 8, seed=3)
    got = away(lambda device: write_chunks(Network.load(parent, DTYPE, torch.device(device)), 1, range(4), 8, seed=3))
    assert got.device.type == NAME
    with elsewhere():
        assert torch.equal(got.cpu()[:, :2], want[:, :2])       # after that one other rounding leads elsewhere


RECIPE = """
[[stage]]
kind = "prune"
ffn = 0.5
[[stage]]
kind = "quantize"
format = "w8"
method = "rtn"
"""


def test_a_recipe_has_one_device_for_all_stages(tmp_path: Path) -> None:
    """Rounding alone has none; stages that are finished on one are not gone on from on another."""
    make_parent("qwen2", tmp_path / "parent")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.toml", KINDS, [make_text(tmp_path / "text.txt")])
    out = tmp_path / "out"

    def fails(folder: Path) -> None:
        raise ConfigError("no room for the page")

    def run(device: str, finish: Callable[[Path], object]) -> None:
        compress_folder(tmp_path / "parent", out, recipe, device=device, finish=finish)

    with pytest.raises(ConfigError, match="no room for the page"):
        away(lambda device: run(device, fails))
    with pytest.raises(ConfigError, match=rf"out\.partial: has what this run finished with --device {NAME}; on cpu"):
        run("cpu", str)
    before = {path.stat().st_mtime_ns for path in (tmp_path / "out.partial").rglob("model.safetensors")}
    run(NAME, str)
    assert len(before) == 2 and (out / "model.safetensors").stat().st_mtime_ns in before
    report = json.loads((out / "report.json").read_text())
    assert report["prune"]["device"] == NAME and "device" not in report["quantize"]


def test_a_key_of_the_machine_is_not_one_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE + 'device = "cuda"\n')
    with pytest.raises(ConfigError, match=r"stage 2 \(quantize\): unknown key 'device'"):
        read_recipe(tmp_path / "recipe.toml", KINDS, [tmp_path / "recipe.toml"])


@pytest.mark.parametrize("words", [
    ["quantize", "MODEL", "OUT", "--format", "w4", "--calibration", "none.txt"],
    ["prune", "MODEL", "OUT", "--ffn", "0.8", "--calibration", "none.txt"],
    ["distill", "MODEL", "OUT", "--teacher", "OTHER", "--text", "none.txt"],
    ["compress", "MODEL", "OUT", "--recipe", "recipe.toml"],
    ["analyze", "MODEL", "--calibration", "none.txt"],
], ids=lambda words: words[0])
def test_a_device_that_is_not_there_is_told_before_anything_is_done(
        words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a model is looked for, which may mean fetching it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "none.txt").write_text("x")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = [*words, "--calibration", "none.txt"] if words[0] == "compress" else words
    assert main([*given, "--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert "--device cuda: torch finds no CUDA device here; leave the option out" in error and error.count("\n") == 1
    assert main([*given, "--device", "gpu"]) == 2
    assert "argument --device: unknown 'gpu'" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.toml", "none.txt"}


def test_a_gpu_that_is_too_small_is_told() -> None:
    with pytest.raises(ConfigError, match=r"--device cuda: the GPU's memory is too small \(CUDA out of memory\); "):
        with computing_on(torch.device("cuda")):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of")


@pytest.fixture
def gpu() -> str:
    """A GPU's own numbers can only come from one; the tests above try the same code without."""
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return "cuda"


def test_a_gpu_prunes_and_analyses_as_the_cpu_does(gpu: str, tmp_path: Path) -> None:
    make_parent("qwen3", tmp_path / "parent")
    text = make_text(tmp_path / "text.txt")
    for out, device in (("cpu", "cpu"), (gpu, gpu), ("again", gpu)):
        prune_folder(tmp_path / "parent", tmp_path / out, PRUNED, [text], device=device)
    assert weights_of(tmp_path / gpu) == weights_of(tmp_path / "again")
    close(tmp_path / "cpu", tmp_path / gpu)
    want, got = (analyze(tmp_path / "parent", [text], device=device)["layers"] for device in ("cpu", gpu))
    assert [layer["ffn_80"] for layer in got] == pytest.approx([layer["ffn_80"] for layer in want], rel=1e-2)


@pytest.mark.parametrize("generated", [False, True])
def test_a_gpu_teaches_as_the_cpu_does_and_the_same_bits_again(
        gpu: str, generated: bool, pair: SmallPair, tmp_path: Path) -> None:
    told = {}
    for out, device in (("cpu", "cpu"), (gpu, gpu), ("again", gpu)):
        distill_folder(pair.student, pair.teacher, tmp_path / out, replace(TAUGHT, block_local=True),
                       None if generated else [pair.text], device=device)
        told[out] = json.loads((tmp_path / out / "report.json").read_text())["distill"]["held_out_kl"]
    assert weights_of(tmp_path / gpu) == weights_of(tmp_path / "again")
    assert told[gpu]["after"] < told[gpu]["before"]
    if not generated:                                           # else they wrote texts of their own
        assert told[gpu]["after"] == pytest.approx(told["cpu"]["after"], rel=5e-2)
