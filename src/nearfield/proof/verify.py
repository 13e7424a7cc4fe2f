"""Verifying a receipt: what it says against what its holder knows, then against the answer computed again.

Zero tolerance: one bit of one state, or one token, is a failure; of approximate receipts alone (approximate.py) states
and tokens are compared with one. What can not be said, for want of something that
only the client knows, is said to be unchecked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from nearfield.core.request import Output
from nearfield.core.types import TokenId
from nearfield.engine.answer import AnswerRules
from nearfield.engine.build import Loaded
from nearfield.engine.text import TextStream
from nearfield.proof.approximate import MAX_DISTANCE, PREFIX, Sketcher, agrees, distance, sketch_hash
from nearfield.proof.claims import Known, claims
from nearfield.proof.difference import difference
from nearfield.proof.digest import STATES_PER_DIGEST, digests_of, state_root
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.errors import ReceiptError
from nearfield.proof.receipt import Receipt
from nearfield.proof.replay import Answer, Replayed, replay
from nearfield.proof.report import Check, Outcome, Report, agree, failed, passed, unchecked
from nearfield.proof.subject import Subject


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
    checks = [*claims(disclosure, subject, known)]
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

