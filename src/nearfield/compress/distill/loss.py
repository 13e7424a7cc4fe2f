"""How far a student is from its teacher, and the gradient of that: their next-token distributions, and the final hidden
states that these are made of.

Distributions: forward KL at temperature 1 over the whole vocabulary, with no term for the text's own tokens: the
teacher's probabilities say all of it (Hinton et al. 2015; Minitron, Muralidharan et al. 2024, found the cross-entropy
term to do harm). The logits of a batch are larger than all else in training, so they exist for some rows only, and the
gradient is written out: d KL / d logits = student's probabilities - teacher's.

Hidden states: the squared error. Where the teacher is certain, its distribution says nothing of what it knows, and its
hidden state does (Jiao et al. 2020; Minitron found the same for students that lost layers).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_LOGITS = 1 << 22
"""Logits of one model that exist at once."""


@dataclass(frozen=True)
class Side:
    """What makes a model's logits: final hidden states [T, D] and the head [V, D], of one dtype."""

    hidden: Tensor
    head: Tensor


def divergence(teacher: Side, student: Side) -> float:
    """The mean KL(teacher || student) of the rows, in nats."""
    total = 0.0
    for rows in _parts(student):
        p, q = _log_probabilities(teacher, rows), _log_probabilities(student, rows)
        total += float((p.exp() * (p - q)).sum())
    return total / len(student.hidden)


def divergence_and_gradient(teacher: Side, student: Side) -> tuple[float, Side]:
    """`divergence`, and its gradient by the student's hidden states and head, in their dtypes. Differentiates nothing
    itself: inputs that carry a graph are to be detached."""
    by_hidden = torch.empty_like(student.hidden)
    by_head = torch.zeros_like(student.head, dtype=torch.float32)
    total, count = 0.0, len(student.hidden)
    for rows in _parts(student):
        p, q = _log_probabilities(teacher, rows), _log_probabilities(student, rows)
        likely = p.exp()
        total += float((likely * (p - q)).sum())
        by_logits = q.exp_().sub_(likely).div_(count).to(student.head.dtype)
        by_hidden[rows] = by_logits @ student.head
        by_head += by_logits.T @ student.hidden[rows]
    return total / count, Side(by_hidden, by_head.to(student.head.dtype))


def distance_gradient(teacher: Tensor, student: Tensor) -> Tensor:
    """The gradient, by the student's hidden states [T, D] and in fp32, of their squared error as a share of the
    teacher's squares."""
    wanted = teacher.float()
    return (student.float() - wanted).mul_(2 / wanted.square().sum())


def _log_probabilities(side: Side, rows: slice) -> Tensor:
    """[R, V] fp32."""
    return (side.hidden[rows] @ side.head.T).float().log_softmax(-1)


def _parts(side: Side) -> list[slice]:
    step = max(1, _LOGITS // len(side.head))
    return [slice(first, first + step) for first in range(0, len(side.hidden), step)]
