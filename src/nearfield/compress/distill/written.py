"""Text that a teacher writes itself: what it would say, token by token at temperature 1 (Liu et al. 2023, LLM-QAT).

No text of the model's training is needed, and none is closer to what the student has to learn. A chunk does not stop
where the teacher ends a text: a model that was trained on texts end to end goes on with the next one.
"""

import torch
from torch import Tensor

from nearfield.cache.store import DenseKV
from nearfield.compress.distill.network import DTYPE, Network
from nearfield.kernels.ops import AttnPlan, AttnRow, KVShape, SampleRow
from nearfield.layers.attention import StepInputs

_PAGE = 64


@torch.inference_mode()
def write_chunks(teacher: Network, opening: int, chunks: range, length: int, seed: int) -> Tensor:
    """The chunks of these numbers, [len(chunks), length] int64, each opened with the token `opening`;
    on the teacher's device.

    A token's random number is of the seed, the chunk's number and the position alone.
    """
    model, spec = teacher.decoder(length), teacher.spec
    shape = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, _PAGE)
    pages = -(-length // _PAGE)
    with teacher.device:                # what is made on the way, attention's tables among it, is made there
        kv = DenseKV(model.ops, shape, len(chunks) * pages * shape.page_bytes(DTYPE), DTYPE)
        ids = torch.full((len(chunks), length), opening)
        for at in range(length - 1):
            seen = at // _PAGE + 1
            plan = AttnPlan(tuple(AttnRow(row, 1, at, tuple(range(row * pages, row * pages + seen)))
                                  for row in range(len(chunks))), _PAGE)
            step = StepInputs(ids[:, at], torch.full((len(chunks),), at), plan, kv)
            ids[:, at + 1] = torch.tensor(model.ops.sample(model.logits(model.hidden(step)), [
                SampleRow(1.0, 0, 1.0, 0.0, seed, at, chunk) for chunk in chunks]))
    return ids
