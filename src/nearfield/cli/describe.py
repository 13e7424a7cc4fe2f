"""The facts that `nearfield info` prints, gathered without reading a weight.

Parameters are counted by what the model asks for when it is built, so that a folder with just a config.json
has a number too.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from nearfield.core.config import DType
from nearfield.kernels import select
from nearfield.kernels.ops import KVShape, OpTable
from nearfield.kernels.select import TORCH_DTYPES
from nearfield.models.chat_template import load_chat_template
from nearfield.models.inventory import take_inventory
from nearfield.models.loader import choose_storage, find_model, weight_bytes
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec
from nearfield.models.tokenizer import load_tokenizer


def describe(model: str | None, dtype: DType) -> dict[str, Any]:
    """The facts of `model`, ready for JSON. Raises ModelError."""
    folder = find_model(model)
    config = Config.load(folder / "config.json")
    spec = read_spec(config)
    storage = choose_storage(config)
    ops = select.build(dtype, storage.names(spec))
    parameters = take_inventory(spec).numbers
    return {
        "kind": "info",
        "model": folder.resolve().name if model is None or Path(model).is_dir() else model,
        "folder": str(folder),
        "architecture": spec.model_type,
        "parameters": parameters,
        "bytes": {name: parameters * kind.itemsize for name, kind in TORCH_DTYPES.items()},
        "stored": {"format": "dense" if storage.manifest is None else str(storage.manifest),
                   "bytes": weight_bytes(folder)},
        "layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "heads": spec.num_heads,
        "kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "context": spec.max_positions,
        "vocab_size": spec.vocab_size,
        "tokenizer": _tokenizer_kind(folder),
        "chat_template": load_chat_template(folder) is not None,
        "kv_bytes_per_token": _kv_bytes(spec),
        "would_use": {"dtype": dtype, "threads": ops.threads, "backend": ops.backend, "profile": ops.profile,
                      "ops": _functions(ops)},
    }


def _kv_bytes(spec: ModelSpec) -> dict[str, int]:
    token = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, page_size=1)
    return {name: token.page_bytes(kind) for name, kind in TORCH_DTYPES.items()}


def _functions(ops: OpTable) -> dict[str, str]:
    """Each operation and the function that would compute it."""
    bound = {field.name: getattr(ops, field.name) for field in fields(ops)}
    return {name: f"{f.__module__}.{f.__qualname__}" for name, f in bound.items() if callable(f)}


def _tokenizer_kind(folder: Path) -> str | None:
    """What reads the folder's tokenizer, or None where it has none."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    return type(load_tokenizer(folder)).__name__
