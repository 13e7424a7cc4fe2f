"""What every test may ask for: the shared data, the pocket model, and a machine left as it was found."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from nearfield.engine.build import Loaded

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes, or is in the making, says more of the machine than of what is tested.
hypothesis.settings.register_profile(
    "nearfield", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("nearfield")


@pytest.fixture(scope="session", autouse=True)
def _torch_threads() -> Iterator[None]:
    """One thread, here and in processes that a test starts: most tensors are too small to share, torch's threads spin
    while they wait for each other, and float sums of a test should not hang on the size of the machine."""
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """Ctrl-C as a terminal has it: a shell starts what runs in the background deaf to it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _recursion_limit() -> None:
    """Python's own: a package that eth-account imports sets it to 100,000, where the stack ends before the limit."""
    sys.setrecursionlimit(1000)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache alone, and so do the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEARFIELD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared material: $NEARFIELD_SHARED, or shared/data beside the checkout."""
    named = os.environ.get("NEARFIELD_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}; set NEARFIELD_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The folder of the pocket model that ships with the package."""
    folder = ROOT / "src" / "nearfield" / "assets" / "pocket"
    if not (folder / "model.safetensors").is_file():
        pytest.fail(f"the pocket model, which ships with the package, is not at {folder}; check it out again")
    return folder


@pytest.fixture(scope="module")
def loaded_pocket(pocket: Path) -> "Loaded":
    """The pocket model in an fp32 engine, one for each test file: a test leaves no request behind."""
    from nearfield.core.config import EngineConfig
    from nearfield.engine.build import load_engine

    config = EngineConfig(dtype="fp32", kv_memory=64 << 20, max_seqs=16, max_step_tokens=128)
    return load_engine(pocket, config)
