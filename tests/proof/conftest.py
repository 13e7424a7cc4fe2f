"""The nodes that the tests of receipts share."""

from pathlib import Path

import pytest

from tests.proof.folders import smaller
from tests.proof.node import Node, open_node


@pytest.fixture(scope="package")
def honest() -> Node:
    """The node that does what it says; it also verifies."""
    return open_node()


@pytest.fixture(scope="package")
def small(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """The same family with four layers of six, and the same tokenizer."""
    return open_node(smaller(pocket, tmp_path_factory.mktemp("small") / "pocket", 4))
