"""What makes one decoder differ from another, read from a folder's config.json.

A family file turns its config into a ModelSpec; everything else is shared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfield.core.errors import ModelError
from nearfield.layers.rotary import RopeSpec

_MAX_DIM = 1 << 24
_WINDOW = 4096


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a decoder-only transformer. `windows` has each layer's sliding window, or None."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeSpec
    max_positions: int
    tie_embeddings: bool
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def qkv_size(self) -> int:
        """Rows of the joint Q, K, V matrix."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


class Config:
    """config.json as a mapping whose reads are checked; errors name the file and the key."""

    def __init__(self, data: Mapping[str, Any], path: Path) -> None:
        self.data, self.path = data, path

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Read a file of JSON. Raises ModelError."""
        try:
            data = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror}); a model folder needs it") from None
        except ValueError as error:
            raise ModelError(f"{path}: is not JSON ({error})") from None
        if not isinstance(data, dict):
            raise ModelError(f"{path}: must hold a JSON object")
        return cls(data, path)

    def error(self, key: str, problem: str) -> ModelError:
        return ModelError(f"{self.path}: {key} {problem}")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_DIM:
            raise self.error(key, f"must be a positive whole number, is {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            raise self.error(key, f"must be a positive number, is {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, is {value!r}")
        return value

    def section(self, key: str) -> "Config":
        """The object under `key`, empty where there is none."""
        value = self.data.get(key) or {}
        if not isinstance(value, dict):
            raise self.error(key, f"must be an object, is {value!r}")
        return Config(value, self.path)


def decoder_spec(config: Config, *, default_head_dim: int | None = None, **family: Any) -> ModelSpec:
    """The ModelSpec of the keys that all families share; `family` sets what is the family's own.

    Raises ModelError for shapes that make no model and for features that no family here has.
    """
    act = config.data.get("hidden_act", "silu")
    if act != "silu":
        raise config.error("hidden_act", f"{act!r} is not supported; supported: 'silu'")
    heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
    kv_heads = config.integer("num_key_value_heads", heads)
    head_dim = config.integer("head_dim", default_head_dim or hidden // heads or 1)
    if heads % kv_heads:
        raise config.error("num_attention_heads", f"{heads} is not a multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        raise config.error("head_dim", f"{head_dim} is odd; rotary embedding needs pairs")
    layers = config.integer("num_hidden_layers")
    shape: dict[str, Any] = {
        "model_type": config.data["model_type"], "vocab_size": config.integer("vocab_size"),
        "hidden_size": hidden, "intermediate_size": config.integer("intermediate_size"),
        "num_layers": layers, "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim,
        "norm_eps": config.number("rms_norm_eps", 1e-6), "rope": rope_spec(config),
        "max_positions": config.integer("max_position_embeddings", 2048),
        "tie_embeddings": config.flag("tie_word_embeddings", False), "windows": (None,) * layers}
    return ModelSpec(**{**shape, **family})


def rope_spec(config: Config) -> RopeSpec:
    """The rotation, from `rope_theta` and `rope_scaling`, or from `rope_parameters` (transformers 5)."""
    newer = config.section("rope_parameters")
    if any(isinstance(value, dict) for value in newer.data.values()):
        raise config.error("rope_parameters", "differ by kind of layer, which is not supported")
    scaling = newer if newer.data else config.section("rope_scaling")
    theta = newer.number("rope_theta", config.number("rope_theta", 10000.0))
    kind = scaling.data.get("rope_type", scaling.data.get("type", "default"))
    if kind == "default":
        return RopeSpec(theta)
    if kind == "linear":
        return RopeSpec(theta, "linear", scaling.number("factor", 1.0))
    if kind == "llama3":
        return RopeSpec(theta, "ramp", scaling.number("factor", 8.0),
                        scaling.number("low_freq_factor", 1.0), scaling.number("high_freq_factor", 4.0),
                        scaling.integer("original_max_position_embeddings", 8192))
    raise config.error("rope_scaling", f"type {kind!r} is not supported; supported: default, linear, llama3")


def upper_windows(config: Config) -> tuple[int | None, ...]:
    """Windows where `use_sliding_window` is set, on the layers from number `max_window_layers` on."""
    layers = config.integer("num_hidden_layers")
    if not config.flag("use_sliding_window", False):
        return (None,) * layers
    first = config.data.get("max_window_layers", layers)
    if first != 0:   # a count of the layers below that see everything; none is a valid count
        first = config.integer("max_window_layers", layers)
    return sliding_windows(config, first)


def sliding_windows(config: Config, first_layer: int) -> tuple[int | None, ...]:
    """Each layer's window: by `layer_types` where given, else `sliding_window` from `first_layer` on.

    No `sliding_window` at all means 4,096, as in transformers; null means none.
    """
    layers = config.integer("num_hidden_layers")
    if config.data.get("sliding_window", _WINDOW) is None:
        return (None,) * layers
    window = config.integer("sliding_window", _WINDOW)
    kinds = config.data.get("layer_types")
    if kinds is None:
        return tuple(window if i >= first_layer else None for i in range(layers))
    known = {"sliding_attention": window, "full_attention": None}
    if not isinstance(kinds, list) or len(kinds) != layers or any(str(kind) not in known for kind in kinds):
        raise config.error("layer_types", f"must list {layers} of {', '.join(known)}")
    return tuple(known[kind] for kind in kinds)
