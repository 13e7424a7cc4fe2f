"""The layout of packed weights, which files of earlier runs are in."""

import hashlib

import pytest
import torch

from nearfield.kernels.cpu import _native
from nearfield.kernels.cpu.kernels import CpuKernels

DIGESTS = {
    "fp32": "8e1d7a826f0c595107ea2ae099f4a674e072a11f32ed39c23404547fead6967f",
    "bf16": "f72f966c01e33bb7e932f0fa2221505d6db3ce00286f2b011548ff9d0d9c7071",
    "rows": "808696023c7fa29d1b4638e5e788d5ec2728e08d8d7bdb0d9e60759c3303ba65",
    "groups of 8 bits": "642d894523d6246ba33196fc25aa726e77f97fba83b6345bb03cf58b09b2fddb",
    "groups of 4 bits": "019cb51eb5625c1cdbb7e2b74e96d527ca7363a57cfe2bc11695767ece14cdc1",
    "zero points": "d32b4f1b90cfab23ec4cc735999724bdfad3db9ad823366f5f1eec49ea31dae4",
}
"""Of the bytes that layout 1 gives the weights below."""


def packed(kernels: CpuKernels, kind: str) -> "_native.PackedWeights":
    """Weights [37, 192] of plain patterns: three blocks, the last one not full, and an odd number of groups."""
    n, k, group = 37, 192, 64
    if kind in ("fp32", "bf16"):
        floats = torch.arange(n * (k + 1)).sub(3000).div(64).view(n, k + 1)   # an odd number of columns
        return kernels.pack_dense(floats if kind == "fp32" else floats.bfloat16())
    codes = torch.arange(n * k).mul(37).remainder(255).sub(127).to(torch.int8).view(n, k)
    nibbles = torch.arange(n * k // 2).mul(29).remainder(256).to(torch.uint8).view(n, k // 2)
    scales = torch.arange(1, n * k // group + 1).div(64).view(n, k // group)
    zeros = torch.arange(n * k // group).remainder(16).to(torch.uint8).view(n, k // group)
    if kind == "rows":
        return kernels.pack_int8(codes, scales[:, 0].contiguous())
    if kind == "groups of 8 bits":
        return kernels.pack_int8_groups(codes, scales.half(), group)
    return kernels.pack_int4(nibbles, scales.bfloat16(), group, zeros if kind == "zero points" else None)


@pytest.mark.parametrize("kind", DIGESTS)
def test_another_layout_has_another_number(kernels: CpuKernels, kind: str) -> None:
    """If this fails, files that were written before would be read wrongly: raise kLayout in csrc/job.hpp, and
    put the new digests here."""
    assert _native.LAYOUT == 1
    assert hashlib.sha256(memoryview(packed(kernels, kind))).hexdigest() == DIGESTS[kind]


@pytest.mark.parametrize("kind", DIGESTS)
def test_filled_from_their_bytes_they_are_the_same_weights(kernels: CpuKernels, kind: str) -> None:
    weights = packed(kernels, kind)
    copy = kernels.blank(weights.layout)
    assert copy.layout == weights.layout and not any(memoryview(copy))
    memoryview(copy)[:] = memoryview(weights)
    x = torch.randn(3, weights.k, generator=torch.Generator().manual_seed(1))
    assert torch.equal(kernels.linear(x, copy), kernels.linear(x, weights))


def test_the_bytes_outlive_the_weights(kernels: CpuKernels) -> None:
    data = memoryview(packed(kernels, "rows"))
    assert hashlib.sha256(data).hexdigest() == DIGESTS["rows"]


@pytest.mark.parametrize(("layout", "message"), [
    ([], "does not describe"),
    ([37, 192, 64, 4, 1], "does not describe"),
    ([37, 192, 64, 4, 3, 0], "does not describe"),
    ([37, 192, 64, 5, 1, 0], "does not describe"),
    ([1 << 40, 192, 64, 4, 1, 0], "does not describe"),
    ([-1, 192, 64, 4, 1, 0], "does not describe"),
    ([0, 192, 64, 4, 1, 0], "are empty"),
    ([37, 200, 64, 4, 1, 0], "multiple of 64"),
    ([37, 1 << 20, 64, 4, 1, 0], "more columns"),
    ([37, 192, 48, 4, 1, 0], "group 48"),
    ([37, 192, 64, 8, 1, 1], "zero points with 4 bits only"),
    ([37, 192, 64, 16, 1, 0], "4 or 8 bits"),
    ([37, 192, 64, 8, 0, 0], "have scales for groups"),
    ([37, 192, 192, 4, 0, 0], "have scales for groups"),
    ([37, 192, 192, 32, 0, 1], "have scales for groups"),
])
def test_what_describes_no_weights_is_refused(kernels: CpuKernels, layout: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.blank(layout)
