"""Quantising by calibration text: what comes out, what is told, and that nothing half-made looks whole."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nearfield.compress.calibrated import quantize_calibrated
from nearfield.compress.fit import Fit
from nearfield.compress.folder import quantize_folder
from nearfield.compress.plan import Target
from nearfield.compress.quantize.choose import Method
from nearfield.core.errors import ConfigError, ModelError
from nearfield.kernels import select
from nearfield.layers.attention import dense_inputs
from nearfield.models.loader import choose_storage, load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from tests.compress.conftest import readable_tensors, save_readable
from tests.compress.killed import calibrating
from tests.forked import exit_code

W4 = Target("w4", 64)
SITES = 8


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@torch.inference_mode()
def states(folder: Path) -> torch.Tensor:
    """What a model makes of a text by the reference backend."""
    config = Config.load(folder / "config.json")
    model = load_decoder(folder, read_spec(config), select.plain("fp32"), "fp32", 64, storage=choose_storage(config))
    return model.hidden(dense_inputs(torch.arange(3, 43)[None] * 11))


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_only_codes_differ_from_rounding_and_each_is_better(readable: Path, chats: Path, tmp_path: Path) -> None:
    quantize_folder(readable, tmp_path / "rtn", W4)
    errors = {}
    for method in ("rtn", "gptq", "awq", "auto"):
        quantize_calibrated(readable, tmp_path / f"by-{method}", W4, method, [chats])
        errors[method] = [site["error"] for site in report(tmp_path / f"by-{method}")["quantize"]["sites"]]
    plain, made = (load_file(tmp_path / name / "model.safetensors") for name in ("rtn", "by-gptq"))
    assert made.keys() == plain.keys()
    for name, tensor in plain.items():
        same = torch.equal(tensor, made[name])
        assert tensor.shape == made[name].shape and same != name.endswith(("packed", "scale")), name
    # The walk with no better method than rounding ends in what rounding writes.
    assert weights(tmp_path / "by-rtn") == weights(tmp_path / "rtn")
    assert all(ours < theirs for ours, theirs in zip(errors["gptq"], errors["rtn"], strict=True))
    assert errors["auto"][0] == min(found[0] for found in errors.values())


def test_awq_divides_the_norm_that_is_stored(readable: Path, chats: Path, tmp_path: Path) -> None:
    quantize_calibrated(readable, tmp_path / "out", W4, "awq", [chats])
    made, name = load_file(tmp_path / "out" / "model.safetensors"), "model.layers.0.input_layernorm.weight"
    assert made[name].dtype == torch.bfloat16 and not torch.equal(made[name], readable_tensors()[name])
    want, found = states(readable), states(tmp_path / "out")
    assert float((want - found).square().mean() / want.square().mean()) < 0.05


def test_the_report_tells_what_decided_the_codes(readable: Path, chats: Path, tmp_path: Path) -> None:
    quantize_calibrated(readable, tmp_path / "out", W4, "gptq", [chats])
    told = report(tmp_path / "out")["quantize"]
    assert told["recipe"]["method"] == "gptq" and told["recipe"]["format"] == "w4" and told["recipe"]["group"] == 64
    assert set(told["parent"]["sha256"]) == {"config.json", "model.safetensors"}
    assert list(told["calibration"]["sha256"]) == ["chats.txt"] and told["calibration"]["tokens"] >= 512
    assert len(told["sites"]) == SITES and told["seconds"] > 0
    assert told["sites"][0]["matrices"][0] == "model.layers.0.self_attn.q_proj.weight"
    assert {site["stored"] for site in told["sites"]} == {"int4, groups of 64"}
    before, after = told["bytes"].values()
    assert after < before and abs(after - len(weights(tmp_path / "out"))) < 20_000


def fitting(folder: Path) -> int:
    """A size between those of w4 and w8."""
    return int((folder / "model.safetensors").stat().st_size * 0.85)


@pytest.mark.parametrize(("fit", "calls"), [(False, 1), (False, 7), (False, 10), (True, 7), (True, 14)])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
        fit: bool, calls: int, readable: Path, chats: Path, tmp_path: Path) -> None:
    """Killed before, within and after a layer, of the pass that measures and of the one that makes codes."""
    size = fitting(readable) if fit else 0
    target = Fit(size) if fit else W4
    quantize_calibrated(readable, tmp_path / "whole", target, "gptq", [chats])
    out = tmp_path / "out"
    killed = exit_code(calibrating, readable, out, target, chats, calls, torch.get_num_threads())
    assert killed == -signal.SIGKILL and not out.exists()
    seen: list[int] = []
    quantize_calibrated(readable, out, target, "gptq", [chats], progress=lambda done, total: seen.append(done))
    assert len(seen) < (22 if fit else 11) or calls == 1      # what was finished is not done again
    assert listing(tmp_path) == ["out", "parent", "whole"]
    assert weights(out) == weights(tmp_path / "whole")
    assert (out / "config.json").read_bytes() == (tmp_path / "whole" / "config.json").read_bytes()
    assert report(out)["quantize"]["sites"] == report(tmp_path / "whole")["quantize"]["sites"]


def test_what_another_run_left_is_not_taken(readable: Path, chats: Path, tmp_path: Path) -> None:
    quantize_calibrated(readable, tmp_path / "whole", Target("w4", 32), "gptq", [chats])

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_calibrated(readable, tmp_path / "out", W4, "gptq", [chats], progress=interrupt)
    assert listing(tmp_path) == ["out.partial", "parent", "whole"]
    before = kept(tmp_path / "out.partial")
    with pytest.raises(ConfigError, match=r"out\.partial: has what another run \(quantize with another recipe, bytes\) "
                                          "finished; repeat that command to continue it, or remove that folder"):
        quantize_calibrated(readable, tmp_path / "out", Target("w4", 32), "gptq", [chats])
    with pytest.raises(ConfigError, match=r"has what another run \(quantize\) finished"):
        quantize_folder(readable, tmp_path / "out", Target("w4", 32))       # by rounding, in a moment
    assert kept(tmp_path / "out.partial") == before
    shutil.rmtree(tmp_path / "out.partial")
    quantize_calibrated(readable, tmp_path / "out", Target("w4", 32), "gptq", [chats])
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def kept(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_on_the_same_folder_is_refused(readable: Path, chats: Path, tmp_path: Path) -> None:
    """Of another recipe: it would throw away what the first keeps."""
    quantize_calibrated(readable, tmp_path / "whole", W4, "gptq", [chats])

    def again(done: int, total: int) -> None:
        with pytest.raises(ConfigError, match="out is being made by another run; wait for it, or give another folder"):
            quantize_calibrated(readable, tmp_path / "out", Target("w8"), "gptq", [chats])

    quantize_calibrated(readable, tmp_path / "out", W4, "gptq", [chats], progress=again)
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert listing(tmp_path) == ["out", "parent", "whole"]


def test_a_disk_that_is_full_keeps_what_is_finished(readable: Path, chats: Path, tmp_path: Path) -> None:
    """The kernel refuses to let a file grow past 300 kB: layers fit, the hidden states do not."""
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    command = [sys.executable, "-c", "import sys; from nearfield.cli.main import main; sys.exit(main(sys.argv[1:]))",
               "quantize", str(readable), str(tmp_path / "out"), "--format", "w4", "--calibration", str(chats)]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 2 and "(File too large); the same command continues" in done.stderr, done.stderr
    assert listing(tmp_path) == ["out.partial", "parent"]
    assert subprocess.run(command).returncode == 0
    assert listing(tmp_path) == ["out", "parent"]


@pytest.mark.parametrize(("name", "factor", "message"), [
    ("model.layers.1.mlp.up_proj.weight", float("nan"),
     r"tensor model\.layers\.1\.mlp\.up_proj\.weight holds a number that is not finite"),
    ("model.layers.0.input_layernorm.weight", 1e38, r"its input, computed from the calibration text, is not finite"),
    ("model.embed_tokens.weight", float("nan"), r"layers\.0\.self_attn\.q_proj: its input, .* is not finite")])
def test_numbers_that_are_not_finite_name_the_place(
        name: str, factor: float, message: str, chats: Path, tmp_path: Path) -> None:
    tensors = readable_tensors()
    tensors[name] = tensors[name] * factor
    save_readable(tmp_path / "parent", tensors)
    with pytest.raises(ModelError, match=message):
        quantize_calibrated(tmp_path / "parent", tmp_path / "out", W4, "gptq", [chats])
    assert listing(tmp_path) == (["out.partial", "parent"] if "layers.1" in name else ["parent"])   # layer 0 is there


@pytest.mark.parametrize(("method", "value"), [("gptq", 7.1 * 65504), ("awq", -7.1 * 65504)])
def test_a_weight_past_the_largest_scale_is_refused_in_int4_alone(
        method: Method, value: float, chats: Path, tmp_path: Path) -> None:
    tensors = readable_tensors()
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = value
    parent = save_readable(tmp_path / "parent", tensors)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight holds .* 4\.65e\+05; int4.* --format w8"):
        quantize_calibrated(parent, tmp_path / "out", W4, method, [chats])
    assert listing(tmp_path) == ["parent"]
    quantize_calibrated(parent, tmp_path / "w8", Target("w8"), method, [chats])


def test_too_little_room_is_told_before_anything_is_computed(
        readable: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where something is finished, that the same command continues with it."""
    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done == 5:
            raise KeyboardInterrupt

    seen: list[int] = []
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 0, 1 << 16))
        with pytest.raises(ConfigError, match=r"64\.00 KiB free\); nothing is left of it; make room or give another"):
            quantize_calibrated(readable, tmp_path / "out", W4, "gptq", [chats], progress=stop)
        assert not seen and listing(tmp_path) == ["parent"]
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        quantize_calibrated(readable, tmp_path / "out", W4, "gptq", [chats], progress=stop)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 0, 1 << 16))
    with pytest.raises(ConfigError, match=r"64\.00 KiB free\); make room, and the same command continues"):
        quantize_calibrated(readable, tmp_path / "out", W4, "gptq", [chats], progress=stop)


