"""Qwen2 and Qwen2.5: biases on Q, K and V; a sliding window on upper layers where it is switched on."""

from nearfield.models.spec import Config, ModelSpec, decoder_spec, upper_windows

MODEL_TYPE = "qwen2"


def spec(config: Config) -> ModelSpec:
    """`use_sliding_window` decides; without it `sliding_window` means nothing."""
    return decoder_spec(config, qkv_bias=True, windows=upper_windows(config))
