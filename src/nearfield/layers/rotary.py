"""Rotary position embedding: the angles of every position, computed once.

Scalings: none, "linear" (Chen et al. 2023: positions divided by a factor), and "ramp" (Grattafiori
et al. 2024: low frequencies divided by a factor, high ones kept, a smooth ramp between).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class RopeSpec:
    """How a model rotates: base `theta`, and its scaling with the numbers that scaling needs."""

    theta: float = 10000.0
    scaling: Literal["none", "linear", "ramp"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192


def frequencies(spec: RopeSpec, head_dim: int) -> Tensor:
    """Angle per position of each pair: [head_dim / 2] float64."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    freq = spec.theta ** -exponent
    if spec.scaling == "linear":
        return freq / spec.factor
    if spec.scaling == "ramp":
        return _ramp(freq, spec)
    return freq


def _ramp(freq: Tensor, spec: RopeSpec) -> Tensor:
    turns = spec.original_positions * freq / (2 * math.pi)   # of each pair over the original context
    keep = (turns - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor)
    keep = keep.clamp(0, 1)
    return keep * freq + (1 - keep) * freq / spec.factor


class Rotary:
    """`angles`: cos and sin of positions 0 .. positions-1, fp32 [positions, head_dim / 2] each, made on the CPU and
    kept on `device`."""

    def __init__(self, spec: RopeSpec, head_dim: int, positions: int, device: torch.device | None = None) -> None:
        angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies(spec, head_dim))
        self.angles = angles.cos().float().to(device), angles.sin().float().to(device)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [T, head_dim / 2] of positions [T] int64, on the same device."""
        cos, sin = self.angles
        return cos[positions], sin[positions]
