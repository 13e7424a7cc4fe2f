"""The kernels under the address, undefined-behaviour and thread sanitizers."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", ["address,undefined", "thread"])
def test_stress(sanitize: str) -> None:
    if not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("needs cmake and a C++ compiler on PATH")
    result = subprocess.run([ROOT / "scripts" / "sanitize_kernels", sanitize, "15"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the same bits" in result.stdout
