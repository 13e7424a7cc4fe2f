"""config.json of a model that has lost layers, channels or heads: what pruning changes in it, and nothing else."""

from collections.abc import Sequence
from typing import Any

from nearfield.core.errors import ConfigError
from nearfield.models.llama import MODEL_TYPE as LLAMA
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config


def smaller_config(config: Config, layers: Sequence[int], inner: int, kv_heads: int) -> dict[str, Any]:
    """The config of a model with `layers` alone (numbers in order), MLPs of `inner` channels, and `kv_heads` key/value
    heads that keep their query heads.

    Raises ConfigError for a number of heads with which transformers does not load such a model.
    """
    spec, data = read_spec(config), dict(config.data)
    if len(layers) != spec.num_layers:
        data["num_hidden_layers"] = len(layers)
        kinds, first = data.get("layer_types"), data.get("max_window_layers")
        if isinstance(kinds, list) and len(kinds) == spec.num_layers:
            data["layer_types"] = [kinds[i] for i in layers]
        if isinstance(first, int):              # that many layers below see everything
            data["max_window_layers"] = sum(i < first for i in layers)
    if inner != spec.intermediate_size:
        data["intermediate_size"] = inner
    if kv_heads != spec.num_kv_heads:
        each = spec.num_heads // spec.num_kv_heads
        # Its configuration class asks for this whatever head_dim says (transformers 5.23, validate_architecture).
        if spec.model_type == LLAMA and spec.hidden_size % (kv_heads * each):
            fitting = [n for n in range(1, spec.num_kv_heads) if spec.hidden_size % (n * each) == 0]
            raise ConfigError(f"{config.path}: transformers loads no {LLAMA} model whose hidden_size "
                              f"{spec.hidden_size} is not a multiple of its heads, {kv_heads * each}; key/value heads "
                              f"that can stay: {', '.join(map(str, fitting)) or 'only all'}")
        data |= {"num_attention_heads": kv_heads * each, "num_key_value_heads": kv_heads, "head_dim": spec.head_dim}
    return data
