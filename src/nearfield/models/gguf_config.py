"""What a GGUF file says of its model, as the config.json that the model's family reads.

Keys and tensors have names of ggml's own (gguf-py, constants.py); what a family does differently in a GGUF file is in
FAMILIES. Of a rope scaling by frequency ("llama3") the file has the divisors of the frequencies only; they are held
against the numbers that all models published with it have.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nearfield.core.errors import ModelError, nearest
from nearfield.formats.checkpoint import dtype_name
from nearfield.formats.gguf import GgufFile, Value
from nearfield.formats.manifest import EXACT_GGUF, GGUF
from nearfield.layers.rotary import RopeSpec, frequencies
from nearfield.models.inventory import EMBED, HEAD
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config

ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True)
class Family:
    """An architecture of GGUF. turned: the rows of Q and K are stored so that neighbours rotate together."""

    model_type: str
    architecture: str
    turned: bool = False


FAMILIES = {"llama": Family("llama", "LlamaForCausalLM", turned=True),
            "qwen2": Family("qwen2", "Qwen2ForCausalLM"), "qwen3": Family("qwen3", "Qwen3ForCausalLM")}
"""By general.architecture."""

_INTEGERS = {"hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
             "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
             "max_position_embeddings": "context_length"}
_TOP = {"token_embd.weight": EMBED, "output_norm.weight": "model.norm.weight", "output.weight": HEAD}
_LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
          "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
          "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
          "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_OF_SOME = ("attn_q_norm", "attn_k_norm")
"""Parts of a layer that some families have; all have the others."""
_UNKNOWN = ("expert_count", "attention.sliding_window_pattern", "rope.scaling.yarn_log_multiplier")
"""Keys of models that are none of these, whatever their architecture says."""


def family(file: GgufFile) -> Family:
    """The family of the model in `file`. Raises ModelError."""
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"{file.path}: general.architecture {name!r} is not supported{nearest(str(name), FAMILIES)}; "
                         f"supported: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def standard_name(name: str) -> str:
    """The Hugging Face name of a tensor; that of the file where it is none that the families have."""
    if name in _TOP:
        return _TOP[name]
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if found is None or found[2] not in _LAYER:
        return name
    return f"model.layers.{found[1]}.{_LAYER[found[2]]}.{found[3]}"


def file_name(name: str) -> str:
    """What a GGUF file calls the tensor of a Hugging Face name."""
    top, parts = ({theirs: own for own, theirs in names.items()} for names in (_TOP, _LAYER))
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None or found[2] not in parts:
        return top.get(name, name)
    return f"blk.{found[1]}.{parts[found[2]]}.{found[3]}"


def read_config(file: GgufFile) -> dict[str, Any]:
    """The config.json of the model in `file`. Raises ModelError, naming the key, for what makes no model here."""
    found = family(file)
    keys = _Keys(file.path, file.metadata, str(file.metadata["general.architecture"]))
    for key in _UNKNOWN:
        if keys.get(key):
            raise keys.error(key, "is set, which is not supported")
    config: dict[str, Any] = {"architectures": [found.architecture], "model_type": found.model_type}
    config |= {name: keys.integer(key) for name, key in _INTEGERS.items()}
    layers = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
    if config["num_hidden_layers"] != len(layers):
        raise keys.error("block_count", f"is {config['num_hidden_layers']}, but the file has the tensors of "
                                        f"{len(layers)}; copy the file again")
    for name in (f"blk.{layer}.{part}.weight" for layer in sorted(layers) for part in _LAYER if part not in _OF_SOME):
        if name not in file.tensors:
            raise ModelError(f"{file.path}: tensor {name} is missing; the file is not complete, copy it again")
    heads = config["num_attention_heads"]
    config["num_key_value_heads"] = keys.integer("attention.head_count_kv", heads)
    config["head_dim"] = keys.integer("attention.key_length", config["hidden_size"] // heads or 1)
    if keys.integer("rope.dimension_count", config["head_dim"]) != config["head_dim"]:
        raise keys.error("rope.dimension_count", "is not the size of a head, which is not supported")
    if keys.integer("attention.value_length", config["head_dim"]) != config["head_dim"]:
        raise keys.error("attention.value_length", "is not the size of a key, which is not supported")
    config["rms_norm_eps"] = keys.number("attention.layer_norm_rms_epsilon", None)
    config["rope_theta"] = keys.number("rope.freq_base", 10000.0)
    config["rope_scaling"] = _scaling(file, keys, config)
    config |= _of_tensors(file)
    read_spec(Config(config, file.path))
    return config


def _of_tensors(file: GgufFile) -> dict[str, Any]:
    """What is known by the tensors that are there, and how they are stored."""
    tensors = {standard_name(name): tensor for name, tensor in file.tensors.items()}
    if EMBED not in tensors:
        raise ModelError(f"{file.path}: tensor token_embd.weight is missing; copy the file again")
    coded = {name.removesuffix(".weight"): tensor.block.name for name, tensor in tensors.items()
             if tensor.block.dtype is None and (name.startswith("model.layers.")
                                                or (name == HEAD and tensor.block.name in EXACT_GGUF))}
    first, dtype = "model.layers.0.", _holding([tensor.block.dtype for tensor in tensors.values()
                                                if len(tensor.shape) == 2])
    return {"vocab_size": tensors[EMBED].shape[0], "tie_word_embeddings": HEAD not in tensors,
            "attention_bias": f"{first}self_attn.q_proj.bias" in tensors,
            "mlp_bias": f"{first}mlp.up_proj.bias" in tensors, "torch_dtype": dtype_name(dtype),
            **({"quantization_config": {"quant_method": GGUF, "modules": coded}} if coded else {})}


def _holding(dtypes: Sequence[torch.dtype | None]) -> torch.dtype:
    """What holds the numbers of matrices of these dtypes exactly, and nearly those of codes (None)."""
    found = {dtype for dtype in dtypes if dtype is not None}
    return torch.float32 if len(found) > 1 else next(iter(found), torch.bfloat16)


def _scaling(file: GgufFile, keys: "_Keys", config: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = keys.get("rope.scaling.type") or "none"
    if ROPE_FREQS in file.tensors:
        return _by_frequency(file, config)
    if kind == "none":
        return None
    if kind != "linear":
        raise keys.error("rope.scaling.type", f"{kind!r} is not supported; supported: none, linear")
    return {"rope_type": "linear", "factor": keys.number("rope.scaling.factor", None)}


def _by_frequency(file: GgufFile, config: Mapping[str, Any]) -> dict[str, Any]:
    tensor = file.tensors[ROPE_FREQS]
    size, theta = config["head_dim"], config["rope_theta"]
    if tensor.block.dtype is not torch.float32 or tensor.shape != (size // 2,):
        raise ModelError(f"{file.path}: tensor {ROPE_FREQS} is {list(tensor.shape)} {tensor.block.name}, the heads "
                         f"make it [{size // 2}] F32; copy the file again")
    divisors = file.raw(ROPE_FREQS).view(torch.float32).flatten().double()
    factor = float(divisors.max()) if bool(divisors.isfinite().all()) else 0.0
    guess = RopeSpec(theta, "ramp", max(factor, 1.0))
    wanted = frequencies(RopeSpec(theta), size) / frequencies(guess, size)
    if not torch.allclose(divisors, wanted, rtol=1e-4):
        raise ModelError(f"{file.path}: tensor {ROPE_FREQS} scales frequencies in a way that is not known; convert the "
                         "original model's folder instead")
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": guess.low_freq_factor,
            "high_freq_factor": guess.high_freq_factor,
            "original_max_position_embeddings": guess.original_positions}


@dataclass(frozen=True)
class _Keys:
    """The metadata under the architecture's name; errors name file and key."""

    path: Path
    metadata: Mapping[str, Value]
    prefix: str

    def get(self, key: str) -> Value | None:
        return self.metadata.get(f"{self.prefix}.{key}")

    def error(self, key: str, problem: str) -> ModelError:
        return ModelError(f"{self.path}: {self.prefix}.{key} {problem}")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self.error(key, f"must be a positive whole number, is {value!r}")
        return value

    def number(self, key: str, default: float | None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            raise self.error(key, f"must be a positive number, is {value!r}")
        return float(value)
