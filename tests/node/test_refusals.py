"""The engine's own admission behind a node: its 503 reaches the client with Retry-After, unsigned and uncharged."""

from pathlib import Path

import pytest

from nearfield.node.config import parse_config
from tests.doubles import FakeEngineLoop
from tests.node.node_serving import served_node
from tests.server.serving import started

KEY = {"Authorization": "Bearer sk-" + "a" * 40}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("behind", ["inside", "front"])
def test_a_full_queue_is_the_engines_503(tmp_path: Path, behind: str, stream: bool) -> None:
    loop = started(FakeEngineLoop(step_s=0.02, max_seqs=4, max_waiting=2))
    with served_node(tmp_path, behind=behind, loop=loop, config=parse_config({"prices": {"prompt": "1"}})) as node:
        body = {"model": node.model, "prompt": ["x"] * 10, "max_tokens": 300, "stream": stream}
        reply = node.http.post("/v1/completions", json=body, headers=KEY)
        assert reply.status_code == 503 and reply.json()["error"]["code"] == "queue_full"
        assert 1 <= int(reply.headers["retry-after"]) <= 5
        assert len(node.node.parts.signatures) == 0 and node.node.ledger.totals() == []
        answered = node.http.post("/v1/completions", json=body | {"prompt": "x", "max_tokens": 2}, headers=KEY)
        assert answered.status_code == 200 and len(node.node.parts.signatures) == 1
    loop.stop()
