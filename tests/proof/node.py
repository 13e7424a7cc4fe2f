"""A node in the test's own process, without HTTP: it answers, honestly or as a test makes it, and gives receipts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from nearfield.core.config import EngineConfig
from nearfield.core.request import Output, Request, SamplingParams
from nearfield.engine.build import Loaded, load_engine
from nearfield.proof.claims import Known
from nearfield.proof.digest import digests_of, hash_ids, state_root
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.model_root import subject_of
from nearfield.proof.notary import Nonces, Witness
from nearfield.proof.receipt import sign
from nearfield.proof.replay import Answer
from nearfield.proof.report import Outcome, Report
from nearfield.proof.subject import Subject
from nearfield.proof.verify import verify
from tests.proof.signer import NodeKey

Ids = tuple[int, ...]
Ask = Callable[[Request], Request]
Tell = Callable[[Request, Output], Output]

PROMPTS = ("Once upon a time there was", "The cat sat on the mat and", "Tell me about the sea.", "Tom and his friend",
           "One day a little girl named Lily found", "A short letter to my teacher:", "What is in the box?",
           "The dog ran away because")
CREATED = 1_800_000_000
SAMPLED = SamplingParams(max_tokens=40, temperature=0.9, top_p=0.95, ignore_eos=True)


@dataclass(frozen=True)
class Given:
    """An answer with its receipt, and what its client knows of it."""

    disclosure: Disclosure
    known: Known
    text: str


class Node:
    """An engine and a key. `says`: what its receipts say of the model, which a cheat may choose."""

    def __init__(self, loaded: Loaded, says: Subject | None = None, key: NodeKey | None = None) -> None:
        self.loaded, self.key = loaded, key or NodeKey()
        self.subject = subject_of(loaded, approximate=True)
        self.says = says or self.subject

    def encode(self, text: str) -> Ids:
        assert self.loaded.tokenizer is not None
        return tuple(self.loaded.tokenizer.encode(text))

    def answer(self, prompts: Sequence[Ids], params: SamplingParams = SAMPLED, *, n: int = 1, luck: int = 0,
               ask: Ask = lambda request: request, tell: Tell = lambda request, output: output) -> list[Given]:
        """The answers of one response, all at once. A cheat `ask`s the engine for something else than the request,
        and `tell`s the witness something else than the output. `luck` draws the nonces: the same ones again."""
        asked = tuple(Request(f"r{p}-{k}", prompt, params, sample_index=k)
                      for p, prompt in enumerate(prompts) for k in range(n))
        return self.finish(asked, Witness(asked, nonces(luck), sketch=self.says.approximate), ask, tell)

    def finish(self, asked: Sequence[Request], witness: Witness,
               ask: Ask = lambda request: request, tell: Tell = lambda request, output: output) -> list[Given]:
        """Run what the witness observes and disclose it."""
        engine, texts = self.loaded.engine, [""] * len(asked)
        places = {request.request_id: i for i, request in enumerate(witness.requests)}
        for request in witness.requests:
            engine.add(ask(request))
        while engine.has_work:
            for output in engine.step():
                at = places[output.request_id]
                witness.add(at, tell(asked[at], output))
                texts[at] += output.text
        engine.check()
        made, number, previous = [], 0, bytes(32)
        for i, request in enumerate(asked):
            one = witness.disclose(i, "cmpl-1", self.says, (number, previous), CREATED, self.key)
            number, previous = number + 1, one.signed.receipt.digest()
            known = Known(request.prompt_ids, request.params, "cmpl-1", i, request.sample_index,
                          witness.nonces.client, witness.nonces.node, self.key.public_key, texts[i],
                          (CREATED - 1, CREATED + 1))
            made.append(Given(one, known, texts[i]))
        return made


def nonces(luck: int) -> Nonces:
    """Those of a number, so that what is rare happens in every run or in none."""
    return Nonces(sha256(b"client %d" % luck).digest(), sha256(b"node %d" % luck).digest())


def open_node(folder: Path | None = None, *, says: Subject | None = None, **options: Any) -> Node:
    """A node of the pocket model, or of `folder`; on one thread, since a model so small has no work for two."""
    config = EngineConfig(**{"dtype": "fp32", "kv_memory": 32 << 20, "threads": 1, **options})
    return Node(load_engine(folder, config), says)


def check(verifier: Node, given: Given) -> Report:
    """The report on an answer, by a verifier with a model of its own."""
    return verify(given.disclosure, verifier.loaded, verifier.subject, given.known)


def reason(report: Report, name: str) -> str:
    """Why the check `name` failed; it must have."""
    found = [one for one in report.checks if one.name == name]
    assert found and found[-1].outcome is Outcome.FAIL, report.lines()
    return found[-1].reason


def prompts(node: Node, count: int = len(PROMPTS)) -> list[Ids]:
    """The first prompts, as the node reads them."""
    return [node.encode(text) for text in PROMPTS[:count]]


def resigned(given: Given, **changes: Any) -> Given:
    """The answer with another receipt, which its node signs too: a node can sign what it likes."""
    one = given.disclosure
    fields = {name: changes.pop(name) for name in ("output_ids", "state_digests", "sampler") if name in changes}
    receipt = replace(one.signed.receipt, **changes)
    return replace(given, disclosure=replace(one, signed=sign(receipt, NodeKey()), **fields))


def forged(given: Given, ids: Sequence[int], states: Sequence[bytes], **changes: Any) -> Given:
    """The answer with other tokens and states, everything that is derived from them right."""
    digests = digests_of(states)
    return resigned(given, output_ids=tuple(ids), state_digests=digests, state_root=state_root(digests),
                    output_hash=hash_ids("output", ids), completion_tokens=len(ids), **changes)


def answer_of(given: Given) -> Answer:
    """What replay computes of an answer."""
    receipt, known = given.disclosure.signed.receipt, given.known
    assert known.prompt_ids is not None
    return Answer(known.prompt_ids, given.disclosure.output_ids, given.disclosure.sampler, receipt.seed,
                  receipt.sample_index)


def states_alone_pass(verifier: Node, given: Given) -> bool:
    """Whether a verifier that looks at activations only would be content."""
    report = check(verifier, given)
    return [one.outcome for one in report.checks if one.name == "states"] == [Outcome.PASS]
