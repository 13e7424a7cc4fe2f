"""Mistral: Llama's layers with a sliding window on all of them (null in the later releases)."""

from nearfield.models.spec import Config, ModelSpec, decoder_spec, sliding_windows

MODEL_TYPE = "mistral"


def spec(config: Config) -> ModelSpec:
    """The window holds from the first layer on."""
    return decoder_spec(config, windows=sliding_windows(config, 0))
