"""A site's matrices by one of the methods, or by the one whose output differs least."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from nearfield.compress.gram import output_error
from nearfield.compress.quantize.awq import Awq
from nearfield.compress.quantize.gptq import gptq
from nearfield.formats.base import WeightFormat
from nearfield.kernels.ops import PackedWeight
from nearfield.kernels.reference import round_to_nearest

Method = Literal["rtn", "gptq", "awq", "auto"]
METHODS: tuple[Method, ...] = ("rtn", "gptq", "awq", "auto")


@dataclass(frozen=True)
class Made:
    """Codes, the norm to put in front of them where it is another, and what came of it.

    error: the mean squared error of the output, as a share of the output's mean square.
    """

    packed: PackedWeight
    norm: Tensor | None
    method: Method
    error: float


def quantise(method: Method, packer: WeightFormat, dense: Tensor, norm: Tensor | None, gram: Tensor) -> Made:
    """Codes for a matrix [N, K] fp32 behind `norm` [K], if there is one, whose inputs have the Gram matrix [K, K]."""
    if method == "auto":
        tried = (_one(each, packer, dense, norm, gram) for each in METHODS if each != "auto")
        return min(tried, key=lambda made: made.error)
    return _one(method, packer, dense, norm, gram)


def _one(method: Method, packer: WeightFormat, dense: Tensor, norm: Tensor | None, gram: Tensor) -> Made:
    if method == "awq":
        rounding = Awq(norm, gram)
        packed = packer.pack(dense, rounding)
        return Made(packed, rounding.norm, method, output_error(packer.unpack(packed) / rounding.factors, dense, gram))
    packed = packer.pack(dense, round_to_nearest if method == "rtn" else partial(gptq, gram=gram))
    return Made(packed, norm, method, output_error(packer.unpack(packed), dense, gram))
