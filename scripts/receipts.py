"""What receipts cost and what they are worth: overhead in decoding, replay beside serving, and honest runs compared.

    python scripts/receipts.py cost [MODEL] [--weights w8] [--random-weights]   # one line of JSON
    python scripts/receipts.py honest                                           # one line for each way to store

cost: decoding with and without receipts takes turns (A B A B), each turn over the same prompts; an answer at batch 1
is served, its prompt not cached, and then replayed. Medians.
honest: answers of the pocket model, made in many ways (instruction set, threads, requests at once, tokens of a step,
prefix cache) and verified in as many: counts of tokens and of what differed, which must be 0.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from nearfield.bench.workload import Prompts, Subject, header
from nearfield.core.config import WEIGHTS, EngineConfig
from nearfield.core.request import Request, SamplingParams
from nearfield.engine.build import Loaded, load_engine
from nearfield.kernels import cpu
from nearfield.proof.claims import Known
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.model_root import subject_of
from nearfield.proof.notary import Nonces, Witness
from nearfield.proof.receipt import Signer
from nearfield.proof.subject import Subject as Facts
from nearfield.proof.verify import verify

ROOT = Path(__file__).resolve().parent.parent
SAMPLED = SamplingParams(max_tokens=None, temperature=0.8, top_p=0.95, ignore_eos=True)
ROUNDS = 6
PROMPTS = ("Once upon a time there was", "The cat sat on the mat and", "Tell me about the sea.", "Tom and his friend",
           "One day a little girl found", "A short letter to my teacher:", "What is in the box?", "The dog ran away")
WAYS: tuple[dict[str, Any], ...] = (
    {"threads": 1, "max_seqs": 8, "max_step_tokens": 4096}, {"threads": 2, "max_seqs": 3, "max_step_tokens": 64,
                                                             "prefix_cache": False},
    {"threads": 4, "max_seqs": 16, "max_step_tokens": 16}, {"threads": 2, "max_seqs": 1, "prefix_cache": False})
STORED: tuple[dict[str, Any], ...] = ({"weights": "w8"}, {"weights": "w4", "group": 32}, {"dtype": "fp32"}, {})


class Key:
    """A node's key of this run."""

    def __init__(self) -> None:
        from base58 import b58encode
        from nacl.signing import SigningKey

        self._key = SigningKey.generate()
        self.public_key = "ed25519:" + b58encode(bytes(self._key.verify_key)).decode()

    def sign(self, message: bytes) -> bytes:
        return bytes(self._key.sign(message).signature)


def serve(loaded: Loaded, prompts: Sequence[tuple[int, ...]], params: SamplingParams) -> Witness:
    """Answer all of `prompts` at once under a witness."""
    requests = [Request(f"r{i}", prompt, params) for i, prompt in enumerate(prompts)]
    witness = Witness(requests, Nonces(b"c" * 32, b"n" * 32))
    places = {request.request_id: i for i, request in enumerate(requests)}
    for request in witness.requests:
        loaded.engine.add(request)
    while loaded.engine.has_work:
        for output in loaded.engine.step():
            witness.add(places[output.request_id], output)
    return witness


def disclosed(witness: Witness, facts: Facts, key: Signer) -> Iterator[tuple[Disclosure, Known]]:
    """The receipts, and what a client knows of each."""
    for i, request in enumerate(witness.requests):
        made = witness.disclose(i, "run", facts, (i, bytes(32)), int(time.time()), key)
        yield made, Known(request.prompt_ids, replace(request.params, seed=None), "run", i, 0, b"c" * 32, b"n" * 32)


def step_seconds(loaded: Loaded, prompts: Sequence[tuple[int, ...]], steps: int, *, observe: bool) -> float:
    """Mean seconds of a decode step of all prompts, receipts included or not."""
    requests = [Request(f"r{i}", prompt, replace(SAMPLED, seed=i)) for i, prompt in enumerate(prompts)]
    witness = Witness(requests, Nonces(b"c" * 32, b"n" * 32))
    for request in witness.requests:
        loaded.engine.add(replace(request, observe=observe))
    waiting = set(places := {request.request_id: i for i, request in enumerate(requests)})
    while waiting:
        waiting -= {output.request_id for output in loaded.engine.step() if output.token_ids}
    start = time.perf_counter()
    for _ in range(steps):
        for output in loaded.engine.step():
            if observe:
                witness.add(places[output.request_id], output)
    taken = time.perf_counter() - start
    for request in requests:
        loaded.engine.cancel(request.request_id)
    return taken / steps


