"""What a receipt calls a model: one digest of all its weights as the kernels read them, and one of its words.

The weights' root is a Merkle root over named leaves: every matrix (its format, shape and bytes: codes and scales),
every norm and bias, and the shape of the model itself. It is taken of the memory that serves, so it is the same
whether weights came from a checkpoint or from a pack, whatever the threads and the instruction set; the name of the
layout is of it, since another layout has other bytes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from nearfield.core.errors import ConfigError
from nearfield.core.types import TokenId
from nearfield.engine.build import Loaded
from nearfield.kernels.ops import Norm, OpTable, PackedWeight
from nearfield.models.decoder import Decoder, layer_weights
from nearfield.proof.approximate import PREFIX
from nearfield.proof.digest import merkle_root, tagged
from nearfield.proof.subject import Subject

_WORDS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json",
          "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json")
"""The files that decide a prompt's ids and an answer's text, where a folder has them."""

_Part = tuple[str, memoryview]
"""A leaf's name, with all that tells it apart, and its bytes."""


def model_root(model: Decoder, ops: OpTable) -> bytes:
    """The root of a model's weights, hashed on as many threads as its kernels have."""
    with ThreadPoolExecutor(ops.threads) as pool:
        leaves = list(pool.map(_leaf, _parts(model, ops.layout)))
    return merkle_root("model", leaves)


def tokenizer_hash(folder: Path, eos_ids: Sequence[TokenId]) -> bytes:
    """The digest of the files that make ids of words and words of ids, and of the ids that end an answer."""
    found = [(name, hashlib.sha256((folder / name).read_bytes()).hexdigest())
             for name in _WORDS if (folder / name).is_file()]
    return tagged("tokenizer", json.dumps([found, sorted(set(eos_ids))]).encode())


def subject_of(loaded: Loaded, *, approximate: bool = False) -> Subject:
    """What receipts say of a loaded model. Raises ConfigError where its arithmetic has no profile, unless its
    receipts may be `approximate`."""
    profile = loaded.ops.profile
    if profile is None and approximate:
        profile = f"{PREFIX}{loaded.ops.backend}-{loaded.engine.config.dtype}"
    if profile is None:
        raise ConfigError(f"receipts need the C++ kernels, whose bits a replay can repeat; {loaded.ops.backend} serves "
                          "here: install with a compiler, and choose bf16 or fp32")
    return Subject(model_root(loaded.model, loaded.ops), profile,
                   tokenizer_hash(loaded.folder, tuple(loaded.engine.eos_ids)), loaded.engine.max_context)


def _leaf(part: _Part) -> bytes:
    name, data = part
    return hashlib.sha256(hashlib.sha256(name.encode()).digest() + hashlib.sha256(data).digest()).digest()


def _parts(model: Decoder, layout: str) -> Iterator[_Part]:
    yield f"layout {layout}", memoryview(b"")
    yield "spec", memoryview(json.dumps(asdict(model.spec), sort_keys=True).encode())
    yield from _matrix("embed", model.embed.weight)
    for i, layer in enumerate(map(layer_weights, model.layers)):
        for name in ("attn_norm", "mlp_norm"):
            yield from _norm(f"layer {i} {name}", getattr(layer, name))
        for name in ("q_norm", "k_norm"):
            yield from _norm(f"layer {i} {name}", getattr(layer.heads, name))
        for name in ("qkv", "out", "gate_up", "down"):
            yield from _matrix(f"layer {i} {name}", getattr(layer, name))
            yield from _tensor(f"layer {i} {name}_bias", getattr(layer, f"{name}_bias"))
    yield from _norm("norm", model.norm)
    if model.head.weight is not model.embed.weight:
        yield from _matrix("head", model.head.weight)


def _matrix(name: str, weight: PackedWeight) -> Iterator[_Part]:
    if weight.prepared is not None:
        made = weight.prepared
        yield f"{name} {weight.format} {tuple(weight.shape)} {list(made.layout)}", memoryview(made)
    for part, tensor in sorted(weight.tensors.items()):
        yield from _tensor(f"{name} {weight.format} {part}", tensor)


def _norm(name: str, norm: Norm | None) -> Iterator[_Part]:
    if norm is not None:
        yield from _tensor(f"{name} {norm.eps.hex()}", norm.weight)


def _tensor(name: str, tensor: Tensor | None) -> Iterator[_Part]:
    if tensor is not None:
        data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}", data
