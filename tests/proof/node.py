"""A node in the test's own process, without HTTP: it answers, honestly or as a test makes it, and gives receipts."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfield.core.config import EngineConfig
from nearfield.core.request import Request, SamplingParams
from nearfield.engine.build import Loaded, load_engine
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.model_root import subject_of
from nearfield.proof.notary import Witness
from nearfield.proof.report import Outcome, Report
from nearfield.proof.subject import Subject
from nearfield.proof.verify import Known, verify
from tests.proof.signer import NodeKey

Ids = tuple[int, ...]
Step = Callable[["Node", Request], None]

PROMPTS = ("Once upon a time there was", "The cat sat on the mat and", "Tell me about the sea.", "Tom and his friend",
           "One day a little girl named Lily found", "A short letter to my teacher:", "What is in the box?",
           "The dog ran away because")
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
        self.subject = subject_of(loaded)
        self.says = says or self.subject

    def encode(self, text: str) -> Ids:
        assert self.loaded.tokenizer is not None
        return tuple(self.loaded.tokenizer.encode(text))

    def answer(self, prompts: Sequence[Ids], params: SamplingParams = SAMPLED, *, n: int = 1,
               before: Callable[[Request], Request] = lambda request: request) -> list[Given]:
        """The answers of one response, all at once. `before`: what the engine is asked to do in place of a request."""
        asked = tuple(Request(f"r{p}-{k}", prompt, params, sample_index=k)
                      for p, prompt in enumerate(prompts) for k in range(n))
        return self.finish(asked, Witness(asked, nonces()), before)

    def finish(self, asked: Sequence[Request], witness: Witness,
               before: Callable[[Request], Request] = lambda request: request) -> list[Given]:
        """Run what the witness observes and disclose it."""
        engine, texts = self.loaded.engine, [""] * len(asked)
        places = {request.request_id: i for i, request in enumerate(witness.requests)}
        for request in witness.requests:
            engine.add(before(request))
        while engine.has_work:
            for output in engine.step():
                engine.check()
                witness.add(places[output.request_id], output)
                texts[places[output.request_id]] += output.text
        made, number, previous = [], 0, bytes(32)
        for i, request in enumerate(asked):
            one = witness.disclose(i, "cmpl-1", self.says, (number, previous), 1_800_000_000, self.key)
            number, previous = number + 1, one.signed.receipt.digest()
            known = Known(request.prompt_ids, request.params, "cmpl-1", i, request.sample_index,
                          witness.nonces.client, witness.nonces.node, self.key.public_key, texts[i],
                          (len(request.prompt_ids), len(one.output_ids)))
            made.append(Given(one, known, texts[i]))
        return made


def nonces() -> Any:
    from nearfield.proof.notary import Nonces

    return Nonces(secrets.token_bytes(32), secrets.token_bytes(32))


def open_node(folder: Path | None = None, *, says: Subject | None = None, **options: Any) -> Node:
    """A node of the pocket model, or of `folder`."""
    return Node(load_engine(folder, EngineConfig(**{"dtype": "fp32", "kv_memory": 32 << 20, **options})), says)


def check(verifier: Node, given: Given) -> Report:
    """The report on an answer, by a verifier with a model of its own."""
    return verify(given.disclosure, verifier.loaded, verifier.subject, given.known)


def reason(report: Report, name: str) -> str:
    """Why the check `name` failed; it must have."""
    found = [one for one in report.checks if one.name == name]
    assert found and found[-1].outcome is Outcome.FAIL, report.lines()
    return found[-1].reason
