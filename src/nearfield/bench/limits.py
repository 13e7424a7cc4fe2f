"""What the machine could do: the model's matrix products alone, by plain torch, in the same run.

A share of this limit travels between machines, and over the hours of a shared one, better than a
bare number of tokens a second. The limit leaves out attention, norms, sampling and all of Python, so
1.0 is not reached; it uses the model's own weights in their own places, so that both sides pull the
same bytes from memory.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class MatmulLimit:
    """Every matrix [out, in] that a token is multiplied by; `head` makes the logits."""

    inner: Sequence[Tensor]
    head: Tensor

    def seconds(self, rows: int, head_rows: int) -> float:
        """Time one pass of `rows` tokens, of which `head_rows` get logits.

        Decoding a batch of B is seconds(B, B); a prompt of N tokens is seconds(N, 1).
        """
        widths = {weight.shape[1] for weight in self.inner}
        inputs = {width: self._input(rows, width) for width in widths}
        last = self._input(head_rows, self.head.shape[1])
        start = time.perf_counter()
        with torch.inference_mode():
            for weight in self.inner:
                functional.linear(inputs[weight.shape[1]], weight)
            functional.linear(last, self.head)
        return time.perf_counter() - start

    def _input(self, rows: int, width: int) -> Tensor:
        return torch.full((rows, width), 0.5, dtype=self.head.dtype)