def cost(subject: Subject, prompt: int, output: int, batches: Sequence[int]) -> dict[str, Any]:
    """Overhead at each batch size, and replay beside serving at batch 1."""
    steps = max(8, output // 4)
    loaded, load_s = subject.load(max(batches), prompt + output + 64 + max(batches) * (prompt // 256 + 2))
    ids = Prompts(loaded.spec.vocab_size)
    begin = time.perf_counter()
    facts = subject_of(loaded)
    result = {**header("receipts cost", loaded, subject, load_s), "profile": facts.profile,
              "model_root_s": round(time.perf_counter() - begin, 3), "prompt": prompt, "output": output}
    rows = []
    for batch in batches:
        prompts = [ids.ids(prompt) for _ in range(batch)]
        pairs = [(step_seconds(loaded, prompts, steps, observe=False), step_seconds(loaded, prompts, steps,
                                                                                    observe=True))
                 for _ in range(ROUNDS)]
        plain, observed = (median(column) for column in zip(*pairs, strict=True))
        rows.append({"batch": batch, "step_ms": round(1e3 * plain, 3), "with_receipts_ms": round(1e3 * observed, 3),
                     "overhead": round(median(b / a for a, b in pairs) - 1, 4)})
    times = [replay_times(loaded, facts, ids.ids(prompt), output) for _ in range(ROUNDS)]
    served, replayed = (median(column) for column in zip(*times, strict=True))
    return {**result, "decode": rows, "serve_s": round(served, 4), "replay_s": round(replayed, 4),
            "replay_share": round(median(b / a for a, b in times), 4)}


def replay_times(loaded: Loaded, facts: Facts, prompt: tuple[int, ...], output: int) -> tuple[float, float]:
    """Seconds to serve one answer, and to verify its receipt."""
    begin = time.perf_counter()
    witness = serve(loaded, [prompt], replace(SAMPLED, max_tokens=output))
    served = time.perf_counter()
    [(made, known)] = disclosed(witness, facts, Key())
    between = time.perf_counter()
    report = verify(made, loaded, facts, known)
    replayed = time.perf_counter()
    if not report.verified:
        raise SystemExit("receipts: an honest answer did not verify: " + "; ".join(report.lines()))
    return served - begin, replayed - between


def honest(stored: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Every way of serving against every way of verifying; dense bf16 is bound to the processor's own instruction."""
    isas = [isa for isa in cpu.supported() if isa != "scalar" and (stored or isa == cpu.supported()[0])]
    nodes = [load_engine(None, EngineConfig(**{"kv_memory": 64 << 20, "isa": isa, **way, **stored}))
             for isa, way in product(isas, WAYS)]
    facts = [subject_of(node) for node in nodes]
    compared, differed, answers = 0, 0, 0
    for number, (node, said) in enumerate(zip(nodes, facts, strict=True)):
        prompts = [tuple(node.tokenizer.encode(text)) for text in PROMPTS] if node.tokenizer else []
        params = replace(SAMPLED, max_tokens=tokens // (len(prompts) or 1))
        for made, known in disclosed(serve(node, prompts, params), said, Key()):
            for other in (number - 1, number - len(WAYS), number - 2):   # another way, instruction set, both
                report = verify(made, nodes[other], facts[other], known)
                compared += len(made.output_ids)
                differed += not report.verified
            answers += 1
    return {"kind": "receipts honest", "model": "pocket", "dtype": "bf16", **stored, "profile": facts[0].profile,
            "isas": isas, "ways": len(nodes), "answers": answers, "tokens_compared": compared,
            "answers_that_differed": differed}


def context() -> dict[str, str]:
    """What a result is to be read with: the commit, the day, the processor."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, check=True, capture_output=True,
                            text=True).stdout.strip()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"commit": commit, "day": date.today().isoformat(), "processor": next(iter(names), platform.machine())}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    first, second = commands.add_parser("cost"), commands.add_parser("honest")
    first.add_argument("model", nargs="?", help="a model's folder (default: the pocket model)")
    first.add_argument("--weights", choices=WEIGHTS)
    first.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"))
    first.add_argument("--threads", type=int)
    first.add_argument("--random-weights", action="store_true")
    first.add_argument("--prompt", type=int, default=512)
    first.add_argument("--output", type=int, default=128)
    first.add_argument("--batch", type=lambda text: [int(one) for one in text.split(",")], default=[1, 8])
    second.add_argument("--tokens", type=int, default=1600, help="of each way, over all answers (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.what == "honest":
        for stored in STORED:
            print(json.dumps({**honest(stored, args.tokens), **context()}), flush=True)
        return 0
    options = {"dtype": args.dtype, "weights": args.weights, "threads": args.threads}
    subject = Subject(args.model, options, args.random_weights)
    print(json.dumps({**cost(subject, args.prompt, args.output, args.batch), **context()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
