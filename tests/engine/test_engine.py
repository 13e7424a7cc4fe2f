"""The engine on the pocket model in fp32: what a request gets does not depend on its neighbours, on
chunks, on the cache or on being set back; and each parameter does what it says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from nearfield.cache.store import DenseKV
from nearfield.core.config import EngineConfig
from nearfield.core.errors import ConfigError, ContextLengthError, InvalidRequestError, QueueFullError
from nearfield.core.request import Output, Request, SamplingParams
from nearfield.core.types import FinishReason
from nearfield.engine.build import Loaded, load_engine
from nearfield.engine.engine import Engine
from nearfield.kernels.ops import KVShape
from nearfield.models.decoder import Decoder

GREEDY = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, logprobs=5)
SEEDED = replace(GREEDY, temperature=0.9, top_p=0.95, seed=11)
KINDS = {"greedy": GREEDY, "seeded": SEEDED}
PAGE = 16


def make(pocket: Path, **options: Any) -> Loaded:
    config = {"dtype": "fp32", "kv_memory": 64 << 20, "max_seqs": 16, "max_step_tokens": 128, **options}
    return load_engine(pocket, EngineConfig(**config))


def prompt(seed: int, length: int = 70) -> tuple[int, ...]:
    ids: list[int] = torch.randint(10, 1000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return tuple(ids)


def run(engine: Engine, requests: Sequence[Request], limit: int = 5000) -> dict[str, list[Output]]:
    """Everything that each request got; the invariants are proved after every step."""
    outputs: dict[str, list[Output]] = {r.request_id: [] for r in requests}
    for request in requests:
        engine.add(request)
    for _ in range(limit):
        if not engine.has_work:
            return outputs
        for output in engine.step():
            outputs[output.request_id].append(output)
        engine.check()
    raise AssertionError(f"requests are left after {limit} steps")


def tokens(outputs: Sequence[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def text(outputs: Sequence[Output]) -> str:
    return "".join(output.text for output in outputs)


def logits_of(outputs: Sequence[Output]) -> list[tuple[float, ...]]:
    return [(entry.logprob, *(value for _, value in entry.top)) for o in outputs for entry in o.logprobs]


def same(a: Sequence[Output], b: Sequence[Output]) -> None:
    """The same tokens, and log-probabilities within 1e-4."""
    assert tokens(a) == tokens(b)
    assert text(a) == text(b)
    difference = torch.tensor(logits_of(a)) - torch.tensor(logits_of(b))
    assert difference.abs().max() <= 1e-4


@pytest.fixture(scope="module")
def alone(pocket: Path) -> dict[tuple[str, int], list[Output]]:
    """Each of 16 prompts by itself, in an engine without a prefix cache, unchunked: the twin of all below."""
    engine = make(pocket, prefix_cache=False, max_step_tokens=512).engine
    return {(kind, i): run(engine, [Request("r", prompt(i), params)])["r"]
            for kind, params in KINDS.items() for i in range(16)}


VARIANTS: dict[str, dict[str, Any]] = {
    "batch of 16": {}, "no prefix cache": {"prefix_cache": False}, "chunks of 7": {"max_step_tokens": 7},
    "chunks of 33, batch of 5": {"max_step_tokens": 33, "max_seqs": 5},
    "preempted": {"kv_memory": 20 * 98304},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_neighbours_chunks_cache_and_preemption_change_nothing(
        variant: str, kind: str, pocket: Path, alone: dict[tuple[str, int], list[Output]]) -> None:
    engine = make(pocket, **VARIANTS[variant]).engine
    requests = [Request(str(i), prompt(i), KINDS[kind]) for i in range(16)]
    outputs = run(engine, requests)
    for i in range(16):
        same(outputs[str(i)], alone[kind, i])
    if variant == "preempted":
        assert engine.stats().preemptions > 0
    if variant == "batch of 16":
        assert engine.stats().max_batch == 16
        again = run(engine, requests)                      # now the whole pages of each prompt are cached
        for i in range(16):
            same(again[str(i)], alone[kind, i])
            assert again[str(i)][-1].cached_tokens == 70 // PAGE * PAGE


def test_greedy_equals_transformers_for_64_tokens(pocket: Path) -> None:
    loaded = make(pocket)
    reference: Any = transformers.AutoModelForCausalLM.from_pretrained(pocket, dtype=torch.float32)
    prompts = [prompt(100 + i, 5 + 4 * i) for i in range(20)]
    params = replace(GREEDY, max_tokens=64, logprobs=None)
    got = run(loaded.engine, [Request(str(i), p, params) for i, p in enumerate(prompts)])
    for i, ids in enumerate(prompts):
        with torch.inference_mode():
            want = reference.generate(torch.tensor([ids]), max_new_tokens=64, min_new_tokens=64,
                                      do_sample=False, eos_token_id=None, pad_token_id=0)
        assert tokens(got[str(i)]) == want[0, len(ids):].tolist()


def test_sixteen_requests_compute_a_shared_prefix_once(pocket: Path) -> None:
    engine = make(pocket, max_step_tokens=512).engine
    shared = prompt(1, 1024)
    requests = [Request(str(i), shared + prompt(50 + i, 64), replace(GREEDY, max_tokens=4)) for i in range(16)]
    outputs = run(engine, requests)
    assert sorted(o[-1].cached_tokens for o in outputs.values()) == [0] + [1024] * 15
    assert engine.stats().cached_tokens == 15 * 1024


def test_the_next_turn_of_a_chat_finds_the_last_one_cached(pocket: Path) -> None:
    engine = make(pocket).engine
    first = prompt(3, 40)
    answer = tokens(run(engine, [Request("a", first, replace(GREEDY, max_tokens=30))])["a"])
    longer = first + tuple(answer) + prompt(4, 10)
    assert run(engine, [Request("b", longer, GREEDY)])["b"][-1].cached_tokens == 64   # 69 are stored: 4 pages


def test_tenants_share_nothing(pocket: Path) -> None:
    engine = make(pocket).engine
    run(engine, [Request("a", prompt(3), GREEDY, tenant="one")])
    assert run(engine, [Request("b", prompt(3), GREEDY, tenant="two")])["b"][-1].cached_tokens == 0
    assert run(engine, [Request("c", prompt(3), GREEDY, tenant="one")])["c"][-1].cached_tokens == 64


def test_score_equals_transformers_and_hides_nothing_in_the_cache(pocket: Path) -> None:
    engine = make(pocket, max_step_tokens=100).engine
    ids = prompt(5, 333)
    run(engine, [Request("warm", ids, replace(GREEDY, max_tokens=1))])
    last = run(engine, [Request("s", ids, SamplingParams(max_tokens=1), score=True)])["s"][-1]
    reference = transformers.AutoModelForCausalLM.from_pretrained(pocket, dtype=torch.float32)
    with torch.inference_mode():
        logprobs = reference(torch.tensor([ids])).logits[0].log_softmax(-1)
    want = logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None]).flatten()
    assert last.scores is not None and len(last.scores) == 332
    assert (torch.tensor(last.scores) - want).abs().max() <= 1e-3


def test_cancel_frees_everything_at_once(pocket: Path) -> None:
    engine = make(pocket, max_seqs=2).engine
    for i in range(4):
        engine.add(Request(str(i), prompt(i, 200), replace(GREEDY, max_tokens=500)))
    for _ in range(6):
        engine.step()
    for i in range(4):
        engine.cancel(str(i))
    engine.cancel("never there")
    engine.check()
    stats = engine.stats()
    assert not engine.has_work and stats.running == stats.waiting == 0
    assert stats.pages_free + stats.pages_cached == stats.pages_total


def test_max_tokens_and_finish_reasons(pocket: Path) -> None:
    engine = make(pocket).engine
    free = run(engine, [Request("r", prompt(1), GREEDY)])["r"]
    assert free[-1].finish_reason is FinishReason.LENGTH and free[-1].completion_tokens == 40
    wanted = tokens(free)[9]
    first = tokens(free).index(wanted)
    stop = replace(GREEDY, stop_token_ids=(wanted,))
    stopped = run(engine, [Request("r", prompt(1), stop)])["r"]
    assert tokens(stopped) == tokens(free)[:first + 1]
    assert stopped[-1].finish_reason is FinishReason.STOP
    later = run(engine, [Request("r", prompt(1), replace(stop, min_tokens=15))])["r"]
    assert len(tokens(later)) >= 15 and wanted not in tokens(later)[:15]


def test_stop_strings_cut_the_text(pocket: Path) -> None:
    engine = make(pocket).engine
    free = text(run(engine, [Request("r", prompt(1), GREEDY)])["r"])
    stop = free[10:14]
    for include in (False, True):
        params = replace(GREEDY, stop=(stop,), include_stop_str_in_output=include)
        outputs = run(engine, [Request("r", prompt(1), params)])["r"]
        end = free.index(stop) + (len(stop) if include else 0)
        assert text(outputs) == free[:end]
        assert outputs[-1].finish_reason is FinishReason.STOP and outputs[-1].stop_text == stop


def test_bias_and_penalties_change_the_choice(pocket: Path) -> None:
    engine = make(pocket).engine

    def choose(**change: Any) -> list[int]:
        params = replace(GREEDY, max_tokens=40, **change)
        return tokens(run(engine, [Request("r", prompt(1), params)])["r"])

    assert choose(logit_bias={77: 30.0}) == [77] * 40
    assert 1 < len(set(choose(logit_bias={77: 30.0}, frequency_penalty=2.0)))
    first = choose()[0]
    assert first not in choose(logit_bias={first: -100.0})
    plain, strict = choose(), choose(repetition_penalty=50.0)
    assert len(set(strict)) > len(set(plain)) and not set(strict) & set(prompt(1))


def test_answers_of_one_prompt_differ_and_repeat_with_the_seed(pocket: Path) -> None:
    engine = make(pocket).engine
    hot = replace(SEEDED, temperature=1.5, top_p=1.0)
    requests = [Request(str(i), prompt(1), hot, sample_index=i) for i in range(4)]
    first, second = run(engine, requests), run(engine, requests)
    answers = [tuple(tokens(first[str(i)])) for i in range(4)]
    assert len(set(answers)) == 4
    assert answers == [tuple(tokens(second[str(i)])) for i in range(4)]
    other = run(engine, [Request("r", prompt(1), replace(hot, seed=12))])["r"]
    assert tuple(tokens(other)) not in answers


def test_logprobs_are_those_of_the_raw_logits(pocket: Path) -> None:
    engine = make(pocket).engine
    params = replace(SEEDED, logprobs=20, temperature=2.0, logit_bias={5: 50.0})
    for output in run(engine, [Request("r", prompt(1), params)])["r"]:
        entry = output.logprobs[0]
        values = [value for _, value in entry.top]
        assert len(values) == 20 and values == sorted(values, reverse=True)
        assert entry.token_id == 5 and entry.logprob < values[0]
        assert dict(entry.top).get(5, entry.logprob) == entry.logprob


def test_a_request_whose_numbers_overflow_ends_alone(pocket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(pocket)
    want = tokens(run(loaded.engine, [Request("b", prompt(2), GREEDY)])["b"])
    real, steps = loaded.model.logits, iter(range(1000))

    def poisoned(model: Decoder, hidden: torch.Tensor) -> torch.Tensor:
        logits = real(hidden)
        if next(steps) == 10:
            logits[0] = float("nan")
        return logits

    monkeypatch.setattr(Decoder, "logits", poisoned)
    outputs = run(loaded.engine, [Request("a", prompt(1), GREEDY), Request("b", prompt(2), GREEDY)])
    assert outputs["a"][-1].finish_reason is FinishReason.ABORT and len(tokens(outputs["a"])) < 40
    assert tokens(outputs["b"]) == want


def test_an_eos_outside_the_vocabulary_never_comes(pocket: Path) -> None:
    loaded = make(pocket)
    config = EngineConfig(dtype="fp32", kv_memory=16 << 20)
    shape = KVShape(loaded.spec.num_layers, loaded.spec.num_kv_heads, loaded.spec.head_dim, config.page_size)
    kv = DenseKV(loaded.ops, shape, config.kv_memory, torch.float32)
    engine = Engine(loaded.model, kv, loaded.ops, config, loaded.tokenizer, eos_ids=(9999, 10**6))
    assert len(tokens(run(engine, [Request("r", prompt(1), replace(GREEDY, min_tokens=5))])["r"])) == 40


def test_an_idle_step_does_nothing(loaded_pocket: Loaded) -> None:
    assert loaded_pocket.engine.step() == []


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt_ids": ()}, "prompt is empty"),
    ({"prompt_ids": (1, -1)}, "prompt: token id -1 is outside"),
    ({"prompt_ids": (1, 10**9)}, "prompt: token id 1000000000 is outside"),
    ({"params": replace(GREEDY, stop_token_ids=(10**6,))}, "stop_token_ids: token id"),
    ({"params": replace(GREEDY, logit_bias={-1: 1.0})}, "logit_bias: token id -1"),
    ({"params": replace(GREEDY, min_tokens=1, stop_token_ids=tuple(range(2048)))}, "bans every token"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_bad_request_is_refused_and_leaves_nothing(change: dict[str, Any], message: str, pocket: Path,
                                                     loaded_pocket: Loaded) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        loaded_pocket.engine.add(replace(Request("r", prompt(1), GREEDY), **change))
    assert not loaded_pocket.engine.has_work


def test_context_limits_are_told_with_both_numbers(pocket: Path) -> None:
    engine = make(pocket, max_context=100).engine
    with pytest.raises(ContextLengthError, match=r"prompt has 90 tokens.*asks for 40 more.*length of 100"):
        engine.add(Request("r", prompt(1, 90), GREEDY))
    with pytest.raises(ContextLengthError, match=r"prompt has 100 tokens.*length of 100"):
        engine.add(Request("r", prompt(1, 100), replace(GREEDY, max_tokens=None)))
    filled = run(engine, [Request("r", prompt(1, 90), replace(GREEDY, max_tokens=None))])["r"]
    assert len(tokens(filled)) == 10 and filled[-1].finish_reason is FinishReason.LENGTH
    with pytest.raises(ConfigError, match="max_context 999999 is above"):
        make(pocket, max_context=999999)


def test_a_small_cache_bounds_the_context(pocket: Path) -> None:
    loaded = make(pocket, kv_memory=10 * 98304)
    assert loaded.engine.max_context == loaded.engine.stats().pages_total * PAGE < 2048
    full = Request("r", prompt(1, loaded.engine.max_context - 5), replace(GREEDY, max_tokens=5))
    assert len(tokens(run(loaded.engine, [full, replace(full, request_id="s")])["s"])) == 5
    with pytest.raises(ConfigError, match="below two pages"):
        make(pocket, kv_memory=1000)
    with pytest.raises(ConfigError, match=r"max_context 2000 is above the \d+ tokens that the KV cache"):
        make(pocket, kv_memory=10 * 98304, max_context=2000)
    with pytest.raises(ConfigError, match="more than the memory that is available"):
        make(pocket, kv_memory=1 << 50)


def test_a_full_queue_is_told(pocket: Path) -> None:
    engine = make(pocket, max_waiting=2).engine
    for i in range(2):
        engine.add(Request(str(i), prompt(i), GREEDY))
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        engine.add(Request("2", prompt(2), GREEDY))
    assert not engine.has_work or engine.stats().waiting == 2


def test_an_id_in_use_is_refused(pocket: Path) -> None:
    engine = make(pocket).engine
    engine.add(Request("r", prompt(1), GREEDY))
    with pytest.raises(InvalidRequestError, match="in use"):
        engine.add(Request("r", prompt(1), GREEDY))
