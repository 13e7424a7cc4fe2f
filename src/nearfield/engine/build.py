"""From a model's name to an engine that is ready to serve it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from tqdm import tqdm

from nearfield.cache.store import DenseKV
from nearfield.core.config import EngineConfig, format_bytes
from nearfield.core.errors import ConfigError
from nearfield.core.machine import available_memory, keep_freed_memory
from nearfield.engine.engine import Engine, context_limit
from nearfield.kernels import select
from nearfield.kernels.ops import KVShape, OpTable
from nearfield.models.chat_template import ChatTemplate, load_chat_template
from nearfield.models.decoder import Decoder
from nearfield.models.generation import GenerationDefaults, read_generation
from nearfield.models.gguf_folder import origin
from nearfield.models.loader import choose_storage, find_model, load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec
from nearfield.models.tokenizer import Tokenizer, load_tokenizer

_log = logging.getLogger("nearfield.engine")


@dataclass(frozen=True)
class Loaded:
    """A model made ready: the engine and what stands around it. `kv_bytes`: the cache's size; `weights`: how they are
    stored, in words."""

    name: str
    folder: Path
    spec: ModelSpec
    engine: Engine
    model: Decoder
    ops: OpTable
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    generation: GenerationDefaults
    kv_bytes: int
    weights: str


def load_engine(model: str | Path | None, config: EngineConfig, *, random_weights: bool = False,
                tokenizer: bool = True, progress: bool = False) -> Loaded:
    """Load the model (None: the pocket model) and build an engine of `config` around it.

    random_weights needs only a config.json. tokenizer=False leaves tokenizer and template out.
    Raises ModelError for a folder that cannot be used, ConfigError for options that do not fit it.
    """
    folder = find_model(model)
    described = Config.load(folder / "config.json")
    spec = read_spec(described)
    storage = choose_storage(described, config.weights, config.group, random_weights=random_weights)
    if storage.manifest is not None and (rounded := storage.manifest.rounded):
        _log.warning("%s: weights stored as %s are rounded to int8 in groups of 32: no kernel takes them as they are",
                     origin(folder), ", ".join(rounded))
    words = load_tokenizer(folder) if tokenizer else None
    generation = read_generation(folder)
    shape = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, config.page_size)
    _check_memory(config)
    keep_freed_memory()
    ops = select.build(config.dtype, storage.names(spec), isa=config.isa, threads=config.threads)
    kv = DenseKV(ops, shape, config.kv_memory, select.TORCH_DTYPES[config.dtype])
    positions = context_limit(spec, config, kv.num_pages * config.page_size)
    hidden = None if progress else True   # None: shown on a terminal only
    with tqdm(total=spec.num_layers, desc="loading", unit="layer", disable=hidden, leave=False) as bar:
        decoder = load_decoder(folder, spec, ops, config.dtype, positions, storage=storage,
                               random_weights=random_weights, pack_cache=config.pack_cache,
                               progress=lambda done, total: _show(bar, done))
    eos = generation.eos_ids + (words.eos_ids if words is not None else ())
    engine = Engine(decoder, kv, ops, config, words, tuple(dict.fromkeys(eos)))
    return Loaded(_served_name(model, folder), folder, spec, engine, decoder, ops, words,
                  load_chat_template(folder) if tokenizer else None, generation, kv.nbytes, str(storage))


def _check_memory(config: EngineConfig) -> None:
    """The cache's pages are touched one by one: too large a cache would be found out only in service."""
    available = available_memory()
    if available is not None and config.kv_memory > available:
        raise ConfigError(f"a KV cache of {format_bytes(config.kv_memory)} is more than the memory that is available "
                          f"({format_bytes(available)}); ask for less with --kv-memory")


def _show(bar: "tqdm[Never]", done: int) -> None:
    bar.update(done - bar.n)


def _served_name(model: str | Path | None, folder: Path) -> str:
    """The name that clients use: the hub id as it was given, or the name of the folder or file."""
    return str(model) if model is not None and not Path(model).expanduser().exists() else folder.resolve().name
