"""What a receipt says against what its holder knows: every check that needs no model, only the facts of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from nearfield.core.request import SamplingParams
from nearfield.core.types import FinishReason, TokenId
from nearfield.proof.approximate import PREFIX
from nearfield.proof.digest import hash_ids
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.keys import key_bytes, key_text, verify_signature
from nearfield.proof.nonces import seed_of
from nearfield.proof.receipt import LimitSource, Receipt, SeedSource
from nearfield.proof.report import Check, agree, failed, passed, unchecked
from nearfield.proof.sampler_spec import FIELDS, canonical, sampler_hash
from nearfield.proof.subject import Subject

SKEW = 300.0
"""Seconds by which the clocks of a node and of its verifier may differ."""


@dataclass(frozen=True)
class Known:
    """What the holder of a receipt knows by itself; None is unknown.

    prompt_ids: of the prompt that was sent, tokenised here. params: the options that were sent, with the model's
    defaults; their max_tokens may be None. index, sample_index: the answer's place in the response, and among those
    of its prompt. text: of the answer, as it was delivered. between: the Unix seconds, by the clock here, of which the
    request was taken in at one.
    """

    prompt_ids: tuple[TokenId, ...] | None = None
    params: SamplingParams | None = None
    response_id: str | None = None
    index: int | None = None
    sample_index: int | None = None
    client_nonce: bytes | None = None
    node_nonce: bytes | None = None
    public_key: str | None = None
    text: str | None = None
    between: tuple[float, float] | None = None


def claims(disclosure: Disclosure, subject: Subject, known: Known) -> Iterator[Check]:
    """The checks of a receipt against what is known, and the model's facts."""
    yield from _origin(disclosure, known)
    yield from _seed(disclosure.signed.receipt, known)
    yield from _words(disclosure, subject, known)
    yield from _counts(disclosure, known)
    yield _limit(disclosure, subject, known.params)


def _origin(disclosure: Disclosure, known: Known) -> Iterator[Check]:
    receipt = disclosure.signed.receipt
    good = verify_signature(disclosure.signed)
    yield passed("signature") if good else failed("signature", "the key in the receipt has not signed it")
    if known.public_key is None:
        yield unchecked("node", f"any key could have signed, this was {key_text(receipt.public_key)}; give the node's "
                        "with --node-key")
    else:
        yield agree("node", "public key", key_bytes(known.public_key), receipt.public_key)
    yield _time(receipt, known)
    if known.response_id is not None:
        yield agree("response", "id", known.response_id, receipt.response_id)
    if known.client_nonce is None:
        yield unchecked("client nonce", "not known: the receipt may be of an older request")
    else:
        yield agree("client nonce", "nonce", known.client_nonce, receipt.client_nonce)
    if known.node_nonce is None:
        yield unchecked("node nonce", "not known: unless one was fetched beforehand, and is given here, the node drew "
                        "it with the request in hand, and may have tried several seeds and kept one")
    else:
        yield agree("node nonce", "nonce", known.node_nonce, receipt.node_nonce)


def _time(receipt: Receipt, known: Known) -> Check:
    """Chat templates may tell the date: a node must not choose it."""
    told = _utc(receipt.created)
    if known.between is None:
        return unchecked("time", f"when the request was sent is not known; the receipt has {told}")
    first, last = known.between[0] - SKEW, known.between[1] + SKEW
    if first <= receipt.created <= last:
        return passed("time", told)
    return failed("time", f"the receipt has {told}, and by the clock here the request was taken in between "
                  f"{_utc(first)} and {_utc(last)}")


