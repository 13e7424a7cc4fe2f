"""Every family's logits against transformers, in fp32, through the paged cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from nearfield.cache.store import DenseKV
from nearfield.core.config import DType
from nearfield.core.plan import Row, StepPlan
from nearfield.engine.batch import build_inputs
from nearfield.kernels import select
from nearfield.kernels.ops import KVShape, OpTable
from nearfield.layers.attention import dense_inputs
from nearfield.models.decoder import Decoder
from nearfield.models.loader import load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from nearfield.models.tokenizer import load_tokenizer

TINY: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64, "rope_theta": 10000.0}
FAMILIES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {}),
    "llama-mha-tied": (transformers.LlamaConfig, {"num_key_value_heads": 8, "tie_word_embeddings": True}),
    "llama-biases": (transformers.LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama-3-rope": (transformers.LlamaConfig, {"rope_parameters": LLAMA3_ROPE, "head_dim": 16}),
    "llama-linear-rope": (transformers.LlamaConfig, {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}}),
    "qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2-window": (transformers.Qwen2Config, {
        "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 16}),
    "mistral-window": (transformers.MistralConfig, {"sliding_window": 24, "head_dim": 8}),
    "mistral-plain": (transformers.MistralConfig, {"sliding_window": None}),
}


def make_folder(family: str, folder: Path) -> Any:
    """A small random model of transformers, saved into `folder`."""
    make, changes = FAMILIES[family]
    torch.manual_seed(sum(map(ord, family)))
    model = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        make(**{**TINY, **changes}), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.15)   # biases and norms must matter
    model.save_pretrained(folder)
    return model


def load(folder: Path, dtype: DType = "fp32", build: Callable[[DType], OpTable] = select.plain) -> Decoder:
    spec = read_spec(Config.load(folder / "config.json"))
    return load_decoder(folder, spec, build(dtype), dtype, spec.max_positions)


def paged_logits(model: Decoder, ids: list[int], chunks: list[int], page_size: int = 4,
                 dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits of every position, computed chunk by chunk through pages in a scattered order."""
    spec = model.spec
    shape = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, page_size)
    kv = DenseKV(model.ops, shape, 64 * shape.page_bytes(dtype), dtype)
    pages = tuple(torch.randperm(64)[:-(-len(ids) // page_size)].tolist())
    logits, start = [], 0
    for size in chunks:
        row = Row("r", tuple(ids[start:start + size]), start, pages, sample=True)
        with torch.inference_mode():
            logits.append(model.logits(model.hidden(build_inputs(StepPlan((row,)), kv, page_size))))
        start += size
    assert start == len(ids)
    return torch.cat(logits)


def reference_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model(torch.tensor([ids])).logits[0].float()
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family: str, tmp_path: Path) -> None:
    """What serves, and the reference backend; the latter without a cache too, as in training."""
    reference = make_folder(family, tmp_path)
    ids = torch.randint(3, 300, (90,)).tolist()
    want = reference_logits(reference, ids)
    for build in (select.build, select.plain):
        model = load(tmp_path, build=build)
        for chunks in ([90], [37, 1, 1, 30, 21], [1] * 90):
            got = paged_logits(model, ids, chunks)
            assert (got - want).abs().max() <= 1e-3
            assert torch.equal(got.argmax(-1), want.argmax(-1))
    with torch.inference_mode():
        dense = model.logits(model.hidden(dense_inputs(torch.tensor([ids, ids]))))
    assert (dense - torch.cat([want, want])).abs().max() <= 1e-3


def test_dense_path_has_gradients(tmp_path: Path) -> None:
    make_folder("qwen3", tmp_path)
    model = load(tmp_path)
    weight = model.layers[0].attn.qkv.weight.tensors["weight"].requires_grad_()
    logits = model.logits(model.hidden(dense_inputs(torch.randint(3, 300, (2, 16)))))
    logits.logsumexp(-1).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and weight.grad.abs().max() > 0


def compare_trained(folder: Path, vocab: int) -> None:
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(3, vocab, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    want = reference_logits(reference, ids)
    for build in (select.build, select.plain):
        assert (paged_logits(load(folder, build=build), ids, [64, 100, 36]) - want).abs().max() <= 1e-3


def test_tinystories_equals_transformers(shared_data: Path) -> None:
    compare_trained(shared_data / "weights" / "tinystories-656k", 2048)


def test_the_pocket_model_equals_transformers(pocket: Path) -> None:
    compare_trained(pocket, 2048)


@pytest.mark.parametrize("build", [select.build, select.plain])
@pytest.mark.parametrize(("dtype", "close"), [("bf16", 0.05), ("fp16", 0.01)])
def test_narrow_dtypes_stay_close_to_fp32(dtype: DType, close: float, build: Callable[[DType], OpTable],
                                          pocket: Path) -> None:
    """Mean KL divergence (nats) from fp32, and the choice of the best token, over real text."""
    ids = load_tokenizer(pocket).encode("Once upon a time there was a small dog. The dog liked to play in the park. ")
    exact = paged_logits(load(pocket), ids, [len(ids)]).log_softmax(-1)
    narrow = paged_logits(load(pocket, dtype, build), ids, [5, len(ids) - 6, 1],
                          dtype=select.TORCH_DTYPES[dtype]).log_softmax(-1)
    kl = (exact.exp() * (exact - narrow)).sum(-1)
    assert 0 <= kl.mean() < close
    assert (exact.argmax(-1) == narrow.argmax(-1)).float().mean() > 0.9
