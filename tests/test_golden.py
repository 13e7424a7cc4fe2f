"""A golden vector for each numeric profile: the pocket model's logits have these bits, on every machine.

A change of them is a new profile: another id (kernels/cpu), and another entry in src/nearfield/proof/golden.json.
"""

from hashlib import sha256

import pytest

from nearfield.kernels import cpu
from nearfield.proof.selftest import golden, golden_logits

if reason := cpu.missing():
    pytest.skip(reason, allow_module_level=True)


@pytest.mark.parametrize("profile", golden())
@pytest.mark.parametrize("isa", cpu.supported())
def test_the_pocket_model_has_the_golden_bits(profile: str, isa: str) -> None:
    entry = golden()[profile]
    loaded, logits = golden_logits(entry["options"], isa)
    if loaded.ops.profile != profile:
        pytest.skip(f"{isa} on this processor computes these options as {loaded.ops.profile}, not {profile}")
    found = {"first": [value.hex() for value in logits[-1, :4].tolist()],
             "digest": sha256(logits.numpy().tobytes()).hexdigest()}
    assert found == {key: entry[key] for key in found}
