"""Attention in C++: near a float64 loop, and the same bits however a sequence is computed."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nearfield.cache.store import DenseKV
from nearfield.core.errors import ConfigError
from nearfield.kernels import cpu, reference, select
from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import AttnPlan, AttnRow, Heads, KVLayer, KVShape, Norm
from tests.kernels.cpu.attention_twin import attend
from tests.kernels.cpu.sequences import Cache, Model, angles, exact

BF16, FP32 = torch.bfloat16, torch.float32


def _model(size: int, shared: int, page: int, dtype: torch.dtype, window: int | None = None, norms: bool = False,
           kv_heads: int = 2) -> Model:
    q_norm, k_norm = (Norm(torch.randn(size), 1e-6) if norms else None for _ in range(2))
    return Model(shared * kv_heads, Heads(kv_heads, size, q_norm, k_norm, window), page, dtype)


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32)


@pytest.fixture(scope="module")
def everywhere() -> Iterator[list[CpuKernels]]:
    """Every instruction set on 1 thread, and on 2 and 4 those that are quick."""
    yield [cpu.load(threads, isa) for isa in cpu.supported() for threads in ((1,) if isa == "scalar" else (1, 2, 4))]


@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize(("size", "shared", "page", "window", "norms"), [
    (8, 1, 2, None, False), (16, 2, 4, 5, True), (64, 7, 16, None, False), (64, 4, 32, 70, True),
    (80, 3, 16, 33, False), (96, 8, 48, None, True), (128, 5, 16, 64, False), (10, 17, 4, 1, True),
    (256, 1, 6, None, False), (2, 2, 16, 90, False)])
def test_mixed_batches_are_near_a_float64_loop(kernels: CpuKernels, size: int, shared: int, page: int,
                                               window: int | None, norms: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    model = _model(size, shared, page, dtype, window, norms)
    sequences = [model.qkv(length) for length in (130, 1, 67, 40)]
    cache = Cache(kernels, model, sequences, stale=float("nan"))
    steps = [[(0, 64), (2, 3)], [(0, 1), (1, 1), (3, 39), (2, 1)], [(2, 63), (0, 1), (3, 1)], [(0, 64)]]
    got: list[list[Tensor]] = [[] for _ in sequences]
    for chunks in steps:
        for (sequence, _), out in zip(chunks, cache.step(chunks), strict=True):
            got[sequence].append(out)
    for qkv, parts in zip(sequences, got, strict=True):
        want = exact(model, qkv)
        # The kernels round weights too, and what is near the middle of two bf16 numbers may become the other one.
        bound = 1e-5 if dtype == FP32 else 2 ** -8
        assert (torch.cat(parts).double() - want).abs().max() <= bound * want.abs().max()


def test_parity_with_the_reference(kernels: CpuKernels) -> None:
    torch.manual_seed(1)
    model = _model(64, 7, 16, FP32, norms=True)
    ours = kernels.new_kv(KVShape(1, 2, 64, 16), 12, FP32)[0]
    theirs = KVLayer(torch.zeros(12, 2, 16, 64), torch.zeros(12, 2, 16, 64))
    for rows in ([AttnRow(0, 70, 0, (7, 0, 3, 9, 2)), AttnRow(70, 5, 0, (1,))],
                 [AttnRow(0, 1, 70, (7, 0, 3, 9, 2)), AttnRow(1, 20, 5, (1, 11))]):
        qkv = model.qkv(sum(row.length for row in rows))
        turns = angles((p for row in rows for p in range(row.start, row.start + row.length)), 64)
        plan = AttnPlan(tuple(rows), 16)
        want = reference.attention(qkv, model.heads, turns, theirs, plan)
        got = kernels.attention(qkv, model.heads, turns, ours, plan)
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    assert torch.allclose(ours.k.transpose(2, 3), theirs.k, rtol=0, atol=1e-5)
    assert torch.equal(ours.v, theirs.v)


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_chunks_neighbours_pages_threads_and_isa_leave_the_bits(everywhere: list[CpuKernels],
                                                                 dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    for size, shared, page, window in ((64, 7, 16, None), (20, 3, 6, 41), (48, 1, 64, 100)):
        model = _model(size, shared, page, dtype, window, norms=size == 20)
        one, other = model.qkv(150), model.qkv(150)
        want = Cache(everywhere[0], model, [one]).whole([150])
        for kernels in everywhere:
            for chunk in (150, 64, 16, 7, 1):
                chunks = [min(chunk, 150 - at) for at in range(0, 150, chunk)]
                got = Cache(kernels, model, [one], stale=float("nan")).whole(chunks)
                assert torch.equal(_bits(got), _bits(want)), (kernels.isa, kernels.threads, chunk)
            cache = Cache(kernels, model, [other, one])
            cache.step([(0, 99)])
            mixed = torch.cat([cache.step([(0, 1), (1, 30)])[1] for _ in range(5)])
            assert torch.equal(_bits(mixed), _bits(want)), (kernels.isa, kernels.threads)


@pytest.mark.parametrize("window", [None, 600])
def test_contexts_of_several_spans_have_the_same_bits(everywhere: list[CpuKernels], window: int | None) -> None:
    torch.manual_seed(3)
    model = _model(16, 2, 16, BF16, window, kv_heads=1)
    qkv = model.qkv(1300)
    want = Cache(everywhere[0], model, [qkv]).whole([1300])
    # The tail alone goes through the loop in Python.
    tail = exact(model, qkv)[-3:]
    assert (want[-3:].double() - tail).abs().max() <= 2 ** -8 * tail.abs().max()
    for kernels in everywhere:
        cuts = [[700, 599, 1], [1300], [510, 4] + [1] * 12 + [774], [1290] + [1] * 10]
        for chunks in cuts[:1] if kernels.isa == "scalar" else cuts:   # scalar kernels are slow
            assert torch.equal(_bits(Cache(kernels, model, [qkv]).whole(chunks)), _bits(want)), \
                (kernels.isa, kernels.threads, chunks[:2])


@pytest.mark.parametrize(("size", "shared", "kv_heads", "page", "window", "dtype"), [
    (16, 7, 2, 16, None, BF16), (10, 3, 1, 12, None, FP32), (16, 1, 2, 48, None, BF16), (32, 17, 1, 16, None, FP32),
    (16, 2, 1, 16, 1050, BF16)])
def test_prefixes_in_the_same_pages_leave_the_bits(everywhere: list[CpuKernels], size: int, shared: int, kv_heads: int,
                                                   page: int, window: int | None, dtype: torch.dtype) -> None:
    """Rows of a step that share two spans, one span, less or nothing, some of them apart from each other."""
    torch.manual_seed(6)
    model = _model(size, shared, page, dtype, window, kv_heads=kv_heads)
    prefix = model.qkv(1104)
    lengths = (1104, 1104, 528, 1056, 0, 1104, 1104, 480)
    # The third has two spans of its own after the one that it shares.
    sequences = [torch.cat((prefix[:length], model.qkv(600 if i == 2 else 12))) for i, length in enumerate(lengths)]
    want = [Cache(everywhere[0], model, [qkv]).whole([len(qkv)])[-12:] for qkv in sequences]
    for kernels in everywhere:
        cache = Cache(kernels, model, sequences, stale=float("nan"))
        cache.step([(0, 1104)])
        for i, length in enumerate(lengths[1:], 1):
            cache.share(i, 0, length)
        cache.step([(2, 588)])
        rows = range(len(sequences))
        steps = [[(i, 1) for i in rows], [(i, 1 + 4 * (i == 2)) for i in rows], [(i, 1) for i in reversed(rows)],
                 [(5, 2), (6, 4), (4, 9), (3, 1)]]
        got: list[list[Tensor]] = [[] for _ in rows]
        for chunks in steps:
            for (i, _), out in zip(chunks, cache.step(chunks), strict=True):
                got[i].append(out)
        for parts, whole in zip(got, want, strict=True):
            found = torch.cat(parts)
            assert torch.equal(_bits(found), _bits(whole[:len(found)])), (kernels.isa, kernels.threads)


@pytest.mark.parametrize(("size", "page", "tokens"), [(64, 16, 600), (40, 32, 77), (16, 6, 70), (128, 64, 64)])
@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_bf16_has_the_bits_that_are_written_down(kernels: CpuKernels, size: int, page: int, tokens: int,
                                                 spread: float) -> None:
    """spread: sizes of numbers from its inverse on, and large queries, so that products and weights become tiny, and
    many of both are flushed."""
    torch.manual_seed(7)
    model = _model(size, 2, page, BF16, kv_heads=1)
    qkv = model.qkv(tokens)
    qkv[:, 2 * size:] *= spread ** (torch.rand(tokens, 2 * size) * 4 - 4)
    if spread > 1:
        qkv[:, :2 * size] *= 40
        qkv[::3, 2 * size:3 * size] *= 1e3
    cache = Cache(kernels, model, [qkv], stale=float("nan"))
    got = cache.step([(0, tokens - 1)], turned=False), cache.step([(0, 1)], turned=False)
    for t, found in ((tokens - 2, got[0][0][-1]), (tokens - 1, got[1][0][0])):
        k, v = qkv[:t + 1, 2 * size:3 * size].numpy(), qkv[:t + 1, 3 * size:].numpy()
        want = [torch.from_numpy(attend(qkv[t, head * size:(head + 1) * size].numpy(), k, v)) for head in (0, 1)]
        assert torch.equal(_bits(found), _bits(torch.cat(want)))


@pytest.mark.parametrize("tiny", [1e-12, 1e-20, 1e-30, 1e-38, 1e-42])
def test_tiny_numbers_have_the_same_bits_everywhere(everywhere: list[CpuKernels], tiny: float) -> None:
    """AMX takes subnormals for zero; nothing may come near them."""
    torch.manual_seed(8)
    model = _model(64, 3, 16, BF16)
    qkv = model.qkv(140)
    qkv = torch.where(torch.rand_like(qkv) < 0.5, qkv * tiny, qkv * 30)
    want = Cache(everywhere[0], model, [qkv]).whole([140])
    for kernels in everywhere:
        for chunks in ([140], [70, 69, 1]):
            got = Cache(kernels, model, [qkv]).whole(chunks)
            assert torch.equal(_bits(got), _bits(want)), (kernels.isa, kernels.threads)


@pytest.mark.parametrize(("size", "shared", "page", "window"), [
    (32, 40, 64, None), (64, 7, 16, None), (40, 3, 6, 41), (96, 20, 32, 70)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_is_not_finite_has_the_same_bits_everywhere(everywhere: list[CpuKernels], size: int, shared: int,
                                                         page: int, window: int | None, bad: float) -> None:
    """Where it is seen, and where it must not be; 1e30 overflows in products."""
    torch.manual_seed(9)
    model = _model(size, shared, page, BF16, window)
    qkv = model.qkv(130)
    places = torch.rand_like(qkv) < 0.3 / size / shared
    places[:20] = False
    qkv[places] = bad
    qkv[77, -1] = bad
    want = Cache(everywhere[0], model, [qkv]).whole([130])
    assert want[:20].isfinite().all()
    for kernels in everywhere[1:]:
        for chunks in ([130], [75, 54, 1]):
            got = Cache(kernels, model, [qkv], stale=bad).whole(chunks)
            assert torch.equal(_bits(got), _bits(want)), (kernels.isa, kernels.threads, chunks)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
@given(st.data())
def test_any_trace_gives_the_bits_of_each_sequence_alone(everywhere: list[CpuKernels], data: st.DataObject) -> None:
    """Sequences in random chunks, together in random steps, on any kernels, against one chunk alone."""
    torch.manual_seed(data.draw(st.integers(0, 1000), label="seed"))
    half, shared = data.draw(st.integers(1, 40), label="half of d"), data.draw(st.integers(1, 9), label="H / G")
    page, dtype = data.draw(st.sampled_from((2, 6, 4, 16, 32)), label="page"), data.draw(st.sampled_from((BF16, FP32)))
    window = data.draw(st.none() | st.integers(1, 200), label="window")
    model = _model(2 * half, shared, page, dtype, window, data.draw(st.booleans(), label="norms"))
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=4), label="lengths")
    sequences = [model.qkv(length) for length in lengths]
    first, second = data.draw(st.sampled_from(everywhere)), data.draw(st.sampled_from(everywhere))
    cache = Cache(first, model, sequences, stale=float("inf"))
    left, got = list(lengths), [list[Tensor]() for _ in lengths]
    while any(left):
        waiting = [i for i, rest in enumerate(left) if rest]
        chosen = data.draw(st.lists(st.sampled_from(waiting), min_size=1, unique=True), label="rows")
        chunks = [(i, data.draw(st.integers(1, left[i]), label="length")) for i in chosen]
        for (i, length), out in zip(chunks, cache.step(chunks), strict=True):
            left[i] -= length
            got[i].append(out)
    for qkv, parts in zip(sequences, got, strict=True):
        alone = Cache(second, model, [qkv], stale=float("nan")).whole([len(qkv)])
        assert torch.equal(_bits(torch.cat(parts)), _bits(alone))


@pytest.mark.parametrize("dtype", [BF16, FP32])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_with_the_tokens_that_see_it(kernels: CpuKernels, bad: float,
                                                              dtype: torch.dtype) -> None:
    """In one chunk: a token that comes later must not reach those before it through a weight of zero."""
    torch.manual_seed(4)
    model = _model(32, 2, 16, dtype)
    clean = model.qkv(100)
    spoilt = clean.clone()
    spoilt[77, -1] = bad
    want, got = (Cache(kernels, model, [qkv]).whole([100]) for qkv in (clean, spoilt))
    assert torch.equal(_bits(got[:77]), _bits(want[:77]))
    last_head = got.view(100, 4, 32)[77:, 2:, -1]
    assert not last_head.isfinite().any()


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_a_token_that_is_nan_is_nan_in_all_its_heads(kernels: CpuKernels, dtype: torch.dtype) -> None:
    model = _model(32, 2, 16, dtype)
    qkv = model.qkv(600)
    qkv[3] = float("nan")
    assert Cache(kernels, model, [qkv]).whole([600])[3:].isnan().all()


@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_large_scores_do_not_overflow(kernels: CpuKernels, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    model = _model(16, 2, 16, dtype)
    qkv = model.qkv(90)
    qkv[:, :6 * 16] *= 1000
    want = exact(model, qkv)
    assert (Cache(kernels, model, [qkv]).whole([90]).double() - want).abs().max() <= 1e-2 * want.abs().max()


def test_no_rows_and_rows_of_no_tokens(kernels: CpuKernels) -> None:
    model = _model(16, 2, 4, BF16)
    cache = kernels.new_kv(KVShape(1, 2, 16, 4), 3, BF16)[0]
    nothing = kernels.attention(model.qkv(0), model.heads, angles([], 16), cache, AttnPlan((), 4))
    assert nothing.shape == (0, 64)
    plan = AttnPlan((AttnRow(0, 0, 0, ()), AttnRow(0, 2, 0, (1,)), AttnRow(2, 0, 0, ())), 4)
    qkv = model.qkv(2)
    got = kernels.attention(qkv, model.heads, angles([0, 1], 16), cache, plan)
    assert torch.equal(_bits(got), _bits(Cache(kernels, model, [qkv]).whole([2])))


def test_rows_that_lie_apart_in_a_wider_tensor(kernels: CpuKernels) -> None:
    model = _model(16, 2, 4, FP32)
    wide = torch.randn(9, 300)
    part = wide[:, 30:30 + 128]
    want = Cache(kernels, model, [part.contiguous()]).whole([9])
    assert torch.equal(Cache(kernels, model, [part]).whole([4, 5]), want)


def test_the_cache_is_zero_and_outlives_its_maker() -> None:
    layers = cpu.load(threads=1).new_kv(KVShape(3, 2, 80, 16), 5, BF16)
    assert [(layer.k.shape, layer.v.shape) for layer in layers] == [((5, 2, 40, 16, 2), (5, 2, 8, 80, 2))] * 3
    assert not any(side.any() for layer in layers for side in (layer.k, layer.v))
    for i, layer in enumerate(layers):
        layer.k.fill_(2 * i + 1)
        layer.v.fill_(2 * i + 2)
    assert [float(torch.unique(side)) for layer in layers for side in (layer.k, layer.v)] == [1, 2, 3, 4, 5, 6]


def test_a_cache_that_cannot_be_had(kernels: CpuKernels) -> None:
    with pytest.raises(MemoryError):
        kernels.new_kv(KVShape(1, 1, 64, 16), 1 << 44, BF16)
    with pytest.raises(ValueError, match="bfloat16 or float32"):
        kernels.new_kv(KVShape(1, 1, 64, 16), 4, torch.float16)
    with pytest.raises(ValueError, match="page_size 5"):
        kernels.new_kv(KVShape(1, 1, 64, 5), 4, BF16)


def test_pages_that_a_bf16_cache_cannot_have_are_an_error_of_the_options() -> None:
    shape = KVShape(layers=1, kv_heads=1, head_dim=8, page_size=5)
    with pytest.raises(ConfigError, match="page_size 5; choose an even one"):
        DenseKV(select.build("bf16"), shape, 4 * shape.page_bytes(BF16), BF16)


@pytest.mark.parametrize(("rows", "message"), [
    ([AttnRow(0, 2, 0, (3,))], "page 3; the cache has 3"), ([AttnRow(0, 2, 0, (-1,))], "page -1"),
    ([AttnRow(0, 2, 3, (0,))], "fewer pages than its 5 positions"),
    ([AttnRow(0, 1, 0, (0,))], "1 tokens and the step 2"),
    ([AttnRow(0, 1, 0, (0,)), AttnRow(0, 1, 0, (1,))], "row 1 is not right after"),
    ([AttnRow(0, 2, -1, (0,))], "start -1")])
def test_rows_that_do_not_fit_are_refused(kernels: CpuKernels, rows: list[AttnRow], message: str) -> None:
    model = _model(16, 2, 4, BF16)
    cache = kernels.new_kv(KVShape(1, 2, 16, 4), 3, BF16)[0]
    with pytest.raises(ValueError, match=message):
        kernels.attention(model.qkv(2), model.heads, angles([0, 1], 16), cache, AttnPlan(tuple(rows), 4))
    assert not cache.v.any()


def test_shapes_that_do_not_fit_are_refused(kernels: CpuKernels) -> None:
    model, turns = _model(16, 2, 4, BF16), angles([0, 1], 16)
    cache = kernels.new_kv(KVShape(1, 2, 16, 4), 3, BF16)[0]
    plan, qkv = AttnPlan((AttnRow(0, 2, 0, (0,)),), 4), model.qkv(2)

    def attend(qkv: Tensor = qkv, heads: Heads = model.heads, turns: tuple[Tensor, Tensor] = turns,
               cache: KVLayer = cache, plan: AttnPlan = plan) -> Tensor:
        return kernels.attention(qkv, heads, turns, cache, plan)

    with pytest.raises(ValueError, match="head size 15"):
        attend(heads=Heads(2, 15))
    with pytest.raises(ValueError, match="head size 258"):
        attend(heads=Heads(2, 258))
    with pytest.raises(ValueError, match="columns"):
        attend(qkv[:, :-16])
    with pytest.raises(ValueError, match="side by side"):
        attend(qkv.T.contiguous().T)
    with pytest.raises(ValueError, match=r"cos must be \[2, 8\]"):
        attend(turns=angles([0, 1, 2], 16))
    with pytest.raises(ValueError, match="cache's k"):
        attend(cache=KVLayer(cache.v, cache.v))
    with pytest.raises(ValueError, match="one dtype"):
        attend(cache=KVLayer(cache.k, cache.v.float()))
    with pytest.raises(ValueError, match="cache's k"):
        attend(plan=AttnPlan(plan.rows, 8))
    with pytest.raises(ValueError, match="q_norm.weight"):
        attend(heads=Heads(2, 16, Norm(torch.ones(15), 1e-6), Norm(torch.ones(16), 1e-6)))
    with pytest.raises(ValueError, match="window must be at least 1"):
        attend(heads=Heads(2, 16, window=0))
