"""What the node's tests share: NEAR's recorded data, and a node with known keys."""

from pathlib import Path

import pytest
from coincurve import PrivateKey
from nacl.signing import SigningKey

from nearfield.node.identity import Identity


@pytest.fixture(scope="session")
def near_data(shared_data: Path) -> Path:
    """The folder of NEAR's recorded vectors and quotes."""
    folder = shared_data / "near"
    if not folder.is_dir():
        pytest.skip(f"NEAR's recorded data is not at {folder}; what it would show is not tested")
    return folder


@pytest.fixture(scope="session")
def identity() -> Identity:
    """A node of fixed keys: seeds of 7s, as in the SDK's vectors."""
    return Identity("alice.near", SigningKey(bytes([7]) * 32), PrivateKey(bytes([7]) * 32))
