"""GGUF files for tests, written by the `gguf` library, and the floats that the library reads from them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants

Floats = npt.NDArray[np.float32]
_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
          "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
          "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
          "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
K_SCALES = {Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}
"""Where in a block its fp16 scales are."""


def gguf_name(name: str) -> str:
    """ggml's name of a tensor of a Hugging Face folder."""
    module, _, end = name.rpartition(".")
    if module in _NAMES:
        return f"{_NAMES[module]}.{end}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest]}.{end}"


def turned(weight: Floats, heads: int) -> Floats:
    """Rows of Q or K as llama.cpp's converter puts them: two halves of a head become neighbours."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def turned_back(weight: Floats, heads: int) -> Floats:
    """Its inverse."""
    return weight.reshape(heads, len(weight) // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def blocks(weight: Floats, kind: Type, seed: int = 0) -> npt.NDArray[Any]:
    """A matrix in blocks: quantised by the library, or for types that it only reads, blocks of random codes."""
    if kind not in K_SCALES:
        return quants.quantize(weight, kind)
    per_block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, (weight.size // per_block, nbytes), dtype=np.uint8)
    for at in K_SCALES[kind]:
        scale = random.normal(scale=3e-5, size=(len(raw), 1)).astype(np.float16)
        raw[:, at:at + 2] = scale.view(np.uint8)
    return raw.reshape(len(weight), -1)


def write_gguf(path: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor],
               kind: Callable[[str], Type], *, extra: Mapping[str, torch.Tensor] | None = None,
               **metadata: Any) -> dict[str, torch.Tensor]:
    """Write the model of a Hugging Face `config` and `tensors`; `kind` says how each matrix is stored, and vectors are
    F32. extra: tensors by ggml's own names. metadata: keys as they are, after those of the config; None leaves one
    out. Returns what the library reads of the file, by the names and in the order of rows of the folder."""
    arch = config["model_type"] if config["model_type"] != "mistral" else "llama"
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture", arch))
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    keys: dict[str, Any] = {
        f"{arch}.block_count": config["num_hidden_layers"], f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.attention.head_count": heads["q_proj"], f"{arch}.attention.head_count_kv": heads["k_proj"],
        f"{arch}.attention.layer_norm_rms_epsilon": config.get("rms_norm_eps", 1e-6),
        f"{arch}.rope.freq_base": config.get("rope_theta", 10000.0), **metadata}
    if "head_dim" in config:
        keys[f"{arch}.attention.key_length"] = config["head_dim"]
    for key, value in keys.items():
        add_key(writer, key, value)
    floats: dict[str, torch.Tensor] = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        weight: Floats = tensor.float().numpy()
        part = next((part for part in heads if f".{part}." in name), None) if arch == "llama" else None
        weight = weight if part is None else turned(weight, heads[part])
        stored = kind(name) if weight.ndim == 2 else Type.F32
        data = blocks(weight, stored, seed=i)
        writer.add_tensor(gguf_name(name), data, raw_dtype=stored)
        meant = quants.dequantize(data, stored).astype(np.float32)
        floats[name] = torch.from_numpy(meant if part is None else turned_back(meant, heads[part]).copy())
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return floats


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Of the type that converters write."""
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
