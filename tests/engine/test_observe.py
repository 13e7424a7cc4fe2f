"""The hidden states that an engine hands out: one for each token, of the requests that asked, with the bits that the
token was chosen from, whatever happened in between."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from nearfield.core.config import EngineConfig
from nearfield.core.request import Output, Request, SamplingParams
from nearfield.engine.batch import whole_inputs
from nearfield.engine.build import Loaded, load_engine
from nearfield.kernels import cpu

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

PROMPT = tuple(range(5, 45))


def load(**options: Any) -> Loaded:
    return load_engine(None, EngineConfig(**{"dtype": "fp32", "kv_memory": 16 << 20, "threads": 1, **options}))


def run(loaded: Loaded, requests: Sequence[Request]) -> dict[str, list[Output]]:
    outputs: dict[str, list[Output]] = {request.request_id: [] for request in requests}
    for request in requests:
        loaded.engine.add(request)
    while loaded.engine.has_work:
        for output in loaded.engine.step():
            outputs[output.request_id].append(output)
    return outputs


def asked(name: str, *, observe: bool = True, prompt: tuple[int, ...] = PROMPT, **params: Any) -> Request:
    given = {"max_tokens": 12, "temperature": 0.9, "seed": 3, "ignore_eos": True, **params}
    return Request(name, prompt, SamplingParams(**given), observe=observe)


def states(loaded: Loaded, prompt: tuple[int, ...], tokens: Sequence[int]) -> list[bytes]:
    """The states of a pass over prompt and answer that the tokens come from."""
    with torch.inference_mode():
        whole = whole_inputs((*prompt, *tokens[:-1]), loaded.engine._runner._kv, loaded.engine.config.page_size)
        return [row.numpy().tobytes() for row in loaded.model.hidden(whole)[len(prompt) - 1:]]


@pytest.mark.parametrize("options", [{}, {"max_step_tokens": 7}, {"prefix_cache": False}, {"max_seqs": 2}], ids=str)
def test_a_state_for_each_token(options: dict[str, Any]) -> None:
    loaded = load(**options)
    requests = [asked(str(i), prompt=PROMPT[:20 + i] if i % 2 else PROMPT, seed=i) for i in range(4)]
    for request in requests:
        outputs = run(loaded, [request, asked("other", observe=False)])
        assert all(output.hidden is None for output in outputs["other"])
        made = outputs[request.request_id]
        tokens = [token for output in made for token in output.token_ids]
        hidden = [output.hidden for output in made]
        assert hidden == states(load(), request.prompt_ids, tokens)


def test_requests_that_were_set_back_tell_each_state_once() -> None:
    loaded = load(kv_memory=12 * 49152, max_seqs=4)
    requests = [asked(str(i), prompt=tuple(range(i + 3, i + 23)), max_tokens=50, seed=i) for i in range(4)]
    outputs = run(loaded, requests)
    assert loaded.engine.stats().preemptions > 0
    for request in requests:
        made = outputs[request.request_id]
        tokens = [token for output in made for token in output.token_ids]
        assert [output.hidden for output in made] == states(load(), request.prompt_ids, tokens)


def test_observing_changes_no_token() -> None:
    with_it, without = run(load(), [asked("a")]), run(load(), [asked("a", observe=False)])
    assert [output.token_ids for output in with_it["a"]] == [output.token_ids for output in without["a"]]


def test_a_stop_string_drops_text_and_no_state() -> None:
    loaded = load()
    free = run(loaded, [asked("a", max_tokens=40)])["a"]
    text = "".join(output.text for output in free)
    stopped = run(loaded, [asked("b", max_tokens=40, stop=(text[10:14],))])["b"]
    assert len(stopped) < len(free)
    assert [output.hidden for output in stopped] == [output.hidden for output in free[:len(stopped)]]


def test_scoring_observes_nothing() -> None:
    loaded = load()
    request = Request("s", PROMPT, SamplingParams(max_tokens=1), score=True, observe=True)
    assert [output.hidden for output in run(loaded, [request])["s"]] == [None]
