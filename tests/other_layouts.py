"""Layers of AWQ and GPTQ folders, packed by plain loops from the published layouts, and their floats."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Integers = npt.NDArray[np.int64]
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Layer(NamedTuple):
    """codes [N, K] and zeros [N, G], without a sign; scales [N, G] fp16; the group of each column [K]."""

    codes: Integers
    zeros: Integers
    scales: npt.NDArray[np.float16]
    owner: Integers
    bits: int

    def floats(self) -> npt.NDArray[np.float32]:
        """(code - zero) * scale, exact in fp32: an integer of nine bits times one of eleven."""
        made = (self.codes - self.zeros[:, self.owner]) * self.scales.astype(np.float64)[:, self.owner]
        return made.astype(np.float32)


def random_layer(rows: int, columns: int, group: int, bits: int, *, symmetric: bool = False,
                 moved: bool = False, seed: int = 0) -> Layer:
    """Any codes; zero points in the middle or anywhere; `moved`: columns of a group lie anywhere."""
    random = np.random.default_rng(seed + rows + group)
    top, shape = 1 << bits, (rows, columns // group)
    zeros = np.full(shape, top // 2) if symmetric else random.integers(0, top, shape)
    owner = np.arange(columns) // group
    scales = ((random.random(shape) * 0.16 + 0.016) / top).astype(np.float16)       # weights of either width are alike
    return Layer(random.integers(0, top, (rows, columns)), zeros, scales,
                 random.permutation(owner) if moved else owner, bits)


def awq_layer(layer: Layer) -> dict[str, torch.Tensor]:
    """AutoAWQ's GEMM layout."""
    return {"qweight": _along_rows(layer.codes.T, 4, _AWQ_ORDER), "qzeros": _along_rows(layer.zeros.T, 4, _AWQ_ORDER),
            "scales": torch.from_numpy(layer.scales.T.copy())}


def gptq_layer(layer: Layer, version: str) -> dict[str, torch.Tensor]:
    """AutoGPTQ's layout; in the first version each word of zero points is one less in every place."""
    per_word = 32 // layer.bits
    words = _along_rows(layer.zeros.T, layer.bits, range(per_word))
    if version == "gptq":
        ones = sum(1 << (layer.bits * i) for i in range(per_word))
        words = torch.tensor([[_signed(int(word) - ones) for word in row] for row in words], dtype=torch.int32)
    return {"qweight": _along_rows(layer.codes, layer.bits, range(per_word)).T.contiguous(), "qzeros": words,
            "scales": torch.from_numpy(layer.scales.T.copy()), "g_idx": torch.from_numpy(layer.owner).int()}


def _along_rows(values: Integers, bits: int, order: "range | tuple[int, ...]") -> torch.Tensor:
    """Each row [n] to words [n bits / 32]; the i-th place of a word holds number order[i] of its numbers."""
    per_word = 32 // bits
    words = [[_signed(sum(int(row[at + order[i]]) << (bits * i) for i in range(per_word)))
              for at in range(0, len(row), per_word)] for row in values]
    return torch.tensor(words, dtype=torch.int32)


def _signed(word: int) -> int:
    """Modulo 2^32, as int32 has it."""
    return (word + (1 << 31)) % (1 << 32) - (1 << 31)
