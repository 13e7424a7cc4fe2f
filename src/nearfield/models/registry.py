"""Which file reads which `model_type`. A new family is one file and one word here."""

from collections.abc import Callable

from nearfield.core.errors import ModelError, nearest
from nearfield.models import llama, mistral, qwen2, qwen3
from nearfield.models.spec import Config, ModelSpec

_FAMILIES: dict[str, Callable[[Config], ModelSpec]] = {
    family.MODEL_TYPE: family.spec for family in (llama, mistral, qwen2, qwen3)}


def supported() -> tuple[str, ...]:
    """The `model_type`s that can be loaded."""
    return tuple(_FAMILIES)


def read_spec(config: Config) -> ModelSpec:
    """The shape of the model that `config` describes. Raises ModelError for an unknown model_type."""
    name = config.data.get("model_type")
    if not isinstance(name, str) or name not in _FAMILIES:
        hint = nearest(str(name), _FAMILIES)
        raise ModelError(f"{config.path}: model_type {name!r} is not supported{hint}; "
                         f"supported: {', '.join(_FAMILIES)}")
    return _FAMILIES[name](config)
