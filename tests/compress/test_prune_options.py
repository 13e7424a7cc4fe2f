"""From what is asked to sizes: widths that kernels like, and every way to leave nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from nearfield.compress.prune.options import PruneOptions, Sizes, sizes
from nearfield.core.errors import ConfigError
from nearfield.models.registry import read_spec
from nearfield.models.reshape import smaller_config
from nearfield.models.spec import Config, ModelSpec
from tests.small_model import CONFIG

SPEC = read_spec(Config(CONFIG, Path("config.json")))


def wide(inner: int) -> ModelSpec:
    return replace(SPEC, intermediate_size=inner)


@pytest.mark.parametrize(("width", "share", "kept"), [
    (4864, 0.8, 3840), (8192, 0.75, 6144), (1536, 0.8, 1280), (768, 0.8, 640), (768, 0.79, 608), (768, 0.75, 576),
    (256, 0.8, 192), (172, 0.8, 138), (96, 0.8, 64), (11008, 0.9, 9856)])
def test_widths_are_near_what_was_asked_and_cut_into_groups(width: int, share: float, kept: int) -> None:
    assert sizes(wide(width), PruneOptions(ffn=share)) == Sizes(2, kept, 2)


def test_fewer_layers_and_heads() -> None:
    assert sizes(SPEC, PruneOptions(layers=-1, heads=-1)) == Sizes(1, 256, 1)


@pytest.mark.parametrize(("options", "message"), [
    (PruneOptions(), "nothing to prune; give --ffn, --layers or --heads"),
    (PruneOptions(layers=-2), "--layers -2: the model has 2 layers, and one must stay; give --layers -1 at most"),
    (PruneOptions(layers=-40), "the model has 2 layers"),
    (PruneOptions(layers=4), "--layers says how many fewer: --layers -4, not 4"),
    (PruneOptions(layers=0), "--layers says how many fewer: --layers -1, not 0"),
    (PruneOptions(heads=-2), "--heads -2: the model has 2 key/value heads, and one must stay"),
    (PruneOptions(ffn=0.0), "--ffn 0: it is the share of channels that stays, between 0 and 1, such as 0.8"),
    (PruneOptions(ffn=1.0), "--ffn 1: it is the share"), (PruneOptions(ffn=float("nan")), "--ffn nan: it is the share"),
    (PruneOptions(ffn=0.01), "--ffn 0.01: of 256 channels, in steps of 32, 0 would stay; give a share from 0.125"),
    (PruneOptions(ffn=0.999), "in steps of 32, 256 would stay; give a share from 0.125 to 0.875"),
])
def test_what_cannot_be_is_told(options: PruneOptions, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        sizes(SPEC, options)
    assert message in str(error.value)


def test_one_head_cannot_be_fewer() -> None:
    with pytest.raises(ConfigError, match="has 1 key/value heads, and one must stay; leave --heads out"):
        sizes(replace(SPEC, num_kv_heads=1), PruneOptions(heads=-1))


def test_a_config_changes_where_it_must_and_nowhere_else() -> None:
    config = Config({**CONFIG, "eos_token_id": [1, 2], "rope_theta": 5e5}, Path("config.json"))
    assert smaller_config(config, [0, 1], 256, 2) == config.data
    assert smaller_config(config, [1], 192, 1) == {
        **config.data, "num_hidden_layers": 1, "intermediate_size": 192, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32}


@pytest.mark.parametrize("described", [
    {"max_window_layers": 2}, {"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 3}])
@pytest.mark.parametrize("layers", [[0, 1, 3], [2, 4], [0, 1], [1, 2, 3, 4]])
def test_each_layer_keeps_its_window(described: dict[str, object], layers: list[int]) -> None:
    config = Config({**CONFIG, "model_type": "qwen2", "num_hidden_layers": 5, "use_sliding_window": True,
                     "sliding_window": 16, **described}, Path("config.json"))
    before = read_spec(config).windows
    made = read_spec(Config(smaller_config(config, layers, 256, 2), config.path))
    assert made.windows == tuple(before[i] for i in layers) and before == (None, None, 16, 16, 16)


def test_heads_that_transformers_would_not_load_are_refused() -> None:
    config = Config({**CONFIG, "num_attention_heads": 8, "num_key_value_heads": 4}, Path("config.json"))
    with pytest.raises(ConfigError, match=r"hidden_size 128 is not a multiple of its heads, 6; .* can stay: 1, 2"):
        smaller_config(config, [0, 1], 256, 3)
    other = Config({**config.data, "model_type": "qwen2"}, config.path)
    assert smaller_config(other, [0, 1], 256, 3)["num_attention_heads"] == 6