def test_text_that_repeats_itself_is_enough_and_text_that_is_too_short_is_not(
        readable: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the same again " * 600, "utf-8")
    quantize_calibrated(readable, tmp_path / "out", W4, "gptq", [text])
    assert all(0 <= site["error"] < 0.1 for site in report(tmp_path / "out")["quantize"]["sites"])
    text.write_text("too little", "utf-8")
    with pytest.raises(ConfigError, match=r"text\.txt: \d+ tokens, \d+ are needed at least .*; give more text"):
        quantize_calibrated(readable, tmp_path / "other", W4, "gptq", [text])
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"text\.txt: is not UTF-8 text \(at byte 0\)"):
        quantize_calibrated(readable, tmp_path / "other", W4, "gptq", [text])
    assert listing(tmp_path) == ["out", "parent", "text.txt"]


def test_a_device_that_is_not_there_is_told_before_anything_is_read(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cuda: torch finds no CUDA device here; leave the option out"):
        quantize_calibrated(tmp_path / "parent", tmp_path / "out", W4, "gptq", [tmp_path / "none.txt"], device="cuda")


def test_a_gpu_makes_codes_as_good(readable: Path, chats: Path, tmp_path: Path) -> None:
    """A GPU's own numbers can only come from one; test_device.py tries the same code without."""
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    for device in ("cpu", "cuda"):
        quantize_calibrated(readable, tmp_path / device, W4, "auto", [chats], device=device)
    errors = [[site["error"] for site in report(tmp_path / name)["quantize"]["sites"]] for name in ("cpu", "cuda")]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)
