"""Convert a llama2.c checkpoint (version 0 or 1) and its SentencePiece model to a Hugging Face folder.

    .venv/bin/python scripts/convert_llama2c.py stories260K.bin tok512.model OUT

A version 0 file is seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
a negative vocab_size means that the classifier is stored apart) and float32 arrays. A version 1 file
has a 256-byte header (magic "ak42", version, the same seven, a byte for a shared classifier) and the
same arrays in another order. llama2.c rotates neighbouring pairs of a head, Hugging Face rotates
halves: the rows of wq and wk are reordered so that the same numbers meet. Everything is fp32.
"""

import argparse
import json
import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

Array = npt.NDArray[np.float32]

_MAGIC = (0x616B3432).to_bytes(4, "little")


@dataclass(frozen=True)
class Shape:
    """The seven numbers of a header, and whether the classifier is the embedding table."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    positions: int
    tied: bool

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Every array's shape, in the order of a version 0 file."""
        n, d, h, kv = self.layers, self.dim, self.hidden, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "embed": (self.vocab, d), "attention_norm": (n, d), "wq": (n, d, d), "wk": (n, kv, d),
            "wv": (n, kv, d), "wo": (n, d, d), "ffn_norm": (n, d), "w1": (n, h, d), "w2": (n, d, h),
            "w3": (n, h, d), "final_norm": (d,), "freq_real": (self.positions, self.head_dim // 2),
            "freq_imag": (self.positions, self.head_dim // 2)}
        return shapes if self.tied else {**shapes, "classifier": (self.vocab, d)}


_VERSION_1_ORDER = ("attention_norm", "ffn_norm", "final_norm", "embed", "wq", "wk", "wv", "wo", "w1", "w2", "w3")


def read(path: Path) -> tuple[Shape, dict[str, Array]]:
    """The shape and the arrays of a llama2.c file. Raises ValueError when a byte is left over or missing."""
    data = path.read_bytes()
    version_1 = data[:4] == _MAGIC
    if len(data) < (256 if version_1 else 28):
        raise ValueError(f"{path}: too short for a llama2.c checkpoint")
    if version_1 and struct.unpack_from("<i", data, 4)[0] != 1:
        raise ValueError(f"{path}: is of a version other than 0 and 1; export it again as one of these")
    numbers = struct.unpack_from("<7i", data, 8 if version_1 else 0)
    dim, hidden, layers, heads, kv_heads, vocab, positions = numbers
    tied = bool(data[36]) if version_1 else vocab > 0
    shape = Shape(dim, hidden, layers, heads, kv_heads, abs(vocab), positions, tied)
    if min(numbers[:5]) < 1 or shape.dim % shape.heads or shape.heads % shape.kv_heads:
        raise ValueError(f"{path}: the header {numbers} makes no model; is it a llama2.c checkpoint?")
    order = shape.arrays()
    if version_1:
        order = {name: order[name] for name in (*_VERSION_1_ORDER, *(() if tied else ("classifier",)))}
    floats = np.frombuffer(data, np.float32, offset=256 if version_1 else 28)
    wanted = sum(int(np.prod(size)) for size in order.values())
    if len(floats) != wanted:
        raise ValueError(f"{path}: holds {len(floats)} floats, its header makes it {wanted}")
    arrays, start = {}, 0
    for name, size in order.items():
        arrays[name] = floats[start:start + int(np.prod(size))].reshape(size)
        start += int(np.prod(size))
    return shape, arrays


def halves(rows: Array, heads: int) -> Array:
    """Rows of wq or wk [heads * d, dim] from neighbouring pairs to halves of each head."""
    dim = rows.shape[1]
    return rows.reshape(heads, -1, 2, dim).swapaxes(1, 2).reshape(-1, dim)


def tensors(shape: Shape, arrays: dict[str, Array]) -> dict[str, torch.Tensor]:
    """The arrays under their Hugging Face names."""
    out = {"model.embed_tokens.weight": arrays["embed"], "model.norm.weight": arrays["final_norm"]}
    if not shape.tied:
        out["lm_head.weight"] = arrays["classifier"]
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        out[f"{layer}.input_layernorm.weight"] = arrays["attention_norm"][i]
        out[f"{layer}.post_attention_layernorm.weight"] = arrays["ffn_norm"][i]
        out[f"{layer}.self_attn.q_proj.weight"] = halves(arrays["wq"][i], shape.heads)
        out[f"{layer}.self_attn.k_proj.weight"] = halves(arrays["wk"][i], shape.kv_heads)
        out[f"{layer}.self_attn.v_proj.weight"] = arrays["wv"][i]
        out[f"{layer}.self_attn.o_proj.weight"] = arrays["wo"][i]
        for name, source in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
            out[f"{layer}.mlp.{name}.weight"] = arrays[source][i]
    return {name: torch.from_numpy(array.copy()) for name, array in out.items()}


def config(shape: Shape) -> dict[str, object]:
    """config.json. llama2.c fixes eps 1e-5, base 10000, and the ids 1 and 2 of SentencePiece's bos and eos."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": shape.dim, "intermediate_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab, "max_position_embeddings": shape.positions, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": shape.tied, "bos_token_id": 1, "eos_token_id": 2,
        "torch_dtype": "float32"}


def convert(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """Write the folder `out`, under a temporary name until it is whole. Raises ValueError, OSError."""
    if out.exists():
        raise ValueError(f"{out}: exists already; give a new folder")
    shape, arrays = read(checkpoint)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors(shape, arrays), partial / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer, partial / "tokenizer.model")
    words = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
             "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for name, content in (("config.json", config(shape)), ("tokenizer_config.json", words)):
        (partial / name).write_text(json.dumps(content, indent=2) + "\n")
    partial.rename(out)


def main() -> int:
    parser = argparse.ArgumentParser(description="Convert a llama2.c checkpoint to a Hugging Face folder.")
    parser.add_argument("checkpoint", type=Path, help="a .bin file, version 0 or 1")
    parser.add_argument("tokenizer", type=Path, help="its SentencePiece tokenizer.model")
    parser.add_argument("out", type=Path, help="the folder to make")
    args = parser.parse_args()
    try:
        convert(args.checkpoint, args.tokenizer, args.out)
    except (OSError, ValueError) as error:
        print(f"convert_llama2c: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
