"""What all layers learn together: distributions, and the hidden states that these are made of."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import kl_div

from nearfield.compress.distill import tasks
from nearfield.compress.distill.chunks import Chunks
from nearfield.compress.distill.folder import distill_folder
from nearfield.compress.distill.network import Network
from nearfield.compress.distill.plan import DistillOptions
from nearfield.compress.distill.tasks import WholeTask
from nearfield.compress.kept import Kept
from nearfield.compress.parent import read_parent
from nearfield.compress.report import REPORT, read_report
from nearfield.compress.stream import CPU
from nearfield.models.inventory import EMBED
from tests.small_pair import SmallPair, save, save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SmallPair:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("share", [0.0, 3.0])
def test_the_gradient_is_of_divergence_and_distance_together(
        share: float, pair: SmallPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "OF_HIDDEN", share)
    teacher = Network.load(read_parent(pair.teacher), torch.bfloat16)
    student = Network.load(read_parent(pair.student), torch.float32)
    ids, head = torch.randint(3, 2048, (2, 64), generator=torch.Generator().manual_seed(5)), teacher.weights[EMBED]
    said = Chunks(Kept(tmp_path / "kept"), "said", 2, CPU)
    with torch.no_grad():
        hidden = teacher.side(ids).hidden
    said.put(0, {"ids": ids, "hidden": hidden.view(2, 64, -1)})
    for weight in student.weights.values():
        weight.requires_grad_()
    found = WholeTask(student, head, said, []).learn([0, 1])
    gradients = [weight.grad.clone() for weight in student.weights.values() if weight.grad is not None]
    assert len(gradients) == len(student.weights)

    side = student.side(ids)
    p, q = ((states.float() @ table.float().T).log_softmax(-1)
            for states, table in ((hidden, head), (side.hidden, side.head)))
    distance = (side.hidden.float() - hidden.float()).square().sum() / hidden.float().square().sum()
    divergence = kl_div(q, p, log_target=True, reduction="batchmean")
    wanted = torch.autograd.grad(divergence + share * distance, list(student.weights.values()))
    assert found == pytest.approx(divergence.item(), rel=1e-2)
    for gradient, each in zip(gradients, wanted, strict=True):
        assert float((gradient - each).norm() / each.norm()) < 0.05, "bf16"


def test_a_narrower_student_learns_from_distributions(pair: SmallPair, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(1)
    shapes = {"self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16), "self_attn.v_proj": (8, 16),
              "self_attn.o_proj": (16, 16), "mlp.gate_proj": (32, 16), "mlp.up_proj": (32, 16),
              "mlp.down_proj": (16, 32)}
    tensors = {f"model.layers.0.{name}.weight": torch.randn(shape, generator=random) * 0.3
               for name, shape in shapes.items()}
    tensors |= {f"model.{name}.weight": torch.ones(16)
                for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm")}
    tensors["model.embed_tokens.weight"] = torch.randn(2048, 16, generator=random) * 0.5
    narrow = save(tmp_path / "narrow", tensors, hidden_size=16, intermediate_size=32, num_hidden_layers=1)
    out = tmp_path / "out"
    distill_folder(narrow, pair.teacher, out, DistillOptions(tokens=4096, learning_rate=3e-3), [pair.text])
    told = read_report(out / REPORT)["distill"]["held_out_kl"]
    assert told["after"] < told["before"]
