"""How an answer's tokens were to be chosen, in one canonical form: what a receipt's sampler hash is of.

Two sets of parameters that choose alike in the same words have one encoding: numbers as float64 without a negative
zero, no `top_k` as 0, `max_tokens` as the number that the answer was held to. Seed, `n` and log-probabilities are not
of it: the receipt has the seed, and each answer its own.
"""

import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nearfield.core.errors import InvalidRequestError
from nearfield.core.request import SamplingParams
from nearfield.proof.digest import tagged
from nearfield.proof.errors import ReceiptError

_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_COUNTS = ("max_tokens", "min_tokens", "top_k")
_FLAGS = ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens")
_LISTS = ("logit_bias", "stop", "stop_token_ids")
FIELDS = (*_NUMBERS, *_COUNTS, *_FLAGS, *_LISTS)


def canonical(params: SamplingParams, limit: int) -> SamplingParams:
    """`params` of an answer of at most `limit` tokens, as receipts write them."""
    numbers: dict[str, Any] = {name: float(getattr(params, name)) + 0.0 for name in _NUMBERS}
    bias = {token: float(value) + 0.0 for token, value in sorted(params.logit_bias.items())}
    return replace(params, **numbers, top_k=max(0, params.top_k), max_tokens=limit, logit_bias=bias, seed=None, n=1,
                   logprobs=None)


def sampler_hash(params: SamplingParams) -> bytes:
    """The digest of canonical parameters."""
    def text(value: bytes) -> bytes:
        return struct.pack("<I", len(value)) + value

    parts = [struct.pack("<6d", *(getattr(params, name) for name in _NUMBERS)),
             struct.pack("<3Q", *(getattr(params, name) for name in _COUNTS)),
             struct.pack("<3?", *(getattr(params, name) for name in _FLAGS)),
             struct.pack("<I", len(params.logit_bias)),
             *(struct.pack("<Id", token, value) for token, value in params.logit_bias.items()),
             struct.pack("<I", len(params.stop)), *(text(stop.encode()) for stop in params.stop),
             struct.pack(f"<I{len(params.stop_token_ids)}I", len(params.stop_token_ids), *params.stop_token_ids)]
    return tagged("sampler", b"".join(parts))


def sampler_json(params: SamplingParams) -> dict[str, Any]:
    """Canonical parameters as JSON."""
    made: dict[str, Any] = {name: getattr(params, name) for name in FIELDS}
    return made | {"logit_bias": {str(token): value for token, value in params.logit_bias.items()},
                   "stop": list(params.stop), "stop_token_ids": list(params.stop_token_ids)}


def read_sampler(value: object) -> SamplingParams:
    """Canonical parameters out of JSON. Raises ReceiptError for what is not written as `sampler_json` does."""
    if not isinstance(value, Mapping) or set(value) != set(FIELDS):
        raise ReceiptError(f"sampler: must have exactly the fields {', '.join(FIELDS)}")
    bias, lists = value["logit_bias"], [value["stop"], value["stop_token_ids"]]
    if not isinstance(bias, Mapping) or not all(isinstance(each, list) for each in lists):
        raise ReceiptError("sampler: logit_bias must be an object; stop and stop_token_ids must be lists")
    try:
        read = SamplingParams(**{**value, "logit_bias": {_token(key): each for key, each in bias.items()},
                                 "stop": tuple(value["stop"]), "stop_token_ids": tuple(value["stop_token_ids"])})
        if not all(isinstance(getattr(read, name), bool) for name in _FLAGS) or not read.max_tokens:
            raise ReceiptError(f"sampler: {', '.join(_FLAGS)} must be true or false, and max_tokens a number")
        if any(not 0 <= token < 2**32 or isinstance(token, bool) for token in (*read.stop_token_ids,
                                                                               *read.logit_bias)):
            raise ReceiptError("sampler: a token id is not in 0..2**32-1")
        "".join(read.stop).encode()
    except (InvalidRequestError, UnicodeEncodeError) as error:
        raise ReceiptError(f"sampler: {error}") from None
    made = canonical(read, read.max_tokens)
    if sampler_json(made) != dict(value):
        raise ReceiptError("sampler: is not in canonical form")
    return made


def _token(key: object) -> int:
    if not isinstance(key, str) or not key.isascii() or not key.isdecimal() or len(key) > 10:
        raise ReceiptError("sampler: logit_bias must map token ids to numbers")
    return int(key)
