"""Qwen3 (dense): no biases by default, and a norm on each head of Q and K before the rotation."""

from nearfield.models.spec import Config, ModelSpec, decoder_spec, sliding_windows

MODEL_TYPE = "qwen3"


def spec(config: Config) -> ModelSpec:
    """`attention_bias` puts a bias on all four projections; windows as in Qwen2."""
    bias = config.flag("attention_bias", False)
    layers = config.integer("num_hidden_layers")
    windows: tuple[int | None, ...] = (None,) * layers
    if config.flag("use_sliding_window", False):
        windows = sliding_windows(config, config.data.get("max_window_layers", layers))
    return decoder_spec(config, qkv_bias=bias, out_bias=bias, qk_norm=True, windows=windows)
