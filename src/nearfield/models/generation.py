"""What a model's authors say of generating with it: generation_config.json, and config.json's eos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfield.core.request import SamplingParams
from nearfield.models.spec import Config


@dataclass(frozen=True)
class GenerationDefaults:
    """What a request gets where it says nothing; None where the model's authors say nothing either."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    eos_ids: tuple[int, ...] = ()

    def params(self, **given: Any) -> SamplingParams:
        """SamplingParams of the fields that are given and, where they are silent, of the recommendation.

        Raises InvalidRequestError as SamplingParams does.
        """
        recommended = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k,
                       "repetition_penalty": self.repetition_penalty}
        known = {name: value for name, value in recommended.items() if value is not None}
        return SamplingParams(**{**known, **given})


def read_generation(folder: Path) -> GenerationDefaults:
    """Read folder/generation_config.json; a missing file recommends nothing. Raises ModelError.

    `do_sample: false` means greedy, as in transformers. Where it names no eos, config.json does.
    """
    path = folder / "generation_config.json"
    fallback = _ids(Config.load(folder / "config.json"), "eos_token_id")
    if not path.exists():
        return GenerationDefaults(eos_ids=fallback)
    config = Config.load(path)
    values = {key: _number(config, key) for key in ("temperature", "top_p", "top_k", "repetition_penalty")}
    if config.data.get("do_sample") is False:
        values["temperature"] = 0.0
    top_k = values["top_k"]
    return GenerationDefaults(values["temperature"], values["top_p"],
                              None if top_k is None else int(top_k), values["repetition_penalty"],
                              _ids(config, "eos_token_id") or fallback)


def _number(config: Config, key: str) -> float | None:
    value = config.data.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise config.error(key, f"must be a number, is {value!r}")
    return value


def _ids(config: Config, key: str) -> tuple[int, ...]:
    value = config.data.get(key)
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise config.error(key, f"must be a token id or a list of them, is {value!r}")
    return tuple(ids)
