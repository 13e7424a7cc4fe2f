"""The model under training: fp32 master weights by their Hugging Face names, run through Nearfield's own code.

The decoder that serves is also the one that trains: each forward assembles it anew from the masters cast
to bf16, so that gradients flow through the casts into the masters. What is trained is what is served.
"""

from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from nearfield.kernels import select
from nearfield.layers.attention import dense_inputs
from nearfield.models.decoder import Decoder, build_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec
from nearfield.models.weights import CastWeights, DenseWeights

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 256,
    "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 2048, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
}
GENERATION: dict[str, Any] = {
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": True, "temperature": 0.3, "top_p": 0.9,
}
Weights = dict[str, Tensor]


class _Drawn:
    """A WeightSource that draws starting weights and keeps them by name."""

    def __init__(self, seed: int, layers: int) -> None:
        self.kept: Weights = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._into_residual = 0.02 / (2 * layers) ** 0.5

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            self.kept[name] = torch.ones(shape)
        else:
            spread = self._into_residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            self.kept[name] = torch.randn(shape, generator=self._generator) * spread
        return self.kept[name]

    def place(self, name: str) -> str:
        return name


def write_config(folder: Path) -> None:
    for name, data in (("config.json", CONFIG), ("generation_config.json", GENERATION)):
        (folder / name).write_text(dumps(data, indent=2) + "\n")


def pocket_spec() -> ModelSpec:
    return read_spec(Config(CONFIG, Path("config.json")))


def starting_weights(spec: ModelSpec, seed: int) -> Weights:
    """Normal numbers of deviation 0.02, less for what is added to the residual stream (GPT-2's start)."""
    source = _Drawn(seed, spec.num_layers)
    ops = select.plain("fp32")
    build_decoder(spec, DenseWeights(source, ops), ops, 1)
    return source.kept


def decoder(spec: ModelSpec, weights: Mapping[str, Tensor], positions: int) -> Decoder:
    ops = select.plain("bf16")
    return build_decoder(spec, DenseWeights(CastWeights(weights, torch.bfloat16), ops), ops, positions)


def forward(spec: ModelSpec, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """Logits [B, L, V] in bf16 of rows of ids [B, L], each row a sequence from position 0."""
    count, length = ids.shape
    model = decoder(spec, weights, length)
    return model.head(model.hidden(dense_inputs(ids))).view(count, length, -1)


def save_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write model.safetensors in bf16; the head is the embedding and is not stored twice."""
    stored = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    (folder / "model.safetensors").write_bytes(save(stored, metadata={"format": "pt"}))


def load_weights(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")
