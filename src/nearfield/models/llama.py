"""Llama 1, 2 and 3.x (with its RoPE scaling), and the many models of the same architecture."""

from nearfield.models.spec import Config, ModelSpec, decoder_spec

MODEL_TYPE = "llama"


def spec(config: Config) -> ModelSpec:
    """`attention_bias` puts a bias on all four projections of attention, `mlp_bias` on the MLP's three."""
    bias = config.flag("attention_bias", False)
    return decoder_spec(config, qkv_bias=bias, out_bias=bias, mlp_bias=config.flag("mlp_bias", False))
