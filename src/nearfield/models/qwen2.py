"""Qwen2 and Qwen2.5: biases on Q, K and V; a sliding window on upper layers where it is switched on."""

from nearfield.models.spec import Config, ModelSpec, decoder_spec, sliding_windows

MODEL_TYPE = "qwen2"


def spec(config: Config) -> ModelSpec:
    """`use_sliding_window` decides; without it `sliding_window` means nothing."""
    layers = config.integer("num_hidden_layers")
    if not config.flag("use_sliding_window", False):
        return decoder_spec(config, qkv_bias=True)
    # max_window_layers counts the lower layers that see everything; 0 is a valid count.
    first = config.data.get("max_window_layers", layers)
    return decoder_spec(config, qkv_bias=True, windows=sliding_windows(config, first))
