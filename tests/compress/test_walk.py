"""The calibration walk: unchanged layers make the model's own states, changed ones are seen by those behind them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nearfield.compress.parent import read_parent
from nearfield.compress.stream import embedded, read_layer
from nearfield.compress.walk import Change, Site, Walk, sites
from nearfield.core.errors import ModelError
from nearfield.kernels import select
from nearfield.kernels.reference.dense import rms_norm
from nearfield.layers.attention import dense_inputs
from nearfield.models.decoder import Decoder
from nearfield.models.loader import load_decoder

IDS = torch.arange(96).view(3, 32) * 7 % 2048


def unchanged(site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
    return dense, norm


def walked(folder: Path, change: Change) -> Tensor:
    """The states behind the last layer."""
    parent, ops = read_parent(folder), select.plain("fp32")
    walk, states = Walk(parent.spec, ops, IDS.shape[1]), embedded(parent, IDS)
    for i, places in enumerate(sites(parent.spec)):
        walk.layer(read_layer(parent, ops, i), places, states, change)
    return states


def whole(folder: Path) -> Decoder:
    return load_decoder(folder, read_parent(folder).spec, select.plain("fp32"), "fp32", 64)


@torch.inference_mode()
def test_an_unchanged_model_makes_its_own_states(readable: Path) -> None:
    model = whole(readable)
    want = model.hidden(dense_inputs(IDS))
    torch.testing.assert_close(rms_norm(walked(readable, unchanged), model.norm), want, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_each_matrix_sees_what_the_changed_ones_before_it_make(readable: Path) -> None:
    """With the first layer's V zeroed, the matrix behind attention sees nothing, and the MLP the embeddings alone."""
    seen: dict[str, Tensor] = {}

    def change(site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        seen[site.label] = gram
        if site.label == "layers.0.self_attn.q_proj":
            dense = dense.clone()
            dense[-64:] = 0.0
        return dense, norm

    walked(readable, change)
    assert not bool(seen["layers.0.self_attn.o_proj"].any()) and len(seen) == 8
    parent = read_parent(readable)
    normed = rms_norm(embedded(parent, IDS), read_layer(parent, select.plain("fp32"), 0).mlp.norm).double()
    torch.testing.assert_close(seen["layers.0.mlp.gate_proj"], normed.T @ normed / len(normed), rtol=1e-4, atol=1e-5)


def test_states_that_are_not_finite_name_the_place(readable: Path) -> None:
    def change(site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        return (dense * float("inf") if site.label == "layers.0.mlp.down_proj" else dense), norm

    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_proj: its input, .* is not finite"):
        walked(readable, change)


def test_rows_of_text_do_not_see_each_other(readable: Path) -> None:
    states = walked(readable, unchanged).view(3, 32, -1)
    parent, ops = read_parent(readable), select.plain("fp32")
    alone = embedded(parent, IDS[1:2])
    walk = Walk(parent.spec, ops, 32)
    for i, places in enumerate(sites(parent.spec)):
        walk.layer(read_layer(parent, ops, i), places, alone, unchanged)
    torch.testing.assert_close(states[1], alone, rtol=1e-4, atol=1e-5)
