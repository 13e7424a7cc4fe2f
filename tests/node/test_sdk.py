"""NEAR AI's own Python SDK against a node, where it is installed; near_client.py asks the same everywhere."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.node.node_serving import ServedNode, served_node

CLIENT = Path(__file__).with_name("sdk_client.py")
pytestmark = pytest.mark.skipif(find_spec("nearai_inference_sdk") is None, reason=(
    "NEAR AI's SDK is not installed (Python 3.12: pip install nearai-inference-sdk); near_client.py speaks for it"))


@pytest.fixture(scope="module", params=["inside", "front"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    with served_node(tmp_path_factory.mktemp("node"), behind=request.param) as served:
        yield served


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa"])
@pytest.mark.parametrize("way", ["e2ee", "plain"])
def test_the_sdk_is_content(node: ServedNode, algorithm: str, way: str) -> None:
    done = subprocess.run([sys.executable, str(CLIENT), f"{node.url}/v1", node.model, algorithm, way],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "the SDK is content" in done.stdout, done.stderr[-2000:]
