"""What gives receipts: it draws seeds, follows answers as they are made, and signs what came out.

An answer that was cancelled or failed has none: a `Witness` certifies what ended by itself.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nearfield.core.request import Output, Request
from nearfield.core.types import FinishReason, RequestId, TokenId
from nearfield.proof.approximate import Sketcher, sketch_hash
from nearfield.proof.chain import ReceiptChain
from nearfield.proof.digest import DIGEST_SIZE, StateDigests, hash_ids, state_root
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.errors import ReceiptError
from nearfield.proof.keys import key_bytes
from nearfield.proof.nonces import NodeNonces, seed_of
from nearfield.proof.receipt import LimitSource, Receipt, SeedSource, Signer, sign
from nearfield.proof.sampler_spec import canonical, sampler_hash
from nearfield.proof.subject import SelfTest, Subject

KEPT_SECONDS = 1200.0
MAX_KEPT_BYTES = 64 << 20
"""Of token ids and digests, which are most of a receipt in memory."""
_SEED_MASK = 2**64 - 1


@dataclass(frozen=True)
class Nonces:
    """Those of one response."""

    client: bytes
    node: bytes


class Witness:
    """Follows the answers of one response: run `requests`, `add` what each makes, then have them certified.

    limit: what set their max_tokens. sketch: for approximate receipts (approximate.py).
    """

    def __init__(self, requests: Sequence[Request], nonces: Nonces, *, limit: LimitSource = LimitSource.REQUEST,
                 sketch: bool = False) -> None:
        self.nonces, self._limit = nonces, limit
        self._chosen = [request.params.seed is not None for request in requests]
        self.requests = tuple(_observed(request, nonces, index) for index, request in enumerate(requests))
        sketcher = Sketcher() if sketch else None
        self._answers = [_Answer(sketcher) for _ in requests]

    def add(self, index: int, output: Output) -> None:
        """What a step brought to answer `index`."""
        self._answers[index].add(output)

    def disclose(self, index: int, response_id: str, subject: Subject, chain: tuple[int, bytes], created: int,
                 signer: Signer) -> Disclosure:
        """The signed receipt of an answer that has ended, as the chain's next. Raises ReceiptError for another."""
        request, answer = self.requests[index], self._answers[index]
        last, states = answer.last, answer.states.all()
        if last is None or last.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            raise ReceiptError("an answer that has not ended has no receipt")
        limit = request.params.max_tokens or subject.max_context - len(request.prompt_ids)
        params = canonical(request.params, limit)
        receipt = Receipt(
            response_id=response_id, index=index, sample_index=request.sample_index, profile=subject.profile,
            model_root=subject.model_root, tokenizer=subject.tokenizer,
            prompt_hash=hash_ids("prompt", request.prompt_ids), sampler_hash=sampler_hash(params),
            output_hash=hash_ids("output", answer.ids), state_root=state_root(states),
            sketch=sketch_hash(bytes(answer.sketches)) if answer.sketches else bytes(DIGEST_SIZE),
            client_nonce=self.nonces.client, node_nonce=self.nonces.node, seed=(request.params.seed or 0) & _SEED_MASK,
            seed_source=SeedSource.REQUEST if self._chosen[index] else SeedSource.NONCES,
            limit_source=self._limit, prompt_tokens=last.prompt_tokens, cached_tokens=last.cached_tokens,
            completion_tokens=last.completion_tokens, finish_reason=last.finish_reason, number=chain[0] + 1,
            previous=chain[1], created=created, public_key=key_bytes(signer.public_key))
        return Disclosure(sign(receipt, signer), params, tuple(answer.ids), states, bytes(answer.sketches))


class Notary:
    """Gives receipts for one engine under one key, and keeps them for a while. Any thread may call it."""

    def __init__(self, subject: Subject, signer: Signer, chain: ReceiptChain, selftest: SelfTest, *,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.subject, self.nonces, self.selftest = subject, NodeNonces(clock=clock), selftest
        self._signer, self._chain = signer, chain
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_bytes = 0

    def witness(self, requests: Sequence[Request], client_nonce: bytes, node_nonce: bytes | None = None, *,
                limit: LimitSource = LimitSource.REQUEST) -> Witness:
        """A witness for `requests`. node_nonce: one that was handed out before; None draws it now. limit: what set
        their max_tokens."""
        nonces = Nonces(client_nonce, node_nonce or secrets.token_bytes(DIGEST_SIZE))
        return Witness(requests, nonces, limit=limit, sketch=self.subject.approximate)

    def certify(self, witness: Witness, response_id: RequestId, created: int, tenant: str = "") -> list[Disclosure]:
        """The receipts of all answers of a response, on the disk's chain and kept for `find`. created: when its
        request was taken in, in Unix seconds.

        Raises ReceiptError unless all have ended, OSError where the chain can not be written.
        """
        made: list[Disclosure] = []
        with self._lock:
            for index in range(len(witness.requests)):
                end = self._chain.number, self._chain.last
                one = witness.disclose(index, response_id, self.subject, end, created, self._signer)
                self._chain.advance(one.signed.receipt.digest())
                made.append(one)
            self._keep(response_id, _Kept(tuple(made), tenant, self._clock() + KEPT_SECONDS))
        return made

    def find(self, response_id: RequestId, tenant: str = "") -> tuple[Disclosure, ...] | None:
        """The receipts of a response that this tenant got; None when there are none, or no longer."""
        with self._lock:
            self._sweep()
            kept = self._kept.get(response_id)
        return kept.receipts if kept is not None and kept.tenant == tenant else None

    def close(self) -> None:
        """Let another process have the chain."""
        self._chain.close()

    def _keep(self, response_id: RequestId, kept: "_Kept") -> None:
        self._kept[response_id] = kept
        self._kept_bytes += kept.size
        self._sweep()

    def _sweep(self) -> None:
        """Drop what has expired, and the oldest beyond the memory for receipts."""
        now = self._clock()
        while self._kept and (self._kept_bytes > MAX_KEPT_BYTES or next(iter(self._kept.values())).expires < now):
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.size


class _Answer:
    """What a receipt needs of an answer as it grows."""

    def __init__(self, sketcher: Sketcher | None) -> None:
        self.ids: list[TokenId] = []
        self.states = StateDigests()
        self.sketches = bytearray()
        self._sketcher = sketcher
        self.last: Output | None = None

    def add(self, output: Output) -> None:
        self.ids.extend(output.token_ids)
        if output.hidden is not None:
            self.states.add(output.hidden)
            if self._sketcher is not None:
                self.sketches += self._sketcher(output.hidden)
        self.last = replace(output, hidden=None)


@dataclass(frozen=True)
class _Kept:
    receipts: tuple[Disclosure, ...]
    tenant: str
    expires: float

    @property
    def size(self) -> int:
        """Bytes in memory, about: an id takes 8 in its tuple, and 32 of its own."""
        return sum(1024 + 40 * len(one.output_ids) + 96 * len(one.state_digests) + len(one.sketches)
                   for one in self.receipts)


def _observed(request: Request, nonces: Nonces, index: int) -> Request:
    """The request with its seed, observed."""
    seed = request.params.seed
    if seed is None:
        seed = seed_of(nonces.client, nonces.node, index)
    return replace(request, params=replace(request.params, seed=seed), observe=True)
