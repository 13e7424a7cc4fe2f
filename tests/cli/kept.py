"""What a client keeps of an exchange with a node, in files, and the server that it asks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfield.core.config import EngineConfig
from nearfield.engine.build import Loaded, load_engine
from nearfield.engine.loop import EngineLoop
from nearfield.proof.opening import open_notary
from tests.proof.signer import NodeKey
from tests.server.serving import Serving, serving

SAME = ["--dtype", "fp32", "--kv-memory", "16MiB", "--threads", "1"]
NONCE = "ab" * 32
CHAT = {"messages": [{"role": "user", "content": "Tell me about the sea."}]}
CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def opened(folder: Path | None = None) -> Loaded:
    """The pocket model, or that of `folder`, as SAME says."""
    return load_engine(folder, EngineConfig(dtype="fp32", kv_memory=16 << 20, threads=1))


@contextmanager
def receipt_server(home: Path) -> Iterator[Serving]:
    """A real server of the pocket model that gives receipts."""
    loaded = opened()
    notary = open_notary(loaded, NodeKey(), home)
    loop = EngineLoop(loaded.engine)
    loop.start()
    with serving(loaded, loop, receipts=notary) as running:
        yield running
    notary.close()


class Files:
    """What a client keeps of an exchange, in a folder."""

    def __init__(self, folder: Path, node: Serving, path: str, **fields: Any) -> None:
        self.request, self.reply, self.receipt = folder / "request.json", folder / "reply.json", folder / "receipt.json"
        body = {"model": node.name, "max_tokens": 24, "temperature": 0.8} | fields
        body = {name: value for name, value in body.items() if value is not None}
        node_nonce = node.http.get("/v1/receipt/nonce").json()["nonce"]
        reply = node.http.post(path, json=body, headers={"X-Receipt-Nonce": NONCE, "X-Receipt-Node-Nonce": node_nonce})
        assert reply.status_code == 200, reply.text
        first = reply.json() if not body.get("stream") else json.loads(reply.text.split("\n")[0].removeprefix("data:"))
        self.node_nonce = node_nonce
        self.request.write_text(json.dumps(body))
        self.reply.write_bytes(reply.content)
        self.receipt.write_bytes(node.http.get(f"/v1/receipt/{first['id']}").content)
        self.args = ["verify", str(self.receipt), "--prompt", str(self.request), "--output", str(self.reply),
                     "--nonce", NONCE, "--node-nonce", node_nonce, "--node-key", NodeKey().public_key, *SAME]
