"""`nearfield node withdraw` against the channel contract in the local VM, behind the RPC double: dry, sent, closed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import insert

from nearfield.cli.main import main
from nearfield.node.build import open_ledger
from nearfield.node.config import NodeConfig
from nearfield.node.database import VOUCHERS
from nearfield.node.hold import Hold
from nearfield.node.identity import Identity, create
from tests.node.contracts import NEAR, OWN_FUNDS, Person, wasm
from tests.node.fake_rpc import FakeRpc, fault
from tests.node.near_vm import Account, LocalVM
from tests.node.rpc_server import rpc_server

CONTRACT = "channels.testnet"


@dataclass
class World:
    """A node's home and options, and the chain on which alice has channels to it."""

    home: Path
    node: Identity
    options: Path
    rpc: FakeRpc
    sender: Person

    def open(self, channel_id: str, deposit: int) -> None:
        receiver = {"account_id": self.node.account_id, "public_key": self.node.public_key}
        self.rpc.vm.call(CONTRACT, "open_channel", {
            "channel_id": channel_id, "receiver": receiver, "sender": self.sender.party()},
            by=self.sender.account_id, public_key=self.sender.borsh_key, deposit=deposit)

    def vouched(self, channel_id: str, spent: int) -> None:
        """Put a last voucher into the books."""
        ledger = open_ledger(self.home, NodeConfig())
        with ledger.database.write() as connection:
            signature = self.sender.state(channel_id, spent)["signature"]
            connection.execute(insert(VOUCHERS).values(
                channel_id=channel_id, spent_balance=spent, signature=signature))
        ledger.database.close()

    def earned(self) -> int:
        return self.rpc.vm.accounts[self.node.account_id].balance - 100 * NEAR

    def run(self, *words: str) -> int:
        return main(["node", "withdraw", "--node-config", str(self.options), *words])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    home = tmp_path / "home"
    monkeypatch.setenv("NEARFIELD_NODE_HOME", str(home))
    node, sender, vm = create(home), Person("alice.testnet"), LocalVM()
    vm.deploy(CONTRACT, wasm("channel"), OWN_FUNDS)
    for account in (node.account_id, sender.account_id):
        vm.accounts[account] = Account(100 * NEAR)
    rpc = FakeRpc(vm)
    rpc.keys[node.account_id, bytes(node.ed25519.verify_key)] = 7
    with rpc_server(rpc) as url:
        options = tmp_path / "node.toml"
        options.write_text(f'channels = "{CONTRACT}"\nrpc_url = "{url}"\n')
        yield World(home, node, options, rpc, sender)


def test_dry_then_sent_then_nothing_is_left(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c1", "c2"):
        world.open(name, NEAR)
        world.vouched(name, NEAR // 4)
    assert world.run() == 0
    out = capsys.readouterr().out
    assert out.count("method      withdraw") == 2 and "0.25 NEAR are owed" in out and "dry run" in out
    assert world.rpc.transactions == [] and world.earned() == 0
    assert world.run("--channel", "c2", "--send") == 0 and world.earned() == NEAR // 4
    assert world.run("--send") == 0 and world.earned() == NEAR // 2
    assert [json.loads(sent.args)["state"]["state"]["channel_id"] for sent in world.rpc.transactions] == ["c2", "c1"]
    capsys.readouterr()
    assert world.run("--send") == 0 and len(world.rpc.transactions) == 2
    assert capsys.readouterr().out.count("0 NEAR are owed") == 2


def test_a_close_comes_after_the_withdrawal_and_is_not_signed_before(world: World,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    world.open("c1", NEAR)
    world.vouched("c1", NEAR // 4)
    assert world.run("--channel", "c1", "--close") == 0
    out = capsys.readouterr().out
    assert "method      close" in out and "made by --send" in out
    closing = out[out.index("method      close"):]
    assert "ed25519:" not in closing, "the close signature alone would end the channel"
    assert world.run("--channel", "c1", "--close", "--send") == 0
    assert [sent.method for sent in world.rpc.transactions] == ["withdraw", "close"] and world.earned() == NEAR // 4
    assert world.rpc.vm.view(CONTRACT, "channel", {"channel_id": "c1"}) is None
    capsys.readouterr()
    assert world.run() == 0 and "channel c1: closed" in capsys.readouterr().out


def test_a_channel_that_can_not_be_collected_from_holds_up_no_other(world: World,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c1", "c2"):
        world.open(name, NEAR)
    world.vouched("c1", 2 * NEAR)
    world.vouched("c2", NEAR // 4)
    assert world.run("--send") == 1 and world.earned() == NEAR // 4
    assert "c1: the voucher exceeds the deposit" in capsys.readouterr().err


def test_a_refused_withdrawal_closes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.open("c1", NEAR)
    world.vouched("c1", NEAR // 4)
    world.rpc.script["send_tx"] = [fault("INVALID_TRANSACTION", {"InvalidTxError": "Expired"})]
    assert world.run("--channel", "c1", "--close", "--send") == 1 and world.rpc.transactions == []
    assert "INVALID_TRANSACTION" in capsys.readouterr().err


def test_a_node_that_serves_closes_no_channel(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.open("c1", NEAR)
    world.vouched("c1", NEAR // 4)
    hold = Hold(world.home)
    assert world.run("--channel", "c1", "--close", "--send") == 2 and world.rpc.transactions == []
    assert "another process serves as this node" in capsys.readouterr().err
    assert world.run("--send") == 0
    hold.close()
    assert world.run("--channel", "c1", "--close", "--send") == 0


def test_what_is_missing_is_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run() == 2 and "there is no ledger at" in capsys.readouterr().err
    open_ledger(world.home, NodeConfig()).database.close()
    assert world.run() == 2 and "no channel has paid this node yet" in capsys.readouterr().err
    assert world.run("--channel", "x") == 2 and "'x' has not paid" in capsys.readouterr().err
    assert world.run("--close") == 2 and "--channel ID" in capsys.readouterr().err
    assert main(["node", "withdraw"]) == 2 and "--node-config" in capsys.readouterr().err