def _utc(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(max(0, int(seconds)), UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError):
        return f"{seconds} s after 1970"


def _seed(receipt: Receipt, known: Known) -> Iterator[Check]:
    places = ((known.index, receipt.index, "index"), (known.sample_index, receipt.sample_index, "sample index"))
    wrong = [agree("place", name, mine, theirs) for mine, theirs, name in places if mine not in (None, theirs)]
    if wrong:
        yield wrong[0]
    elif None in (known.index, known.sample_index):
        yield unchecked("place", "which of the response's answers this is, is not known")
    else:
        yield passed("place")
    asked = known.params.seed if known.params is not None else None
    if receipt.seed_source is SeedSource.NONCES:
        made = seed_of(receipt.client_nonce, receipt.node_nonce, receipt.index)
        yield failed("seed", f"the request gave {asked}, the receipt's comes of nonces") if asked is not None else (
            agree("seed", "of both nonces", made, receipt.seed))
    elif known.params is None:
        yield unchecked("seed", "the receipt says that the request gave it; the request is not known")
    elif asked is None:
        yield failed("seed", "the receipt says that the request gave one, and it gave none")
    else:
        yield agree("seed", "of the request", asked & (2**64 - 1), receipt.seed)


def _words(disclosure: Disclosure, subject: Subject, known: Known) -> Iterator[Check]:
    receipt = disclosure.signed.receipt
    if receipt.profile.startswith(PREFIX):
        yield unchecked("model", "the node holds the weights in a form of its own")
    else:
        yield agree("model", "root of the weights", subject.model_root, receipt.model_root)
    yield agree("tokenizer", "tokenizer and template", subject.tokenizer, receipt.tokenizer)
    if known.prompt_ids is None:
        yield unchecked("prompt", "not known")
    else:
        yield agree("prompt", "hash of the ids", hash_ids("prompt", known.prompt_ids), receipt.prompt_hash)
    yield agree("sampler", "hash of the parameters", sampler_hash(disclosure.sampler), receipt.sampler_hash)
    yield _options(disclosure.sampler, known.params)
    yield agree("output", "hash of the ids", hash_ids("output", disclosure.output_ids), receipt.output_hash)


def _options(used: SamplingParams, asked: SamplingParams | None) -> Check:
    """Whether the answer was sampled as was asked."""
    if asked is None:
        return unchecked("options", "what the request asked for is not known; the receipt's are taken")
    mine = canonical(asked, used.max_tokens or 1)   # the limit is a check of its own
    wrong = next((name for name in FIELDS if getattr(mine, name) != getattr(used, name)), None)
    return passed("options") if wrong is None else (
        failed("options", f"{wrong}: the request has {getattr(mine, wrong)}, the receipt {getattr(used, wrong)}"))


def _counts(disclosure: Disclosure, known: Known) -> Iterator[Check]:
    receipt, count = disclosure.signed.receipt, len(disclosure.output_ids)
    prompt = receipt.prompt_tokens if known.prompt_ids is None else len(known.prompt_ids)
    if not count:
        yield failed("counts", "an answer has at least one token")
    elif receipt.cached_tokens > receipt.prompt_tokens:
        yield failed("counts", f"{receipt.cached_tokens} cached tokens of {receipt.prompt_tokens}")
    else:
        yield agree("counts", "prompt and completion tokens", (prompt, count),
                    (receipt.prompt_tokens, receipt.completion_tokens))
    yield unchecked("cached", f"that {receipt.cached_tokens} of the prompt's tokens were in the cache is the node's "
                    "word: a replay can not tell")


def _limit(disclosure: Disclosure, subject: Subject, asked: SamplingParams | None) -> Check:
    """Whether the answer could become as long as was asked for: what is held to one token ends rightly after it."""
    receipt, held = disclosure.signed.receipt, disclosure.sampler.max_tokens or 0
    if asked is None:
        return unchecked("limit", f"what the request asked for is not known; the answer was held to {held} tokens")
    if asked.max_tokens is not None and held == asked.max_tokens:
        return passed("limit")
    if receipt.limit_source is LimitSource.PAYMENT and held < (asked.max_tokens or held + 1):
        return passed("limit", f"the node says that what was paid for held the answer to {held} tokens; compare that "
                      f"with the payment: the request {_wish(asked)}")
    if asked.max_tokens is not None:
        return failed("limit", f"the request {_wish(asked)}, the receipt has {held}")
    room = subject.max_context - receipt.prompt_tokens
    if held == room:
        return passed("limit")
    if receipt.finish_reason is FinishReason.STOP:
        return passed("limit")   # the answer ended by itself, before any
    return failed("limit", f"the node held the answer to {held} tokens, and the request {_wish(asked)}; the context as "
                  f"the model was opened here has room for {room}: give --max-context "
                  f"{receipt.prompt_tokens + held} if that is the node's max_model_len in /v1/models")


def _wish(asked: SamplingParams) -> str:
    return "named no limit" if asked.max_tokens is None else f"asked for {asked.max_tokens}"
