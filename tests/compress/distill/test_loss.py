"""The divergence and both gradients, against torch in float64, however many rows are taken at once."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from nearfield.compress.distill import loss
from nearfield.compress.distill.loss import Side, distance_gradient, divergence, divergence_and_gradient


def sides(rows: int = 7, hidden: int = 5, vocabulary: int = 11) -> tuple[Side, Side]:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    wide = hidden + 1
    return Side(draw(rows, hidden), draw(vocabulary, hidden)), Side(draw(rows, wide), draw(vocabulary, wide))


@pytest.mark.parametrize("logits", [1, 11 * 3, 1 << 20])
def test_it_is_the_forward_divergence_of_all_of_the_vocabulary(logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "_LOGITS", logits)
    teacher, student = sides()
    hidden, head = (tensor.double().requires_grad_() for tensor in (student.hidden, student.head))
    p = (teacher.hidden.double() @ teacher.head.double().T).log_softmax(-1)
    expected = kl_div((hidden @ head.T).log_softmax(-1), p, log_target=True, reduction="batchmean")
    torch.autograd.backward(expected)
    found, gradient = divergence_and_gradient(teacher, student)
    assert found == pytest.approx(expected.item(), rel=1e-5)
    assert divergence(teacher, student) == pytest.approx(expected.item(), rel=1e-5)
    assert hidden.grad is not None and head.grad is not None
    torch.testing.assert_close(gradient.hidden.double(), hidden.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient.head.double(), head.grad, rtol=1e-4, atol=1e-6)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    teacher, _ = sides()
    found, gradient = divergence_and_gradient(teacher, teacher)
    assert found == 0 and not gradient.hidden.any() and not gradient.head.any()


def test_the_distance_is_a_share_of_the_teachers_size() -> None:
    teacher, student = sides()[0].hidden.bfloat16(), sides()[1].hidden[:, 1:].bfloat16()
    hidden = student.double().requires_grad_()
    expected = (hidden - teacher.double()).square().sum() / teacher.double().square().sum()
    torch.autograd.backward(expected)
    assert hidden.grad is not None
    torch.testing.assert_close(distance_gradient(teacher, student).double(), hidden.grad, rtol=1e-5, atol=1e-8)
