"""What a model is made of, found by building it of tensors that have a shape and no bytes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nearfield.kernels import select
from nearfield.kernels.ops import PackedWeight
from nearfield.models.decoder import build_decoder
from nearfield.models.spec import ModelSpec

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Inventory:
    """ModelWeights that notes what it is asked for, by Hugging Face names: `vectors` (norms and biases), `linears`
    (the layers' matrices [out, in], as they go together) and `tables` (the embeddings and an untied head)."""

    def __init__(self) -> None:
        self.vectors: dict[str, int] = {}
        self.linears: list[dict[str, tuple[int, int]]] = []
        self.tables: dict[str, tuple[int, int]] = {}

    @property
    def numbers(self) -> int:
        """Numbers that the model learns; a tied head counts once."""
        matrices = [*self.tables.values(), *(shape for parts in self.linears for shape in parts.values())]
        return sum(self.vectors.values()) + sum(rows * columns for rows, columns in matrices)

    def vector(self, name: str, size: int) -> Tensor:
        self.vectors[name] = size
        return torch.empty(size, device="meta")

    def matrix(self, parts: Mapping[str, int], columns: int, *, table: bool = False) -> PackedWeight:
        shapes = {name: (rows, columns) for name, rows in parts.items()}
        if table:
            self.tables |= shapes
        else:
            self.linears.append(shapes)
        rows = sum(parts.values())
        return PackedWeight("dense", (rows, columns), {"weight": torch.empty(rows, columns, device="meta")})


def take_inventory(spec: ModelSpec) -> Inventory:
    """The inventory of a model of this shape."""
    found = Inventory()
    build_decoder(spec, found, select.plain("fp32"), positions=1)
    return found
