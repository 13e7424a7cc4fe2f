"""A golden vector for each numeric profile: the pocket model's logits have these bits, on every machine.

A change of them is a new profile: another id (kernels/cpu), and another line in tests/data/golden.json.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from nearfield.core.config import EngineConfig
from nearfield.engine.batch import whole_inputs
from nearfield.engine.build import load_engine
from nearfield.kernels import cpu

if reason := cpu.missing():
    pytest.skip(reason, allow_module_level=True)

GOLDEN: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "golden.json").read_text())
"""By profile: the options, the first logits of the last position (hexadecimal floats), a digest of all."""

IDS = tuple((i * i * 31 + 7 * i) % 2000 + 3 for i in range(150))


@pytest.mark.parametrize("profile", GOLDEN)
@pytest.mark.parametrize("isa", cpu.supported())
def test_the_pocket_model_has_the_golden_bits(profile: str, isa: str) -> None:
    golden = GOLDEN[profile]
    loaded = load_engine(None, EngineConfig(isa=isa, kv_memory=16 << 20, **golden["options"]))
    if loaded.ops.profile != profile:
        pytest.skip(f"{isa} on this processor computes these options as {loaded.ops.profile}, not {profile}")
    with torch.inference_mode():
        step = whole_inputs(IDS, loaded.engine._runner._kv, loaded.engine.config.page_size)
        logits = loaded.model.logits(loaded.model.hidden(step))
    found = {"first": [value.hex() for value in logits[-1, :4].tolist()],
             "digest": sha256(logits.numpy().tobytes()).hexdigest()}
    assert found == {key: golden[key] for key in found}
