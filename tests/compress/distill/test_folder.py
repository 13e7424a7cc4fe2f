"""Distilling a folder: what is learned, what is written, the same bits again, and after kill -9."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from nearfield.bench.divergence import compare
from nearfield.compress.distill.folder import distill_folder
from nearfield.compress.distill.lesson import Standing
from nearfield.compress.distill.plan import DistillOptions
from nearfield.compress.folder import quantize_folder
from nearfield.compress.plan import Target
from nearfield.core.errors import ConfigError, ModelError
from nearfield.kernels import select
from nearfield.layers.attention import dense_inputs
from nearfield.models.loader import load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from tests.compress.killed import distilling
from tests.forked import exit_code
from tests.small_pair import SmallPair, save, save_pair

STEP = 64
"""Tokens of a step: a chunk."""

SHORT = DistillOptions(tokens=32 * STEP, learning_rate=3e-3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SmallPair:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def made(pair: SmallPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What came of SHORT."""
    out = tmp_path_factory.mktemp("made") / "out"
    distill_folder(pair.student, pair.teacher, out, SHORT, [pair.text])
    return out


@pytest.fixture(scope="module")
def made_by_layers(pair: SmallPair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What came of SHORT with each layer by itself first, and the stages in their order."""
    out, stages = tmp_path_factory.mktemp("by_layers") / "out", []
    distill_folder(pair.student, pair.teacher, out, replace(SHORT, block_local=True), [pair.text],
                   progress=lambda standing: stages.append(standing.stage))
    return out, list(dict.fromkeys(stages))


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@torch.inference_mode()
def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    spec = read_spec(Config.load(folder / "config.json"))
    model = load_decoder(folder, spec, select.plain("fp32"), "fp32", ids.shape[1])
    return model.logits(model.hidden(dense_inputs(ids)))


def test_the_student_is_nearer_to_its_teacher_on_other_text(pair: SmallPair, made: Path) -> None:
    ids = torch.randint(3, 2048, (8, 64), generator=torch.Generator().manual_seed(5))
    base, targets = logits(pair.teacher, ids), ids.flatten()
    before, after = (float(compare(base, logits(folder, ids), targets)[0].mean()) for folder in (pair.student, made))
    assert after < before


def test_the_folder_is_the_students_with_other_weights(pair: SmallPair, made: Path) -> None:
    kept = ("config.json", "tokenizer.json", "tokenizer_config.json")
    assert sorted(path.name for path in made.iterdir()) == sorted([*kept, "model.safetensors", "report.json"])
    assert all(json.loads((made / name).read_text()) == json.loads((pair.student / name).read_text()) for name in kept)
    old, new = load_file(pair.student / "model.safetensors"), load_file(made / "model.safetensors")
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        assert (new[name].shape, new[name].dtype) == (tensor.shape, tensor.dtype)
    assert any(not torch.equal(new[name], tensor) for name, tensor in old.items())


@torch.inference_mode()
def test_transformers_reads_the_folder_as_we_do(made: Path) -> None:
    ids = torch.randint(3, 2048, (2, 16), generator=torch.Generator().manual_seed(6))
    model = transformers.AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    expected = model(ids).logits.flatten(0, 1)
    torch.testing.assert_close(logits(made, ids), expected, rtol=1e-4, atol=1e-4)


def test_the_report_tells_what_was_done_and_keeps_what_was_done_before(pair: SmallPair, made: Path) -> None:
    told = report(made)
    assert told["prune"] == report(pair.student)["prune"]
    held, text = told["distill"]["held_out_kl"], told["distill"]["text"]
    assert told["distill"]["options"] == {"tokens": 2048, "block_local": False, "learning_rate": 3e-3, "seed": 0}
    assert held["before"] == held["by_step"][0][1] and held["after"] == min(point[1] for point in held["by_step"])
    assert held["after"] < held["before"] and held["steps"] == 32
    assert text["sha256"].keys() == {"text.txt"} and text["held_out"] > 0 and text["passages"]
    assert told["distill"]["seconds"] >= held["seconds"] > 0
    assert told["distill"]["teacher"]["name"] == "teacher"
    assert told["distill"]["student"]["sha256"].keys() == {"config.json", "model.safetensors"}


def test_the_same_run_makes_the_same_bits_and_another_seed_others(pair: SmallPair, made: Path, tmp_path: Path) -> None:
    distill_folder(pair.student, pair.teacher, tmp_path / "again", SHORT, [pair.text])
    distill_folder(pair.student, pair.teacher, tmp_path / "other", replace(SHORT, seed=1), [pair.text])
    bits = [(folder / "model.safetensors").read_bytes() for folder in (made, tmp_path / "again", tmp_path / "other")]
    assert bits[0] == bits[1] != bits[2]


@pytest.mark.parametrize(("stage", "at"), [("teacher", 2048), ("all layers", 9 * STEP), ("layer 1 of 2", 9 * STEP)])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
        stage: str, at: int, pair: SmallPair, made: Path, made_by_layers: tuple[Path, list[str]],
        tmp_path: Path) -> None:
    out, by_layers = tmp_path / "out", stage.startswith("layer")
    options = replace(SHORT, block_local=by_layers)
    killed = exit_code(distilling, pair.student, pair.teacher, out, options, pair.text, stage, at,
                       torch.get_num_threads())
    assert killed == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    seen: list[Standing] = []
    distill_folder(pair.student, pair.teacher, out, options, [pair.text], progress=seen.append)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    again = [standing.done // STEP for standing in seen if standing.stage == stage and standing.loss is not None]
    assert again == ([] if stage == "teacher" else list(range(9, 33)))     # from the last checkpoint
    whole = made_by_layers[0] if by_layers else made
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_layers_learn_by_themselves_first(made_by_layers: tuple[Path, list[str]]) -> None:
    out, stages = made_by_layers
    assert stages == ["teacher", "layer 1 of 2", "all layers"]
    told = report(out)["distill"]
    assert [block["teacher_layers"] for block in told["blocks"]] == [[0, 1], [2, 2]]
    first, second = told["blocks"]
    assert first["after"] < first["before"]
    assert (second["before"], second["steps"]) == (0, 0)        # the teacher's own, which can only be spoilt
    assert told["held_out_kl"]["by_step"][0][1] < told["held_out_kl"]["before"]


def test_a_teacher_writes_its_own_text(pair: SmallPair, tmp_path: Path) -> None:
    for name in ("a", "b"):
        distill_folder(pair.student, pair.teacher, tmp_path / name, replace(SHORT, tokens=512), None)
    told = report(tmp_path / "a")["distill"]
    assert told["text"]["generated_by"] == "teacher" and "passages" not in told["text"]
    assert told["held_out_kl"]["after"] < told["held_out_kl"]["before"]
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def _changed(folder: Path, out: Path, **changes: Any) -> Path:
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **changes}))
    return out


def test_models_that_do_not_go_together_are_refused(pair: SmallPair, tmp_path: Path) -> None:
    def refused(student: Path, message: str, error: type[Exception] = ModelError, **options: Any) -> None:
        with pytest.raises(error, match=message):
            distill_folder(student, pair.teacher, tmp_path / "out", replace(SHORT, **options), [pair.text])
        assert not list(tmp_path.glob("out*"))

    tensors = {name: tensor.float() for name, tensor in load_file(pair.student / "model.safetensors").items()}
    wider = {**tensors, "model.embed_tokens.weight": torch.zeros(2112, 32)}
    refused(save(tmp_path / "wider", wider, vocab_size=2112, num_hidden_layers=2),
            "wider: has a vocabulary of 2112, .*teacher one of 2048")
    other = _changed(pair.student, tmp_path / "other")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace("Lily", "Lilo"))
    refused(other, "other: its tokenizer is another than that of .*teacher")
    quantize_folder(pair.student, tmp_path / "coded", Target("w4", 32))
    refused(tmp_path / "coded", "coded: is quantised already, as int4.* nearfield unpack")
    unknown = _changed(pair.student, tmp_path / "unknown")
    (unknown / "report.json").unlink()
    refused(unknown, "unknown: has 2 layers, .*teacher 3, and report.json does not say which", ConfigError,
            block_local=True)


def test_what_cannot_teach_is_named(pair: SmallPair, tmp_path: Path) -> None:
    def refused(message: str, text: Path = pair.text, **options: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            distill_folder(pair.student, pair.teacher, tmp_path / "out", replace(SHORT, **options), [text])
        assert not list(tmp_path.glob("out*"))

    (tmp_path / "short.txt").write_text("Too little. " * 50)
    refused(r"short\.txt: \d+ tokens, 1008 are needed at least .* give more text", tmp_path / "short.txt")
    refused(r"none\.txt: cannot be read \(No such file or directory\); give a file of text", tmp_path / "none.txt")
    refused("63 tokens are less than a step, which takes 64; give more with --tokens", tokens=63)
    refused("a learning rate of 0 teaches nothing", learning_rate=0)


def test_a_rate_that_is_too_high_is_told_and_leaves_nothing(pair: SmallPair, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    tensors = {name: tensor.float() for name, tensor in load_file(pair.student / "model.safetensors").items()}
    tensors["model.norm.weight"] = torch.full((32,), float("nan"))
    save(broken, tensors, num_hidden_layers=2)
    with pytest.raises(ModelError, match="broken: has learned nothing in 0 steps .*not finite.* lower --learning-rate, "
                                         "or more text; nothing is left of it$"):
        distill_folder(broken, pair.teacher, tmp_path / "out", SHORT, [pair.text])
    assert not list(tmp_path.glob("out*"))


def test_a_second_run_on_the_same_folder_is_refused(pair: SmallPair, made: Path, tmp_path: Path) -> None:
    """Of other options: it would throw away what the first keeps, and keeps itself in its place."""
    out = tmp_path / "out"

    def again(standing: Standing) -> None:
        with pytest.raises(ConfigError, match="out is being made by another run; wait for it, or give another folder"):
            distill_folder(pair.student, pair.teacher, out, replace(SHORT, seed=1), [pair.text])

    distill_folder(pair.student, pair.teacher, out, SHORT, [pair.text], progress=again)
    assert (out / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_told_and_the_same_command_continues(pair: SmallPair, made: Path, tmp_path: Path) -> None:
    """The kernel refuses to let a file grow past what the teacher's states take: checkpoints are larger."""
    out = tmp_path / "out"
    words = [str(pair.student), str(out), "--teacher", str(pair.teacher), "--text", str(pair.text), "--tokens", "2048",
             "--learning-rate", "3e-3"]
    code = ("import sys, torch; torch.set_num_threads(1); from nearfield.cli.main import main; "
            "sys.exit(main(['distill', *sys.argv[1:]]))")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)))
    assert done.returncode == 2 and "cannot be written" in done.stderr and "the same command continues" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    distill_folder(pair.student, pair.teacher, out, SHORT, [pair.text])
    assert (out / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


def test_too_little_room_is_told_first(pair: SmallPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 0, 1 << 16))
    with pytest.raises(ConfigError, match=r"needed and 64\.00 KiB free\); nothing is left of it; make room or"):
        distill_folder(pair.student, pair.teacher, tmp_path / "out", SHORT, [pair.text])
