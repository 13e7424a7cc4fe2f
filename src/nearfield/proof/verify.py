"""Verifying a receipt: what it says against what its holder knows, then against the answer computed again.

Zero tolerance: one bit of one state, or one token, is a failure; of approximate receipts alone (approximate.py) states
and tokens are compared with one. What can not be said, for want of something that
only the client knows, is said to be unchecked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from nearfield.core.request import Output, SamplingParams
from nearfield.core.types import FinishReason, TokenId
from nearfield.engine.answer import AnswerRules
from nearfield.engine.build import Loaded
from nearfield.engine.text import TextStream
from nearfield.proof.approximate import MAX_DISTANCE, PREFIX, Sketcher, agrees, distance, sketch_hash
from nearfield.proof.difference import difference
from nearfield.proof.digest import STATES_PER_DIGEST, digests_of, hash_ids, state_root
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.errors import ReceiptError
from nearfield.proof.keys import key_bytes, key_text, verify_signature
from nearfield.proof.nonces import seed_of
from nearfield.proof.receipt import LimitSource, Receipt, SeedSource
from nearfield.proof.replay import Answer, Replayed, replay
from nearfield.proof.report import Check, Outcome, Report, agree, failed, passed, unchecked
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


def verify(disclosure: Disclosure, loaded: Loaded, subject: Subject, known: Known, *,
           allow_approximate: bool = False) -> Report:
    """Check a receipt against the model in `loaded`, whose facts are `subject` (model_root.subject_of).

    Raises ReceiptError where this machine, or the model as it was opened, can not repeat the arithmetic, and for an
    approximate receipt that is not allowed: a node must not choose by itself to be checked less.
    """
    receipt = disclosure.signed.receipt
    approximate = receipt.profile.startswith(PREFIX)
    if approximate and not allow_approximate:
        raise ReceiptError(f"the receipt is of {receipt.profile}: it promises no bits; allow it with --approximate")
    if not approximate and receipt.profile != subject.profile:
        raise ReceiptError(f"the receipt is of profile {receipt.profile}; the model as it was opened here computes "
                           f"{subject.profile}: give the dtype and weights of the receipt, on a machine that has them")
    checks = [*_origin(disclosure, known), *_seed(receipt, known), *_words(disclosure, subject, known),
              *_counts(disclosure, subject, known)]
    if known.prompt_ids is None:
        why = "the prompt is not known: give it to compute the answer again"
    elif any(check.outcome is Outcome.FAIL and check.name in ("model", "prompt", "sampler", "output", "counts")
             for check in checks):
        why = "the answer is not computed again, since it is not the one that the receipt is of"
    else:
        _require_room(disclosure, known.prompt_ids, subject)
        again, outputs = _replayed(disclosure, loaded, known, known.prompt_ids)
        return Report((*checks, *again), approximate, outputs)
    return Report((*checks, *(unchecked(name, why) for name in ("states", "tokens", "finish"))), approximate)


def chain_fault(receipts: Sequence[Receipt]) -> str | None:
    """What is wrong with receipts of one node in the order of their numbers; None where nothing is.

    Numbers may be missing: those are other clients'. Two receipts of one number tell of a node with two chains.
    """
    for before, after in zip(receipts, receipts[1:], strict=False):
        if before.public_key != after.public_key:
            return f"receipts {before.number} and {after.number} are of different keys"
        if after.number <= before.number:
            return f"receipt {after.number} comes after receipt {before.number}"
        if after.number == before.number + 1 and after.previous != before.digest():
            return f"receipt {after.number} does not name receipt {before.number} as the one before it"
    return None


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


def _counts(disclosure: Disclosure, subject: Subject, known: Known) -> Iterator[Check]:
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
    yield _limit(disclosure, subject, known.params)


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


def _require_room(disclosure: Disclosure, prompt_ids: Sequence[TokenId], subject: Subject) -> None:
    needed = len(prompt_ids) + len(disclosure.output_ids)
    if not prompt_ids or needed > subject.max_context:
        raise ReceiptError(f"prompt and answer have {needed} tokens, and the model as it was opened takes 1 to "
                           f"{subject.max_context}; give it more with --kv-memory")


def _replayed(disclosure: Disclosure, loaded: Loaded, known: Known,
              prompt_ids: tuple[TokenId, ...]) -> tuple[list[Check], tuple[Output, ...]]:
    """The checks against the answer computed again, and what an engine hands out of its tokens."""
    used, vocab = disclosure.sampler, loaded.engine.vocab_size
    for name, ids in (("prompt", prompt_ids), ("output", disclosure.output_ids),
                      ("sampler", (*used.stop_token_ids, *used.logit_bias))):
        if any(not 0 <= token < vocab for token in ids):
            return [failed(name, f"a token id is outside the vocabulary of {vocab}")], ()
    receipt = disclosure.signed.receipt
    params = replace(used, logprobs=known.params.logprobs if known.params is not None else None)
    again = replay(loaded, Answer(prompt_ids, disclosure.output_ids, params, receipt.seed, receipt.sample_index))
    if receipt.profile.startswith(PREFIX):
        checks = [*_resembling(disclosure, again)]
    else:
        checks = [_states(disclosure, again), _tokens(disclosure.output_ids, again.tokens)]
    finish, outputs = _finish(disclosure, loaded, prompt_ids, again)
    if known.text is not None:
        found = difference("".join(output.text for output in outputs), known.text, "the text")
        checks.append(passed("text") if found is None else failed("text", found))
    return [*checks, finish], outputs


def _states(disclosure: Disclosure, again: Replayed) -> Check:
    told, made = disclosure.state_digests, digests_of(again.states)
    if state_root(told) != disclosure.signed.receipt.state_root:
        return failed("states", "the digests are not those of the receipt's root")
    if len(told) != len(made):
        return failed("states", f"{len(made)} digests are right, the receipt has {len(told)}")
    wrong = [i for i, (mine, theirs) in enumerate(zip(made, told, strict=True)) if mine != theirs]
    if not wrong:
        return passed("states")
    last = min((wrong[0] + 1) * STATES_PER_DIGEST, len(again.states)) - 1
    return failed("states", f"tokens {wrong[0] * STATES_PER_DIGEST} to {last}: were computed otherwise; "
                  f"{len(wrong)} of {len(made)} digests differ")


def _tokens(told: Sequence[TokenId], made: Sequence[TokenId | None]) -> Check:
    wrong = [i for i, (mine, theirs) in enumerate(zip(made, told, strict=True)) if mine != theirs]
    if not wrong:
        return passed("tokens")
    first, right = wrong[0], made[wrong[0]]
    return failed("tokens", f"token {first}: expected {'none' if right is None else right}, receipt has {told[first]}; "
                  f"{len(wrong)} of {len(made)} differ")


def _resembling(disclosure: Disclosure, again: Replayed) -> Iterator[Check]:
    """The checks of states and tokens with a tolerance."""
    sketcher, told = Sketcher(), disclosure.sketches
    apart = distance(b"".join(map(sketcher, again.states)), told)
    if sketch_hash(told) != disclosure.signed.receipt.sketch:
        yield failed("states", "the sketches are not those of the receipt")
    elif apart > MAX_DISTANCE:
        yield failed("states", f"approximate: {apart:.4f} apart in the median, at most {MAX_DISTANCE} is honest")
    else:
        yield Check("states", Outcome.PASS, f"approximate: {apart:.4f} apart in the median")
    differ, honest = agrees(again.tokens, disclosure.output_ids)
    yield Check("tokens", Outcome.PASS if honest else Outcome.FAIL,
                f"approximate: {differ} of {len(again.tokens)} tokens would be chosen otherwise")


def _finish(disclosure: Disclosure, loaded: Loaded, prompt_ids: Sequence[TokenId],
            again: Replayed) -> tuple[Check, tuple[Output, ...]]:
    """Whether the answer ends where and as it should, and what an engine hands out until there."""
    used, ids, receipt = disclosure.sampler, disclosure.output_ids, disclosure.signed.receipt
    words = None if loaded.tokenizer is None else TextStream(loaded.tokenizer, used, after=prompt_ids[-1])
    rules = AnswerRules(used, loaded.engine.eos_ids, used.max_tokens or len(ids), words)
    outputs: list[Output] = []
    for place, (token, logprob) in enumerate(zip(ids, again.logprobs, strict=True)):
        taken = rules.take(token)
        outputs.append(Output(
            "replay", (token,), taken.text, () if logprob is None else (logprob,), taken.reason, len(prompt_ids),
            receipt.cached_tokens, place + 1, stop_text=taken.stop_text))
        if taken.reason is not None and place + 1 < len(ids):
            return failed("finish", f"token {place} ends the answer ({taken.reason}), and {len(ids) - place - 1} more "
                          "follow"), tuple(outputs)
    ended, told = outputs[-1].finish_reason, receipt.finish_reason
    if ended is None:
        return failed("finish", f"the receipt says {told}, and the answer goes on after token {len(ids) - 1}"), (
            tuple(outputs))
    return agree("finish", "reason", ended, told), tuple(outputs)

