"""The golden vector of each numeric profile: the pocket model's logits have these bits on every machine.

`golden.json` has, by profile, the options, the first logits of the last position (hexadecimal floats) and a digest
of all. A change of them is a new profile: another id, and another entry.
"""

import json
from hashlib import sha256
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from nearfield.cache.store import DenseKV
from nearfield.core.config import EngineConfig
from nearfield.core.errors import ConfigError
from nearfield.engine.batch import whole_inputs
from nearfield.engine.build import Loaded, load_engine
from nearfield.kernels.ops import KVShape
from nearfield.kernels.select import TORCH_DTYPES
from nearfield.proof.subject import SelfTest

IDS = tuple((i * i * 31 + 7 * i) % 2000 + 3 for i in range(150))
_KV_BYTES = 16 << 20


def golden() -> dict[str, dict[str, Any]]:
    """The entries by profile."""
    entries: dict[str, dict[str, Any]] = json.loads((files("nearfield.proof") / "golden.json").read_text())
    return entries


def golden_logits(options: dict[str, Any], isa: str | None = None, threads: int | None = None) -> tuple[Loaded, Tensor]:
    """The pocket model under `options`, and its logits [150, V] of the vector's ids."""
    loaded = load_engine(None, EngineConfig(isa=isa, threads=threads, kv_memory=_KV_BYTES, **options), tokenizer=False)
    spec, config = loaded.spec, loaded.engine.config
    shape = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, config.page_size)
    kv = DenseKV(loaded.ops, shape, _KV_BYTES, TORCH_DTYPES[config.dtype])
    with torch.inference_mode():
        return loaded, loaded.model.logits(loaded.model.hidden(whole_inputs(IDS, kv, config.page_size)))


def run(served: Loaded) -> SelfTest:
    """Compute the vector of the profile that `served` has, with its instruction set. Raises ConfigError on a
    machine whose bits are others."""
    profile, config = served.ops.profile or "none", served.engine.config
    entry = golden().get(profile)
    if entry is None:
        return SelfTest(profile, served.ops.backend, None, "")
    _, logits = golden_logits(entry["options"], config.isa, config.threads)
    test = SelfTest(profile, served.ops.backend, entry["digest"], sha256(logits.numpy().tobytes()).hexdigest())
    if not test.passed:
        raise ConfigError(f"this machine does not compute the bits of {profile}: the golden vector differs; no "
                          "receipts can be given here (choose another --isa)")
    return test
