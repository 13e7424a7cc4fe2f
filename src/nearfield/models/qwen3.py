"""Qwen3 (dense): no biases by default, and a norm on each head of Q and K before the rotation."""

from nearfield.models.spec import Config, ModelSpec, decoder_spec, upper_windows

MODEL_TYPE = "qwen3"


def spec(config: Config) -> ModelSpec:
    """`attention_bias` puts a bias on all four projections; heads are of 128 unless the config says else."""
    bias = config.flag("attention_bias", False)
    return decoder_spec(config, default_head_dim=128, qkv_bias=bias, out_bias=bias, qk_norm=True,
                        windows=upper_windows(config))
