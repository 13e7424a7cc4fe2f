"""What a model folder's small JSON files say about its tokenizer, read once and checked.

The same facts are spread over five files with overlaps that differ by the year of the checkpoint;
this file is the only one that knows which file wins. Broken files are ModelErrors that name the file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken

from nearfield.core.errors import ModelError
from nearfield.core.types import TokenId

MAX_JSON_BYTES = 16 << 20
MAX_VOCABULARY_BYTES = 256 << 20

_ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class TokenizerFiles:
    """config: tokenizer_config.json. named: bos_token, eos_token, ... and how each is spelt.

    added: id -> a token that is cut out of the text before the vocabulary sees it.
    extra_special: spellings listed as special without a role. bos_id, eos_ids: what
    generation_config.json says, or else config.json.
    """

    config: Mapping[str, object]
    named: Mapping[str, str]
    added: Mapping[TokenId, AddedToken]
    extra_special: tuple[str, ...]
    bos_id: TokenId | None
    eos_ids: tuple[TokenId, ...]

    def flag(self, name: str, default: bool) -> bool:
        """A yes-or-no of tokenizer_config.json; null counts as absent."""
        value = self.config.get(name)
        return default if value is None else bool(value)

    def specials(self) -> tuple[str, ...]:
        """Every spelling that some file calls special, without repeats."""
        marked = (token.content for token in self.added.values() if token.special)
        return tuple(dict.fromkeys([*self.named.values(), *self.extra_special, *marked]))

    def ends(self, id_of: Callable[[str], TokenId | None]) -> tuple[TokenId | None, tuple[TokenId, ...]]:
        """The id that begins a text, and all ids that end an answer, the tokenizer's own last."""
        begin = id_of(self.named["bos_token"]) if "bos_token" in self.named else None
        end = id_of(self.named["eos_token"]) if "eos_token" in self.named else None
        every = self.eos_ids if end is None else (*self.eos_ids, end)
        return (self.bos_id if begin is None else begin), tuple(dict.fromkeys(every))


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the tokenizer's JSON files of a model folder; absent ones count as empty. Raises ModelError."""
    config = read_json(folder / "tokenizer_config.json")
    special_map = read_json(folder / "special_tokens_map.json")
    generation = read_json(folder / "generation_config.json")
    model = read_json(folder / "config.json")
    named = _named_tokens(special_map) | _named_tokens(config)
    extra_key = "additional_special_tokens"
    extra = _spellings(config.get(extra_key) or special_map.get(extra_key))
    bos = _id_list(folder, "bos_token_id", generation, model)
    return TokenizerFiles(
        config=config,
        named=named,
        added=_added_tokens(folder, config, {*named.values(), *extra}),
        extra_special=extra,
        bos_id=bos[0] if bos else None,
        eos_ids=_id_list(folder, "eos_token_id", generation, model),
    )


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes. Raises ModelError."""
    try:
        if path.stat().st_size > limit:
            raise ModelError(f"{path} is larger than {limit >> 20} MiB; no model needs that, fetch it again")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} can not be read ({error.strerror}); check the file's rights") from None


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object; an absent file is an empty one. Raises ModelError."""
    if not path.exists():
        return {}
    try:
        value = json.loads(read_bytes(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}); it may be cut short, fetch it again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def _spelling(value: object) -> str | None:
    """A token is written as its spelling or as an object that has it in `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) and content else None


def _spellings(value: object) -> tuple[str, ...]:
    found = [_spelling(entry) for entry in value] if isinstance(value, list) else []
    return tuple(spelling for spelling in found if spelling)


def _named_tokens(config: Mapping[str, object]) -> dict[str, str]:
    found = {name: _spelling(value) for name, value in config.items() if name.endswith("_token")}
    return {name: spelling for name, spelling in found.items() if spelling}


def _added_tokens(
    folder: Path, config: Mapping[str, object], special: set[str]
) -> dict[TokenId, AddedToken]:
    """added_tokens.json has only spellings and ids; tokenizer_config.json, which wins, has flags too."""
    plain = read_json(folder / "added_tokens.json")
    decoder = config.get("added_tokens_decoder") or {}
    try:
        added = {_id(number): _added_token({"content": text, "normalized": False}, text in special)
                 for text, number in plain.items()}
        if not isinstance(decoder, dict):
            raise TypeError("added_tokens_decoder is not an object")
        added |= {int(number): _added_token(entry, False) for number, entry in decoder.items()}
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(
            f"the added tokens of {folder} can not be read ({error!r}); fetch added_tokens.json and "
            "tokenizer_config.json again"
        ) from None
    return dict(sorted(added.items()))


def _added_token(entry: Mapping[str, object], special: bool) -> AddedToken:
    content = entry["content"]
    if not isinstance(content, str) or not content:
        raise ValueError(f"content is {content!r}")
    flags = {name: bool(entry[name]) for name in _ADDED_FLAGS if name in entry}
    return AddedToken(content, **({"special": special} | flags))


def _id(value: object) -> TokenId:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a token id")
    return value


def _id_list(folder: Path, name: str, *sources: Mapping[str, object]) -> tuple[TokenId, ...]:
    """The ids under `name` in the first source that has any: one number or a list of them."""
    value = next((source[name] for source in sources if source.get(name) is not None), None)
    if value is None:
        return ()
    try:
        return tuple(_id(entry) for entry in (value if isinstance(value, list) else [value]))
    except ValueError as error:
        raise ModelError(f"{name} in {folder} (generation_config.json or config.json): {error}") from None
