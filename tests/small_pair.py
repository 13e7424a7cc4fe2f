"""A teacher of random weights, a student that lacks one of its layers, and text: for the tests of distilling."""

import json
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file

from nearfield.models.loader import pocket_folder
from pocket.mix import documents
from pocket.template import ChatFormat

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 1}
KEPT = (0, 2)
"""The teacher's layers that the student has."""

_LAYER = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
          "self_attn.o_proj": (32, 32), "mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64)}


@dataclass(frozen=True)
class SmallPair:
    """Folders, and a file of some 4,000 tokens."""

    teacher: Path
    student: Path
    text: Path


def save_pair(folder: Path) -> SmallPair:
    """Write all three below `folder`."""
    random = torch.Generator().manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(2048, 32, generator=random) * 0.5,
               "model.norm.weight": torch.ones(32)}
    for i in range(CONFIG["num_hidden_layers"]):
        tensors |= {f"model.layers.{i}.{name}.weight": torch.randn(shape, generator=random) * 0.3
                    for name, shape in _LAYER.items()}
        tensors |= {f"model.layers.{i}.{name}.weight": torch.ones(32)
                    for name in ("input_layernorm", "post_attention_layernorm")}
    teacher = save(folder / "teacher", tensors)
    less = {name: tensor for name, tensor in tensors.items() if ".layers." not in name}
    for new, old in enumerate(KEPT):
        less |= {name.replace(f"layers.{old}.", f"layers.{new}."): tensor for name, tensor in tensors.items()
                 if f"layers.{old}." in name}
    student = save(folder / "student", less, num_hidden_layers=len(KEPT))
    (student / "report.json").write_text(json.dumps({"prune": {"layers": {"dropped": [1]}}}))
    text = folder / "text.txt"
    text.write_text("".join(islice(documents(Random("small"), ChatFormat()), 36)))
    return SmallPair(teacher, student, text)


def save(folder: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    """The folder of `tensors` and CONFIG with `changes`, with the pocket model's tokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(pocket_folder() / name, folder / name)
    return folder
