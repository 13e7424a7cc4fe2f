"""The tokenizer of a GGUF file, as the files of a model's folder that the same vocabulary would be in.

A vocabulary of kind "gpt2" (byte-level BPE) becomes tokenizer.json; how it cuts words has a name in the file
(tokenizer.ggml.pre), and a name that is not known is refused, since a guess would make other ids. One of kind "llama"
(SentencePiece) becomes tokenizer.model, a protobuf message (sentencepiece_model.proto) that is written here.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from nearfield.core.errors import ModelError
from nearfield.formats.gguf import GgufFile

_CONTROL, _USER_DEFINED = 3, 4
"""Kinds of tokens; the numbers are SentencePiece's."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = _CONTRACTIONS + (r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
                          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
_THREE_DIGITS = ("llama-bpe", "llama3", "llama-v3", "smaug-bpe")
_ONE_DIGIT = ("qwen2", "deepseek-r1-qwen")
_PLAIN = ("gpt-2", "smollm")
_ROLES = ("bos", "eos", "unknown", "padding")
_NO_TOKEN = (1 << 32) - 1
"""-1, as an id without a sign."""

_ENDS = ("eos", "eot", "eom")


def tokenizer_files(file: GgufFile) -> dict[str, bytes]:
    """The files by name; none where the GGUF file has no tokenizer. Raises ModelError."""
    kind = file.metadata.get("tokenizer.ggml.model", "none")
    if kind == "none":
        return {}
    if kind not in ("gpt2", "llama"):
        raise ModelError(f"{file.path}: tokenizer.ggml.model {kind!r} is not supported; supported: 'gpt2', 'llama'")
    words = _Words(file)
    made = words.tokenizer_json() if kind == "gpt2" else words.sentencepiece()
    described: dict[str, Any] = words.roles()
    if kind == "llama":
        described |= {"add_bos_token": words.flag("add_bos_token", True),
                      "add_prefix_space": words.flag("add_space_prefix", True)}
    files = {"tokenizer_config.json": _json(described), "generation_config.json": _json(words.ends())}
    files["tokenizer.json" if kind == "gpt2" else "tokenizer.model"] = made
    template = file.metadata.get("tokenizer.chat_template")
    return files | ({"chat_template.jinja": template.encode()} if isinstance(template, str) and template else {})


class _Words:
    """The vocabulary of a file."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.tokens: list[str] = self.listed("tokens", str)
        self.kinds: list[int] = self.listed("token_type", int)
        if len(self.kinds) != len(self.tokens):
            raise self.error("token_type", f"has {len(self.kinds)} entries for {len(self.tokens)} tokens")

    def error(self, key: str, problem: str) -> ModelError:
        return ModelError(f"{self.file.path}: tokenizer.ggml.{key} {problem}; convert the original model again")

    def listed(self, key: str, kind: type) -> list[Any]:
        value = self.file.metadata.get(f"tokenizer.ggml.{key}")
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise self.error(key, f"must be a list of {kind.__name__}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.file.metadata.get(f"tokenizer.ggml.{key}", default))

    def identity(self, role: str) -> int | None:
        """The id that has a role; None where there is none, which -1 says too."""
        value = self.file.metadata.get(f"tokenizer.ggml.{role}_token_id")
        if value is None or value in (-1, _NO_TOKEN):
            return None
        if type(value) is not int or not 0 <= value < len(self.tokens):
            raise self.error(f"{role}_token_id", f"is {value!r}, and there are {len(self.tokens)} tokens")
        return value

    def roles(self) -> dict[str, str]:
        """How the tokens with a role are spelt, as tokenizer_config.json has it."""
        found = {role: self.identity(role) for role in _ROLES}
        names = {"unknown": "unk", "padding": "pad"}
        return {f"{names.get(role, role)}_token": self.tokens[number]
                for role, number in found.items() if number is not None}

    def ends(self) -> dict[str, Any]:
        """generation_config.json: what begins a text, and what ends an answer."""
        ends = [number for role in _ENDS if (number := self.identity(role)) is not None]
        bos = self.identity("bos")
        return ({} if bos is None else {"bos_token_id": bos}) | ({"eos_token_id": ends} if ends else {})

    def tokenizer_json(self) -> bytes:
        pre = self.file.metadata.get("tokenizer.ggml.pre")
        known = (*_THREE_DIGITS, *_ONE_DIGIT, *_PLAIN)
        if pre not in known:
            raise ModelError(f"{self.file.path}: tokenizer.ggml.pre {pre!r}, how text is cut into words, is not known; "
                             f"known: {', '.join(known)}. Serve the original model's folder instead")
        merges = [_pair(merge) for merge in self.listed("merges", str)]
        ids = {token: number for number, token in reversed(list(enumerate(self.tokens)))}
        try:
            library = Tokenizer(BPE(ids, merges, ignore_merges=pre in _THREE_DIGITS))
        except Exception as error:          # the library raises bare Exception
            raise self.error("merges", f"does not fit the tokens ({error})") from None
        library.pre_tokenizer, library.decoder = _cutting(str(pre)), decoders.ByteLevel()
        if pre in _ONE_DIGIT:
            library.normalizer = normalizers.NFC()
        for number, kind in enumerate(self.kinds):
            if kind in (_CONTROL, _USER_DEFINED) and self.tokens[number]:
                library.add_tokens([AddedToken(self.tokens[number], special=kind == _CONTROL, normalized=False)])
        bos = self.identity("bos")
        if bos is not None and self.flag("add_bos_token", pre in _THREE_DIGITS):
            library.post_processor = processors.TemplateProcessing(
                single=[self.tokens[bos], "$A"], special_tokens=[(self.tokens[bos], bos)])
        return str(library.to_str()).encode()

    def sentencepiece(self) -> bytes:
        scores: list[float] = self.listed("scores", float)
        if len(scores) != len(self.tokens):
            raise self.error("scores", f"has {len(scores)} entries for {len(self.tokens)} tokens")
        pieces = b"".join(_message(1, _message(1, token.encode()) + _float(2, score) + _integer(3, kind))
                          for token, score, kind in zip(self.tokens, scores, self.kinds, strict=True))
        bytes_of = any(kind == 6 for kind in self.kinds)
        trainer = _integer(3, 2) + _integer(35, int(bytes_of))                      # BPE; byte_fallback
        for role, field in (("unknown", 45), ("bos", 46), ("eos", 47), ("padding", 48)):
            if (number := self.identity(role)) is not None:
                trainer += _message(field, self.tokens[number].encode())
        # add_dummy_prefix is for tokenizer_spm.py to take away; escape_whitespaces: U+2581 stands for a space.
        normalizer = (_message(1, b"identity") + _integer(3, 1)
                      + _integer(4, int(self.flag("remove_extra_whitespaces", False))) + _integer(5, 1))
        return pieces + _message(2, trainer) + _message(3, normalizer)


def _cutting(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre in _PLAIN:
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
        digits = pre_tokenizers.Digits(individual_digits=True)
        return plain if pre == "gpt-2" else pre_tokenizers.Sequence([digits, plain])
    words = _WORDS % ("{1,3}" if pre in _THREE_DIGITS else "")
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), behavior="isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _pair(merge: str) -> tuple[str, str]:
    """Two tokens with a space between; the first is never empty."""
    left, _, right = merge[1:].partition(" ")
    return merge[:1] + left, right


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _varint(number: int) -> bytes:
    def groups(left: int) -> Iterator[int]:
        while left > 127:
            yield left & 127 | 128
            left >>= 7
        yield left
    return bytes(groups(number))


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _message(field: int, data: bytes | Sequence[int]) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + bytes(data)
