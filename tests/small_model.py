"""A model too small to say anything, as a folder: for the tests that write folders, read them and break them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
LINEARS = {"self_attn.q_proj": (128, 128), "self_attn.k_proj": (64, 128), "self_attn.v_proj": (64, 128),
           "self_attn.o_proj": (128, 128), "mlp.gate_proj": (256, 128), "mlp.up_proj": (256, 128),
           "mlp.down_proj": (128, 256)}


def linear_names() -> dict[str, tuple[int, int]]:
    """Every linear layer of the decoder, and its shape."""
    return {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in LINEARS.items()}


def small_tensors(dtype: torch.dtype = torch.bfloat16, seed: int = 0, width: int = 128) -> dict[str, torch.Tensor]:
    """A whole checkpoint of CONFIG, or of one whose hidden size, a head's size with it, is another."""
    random = torch.Generator().manual_seed(seed)
    tensors = {"model.embed_tokens.weight": torch.randn(64, width, generator=random),
               "lm_head.weight": torch.randn(64, width, generator=random), "model.norm.weight": torch.ones(width)}
    for name, (rows, columns) in linear_names().items():
        # All sizes but the MLP's are the hidden size or half of it.
        shape = [size if size == 256 else size * width // 128 for size in (rows, columns)]
        tensors[f"{name}.weight"] = torch.randn(shape, generator=random) * 0.05
    for i in range(2):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{name}.weight"] = torch.ones(width)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def save_model(folder: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    """The folder of `tensors` and CONFIG with `changes`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
