"""`nearfield node ...` and `serve --node` as an operator meets them: keys, a life, tables, the registry, mistakes."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from nearfield.cli import node_common
from nearfield.cli.main import main
from nearfield.cli.node_register import hardware
from nearfield.node.build import open_ledger
from nearfield.node.config import NodeConfig
from nearfield.node.credits import Credits
from nearfield.node.database import ACCOUNTS, VOUCHERS
from nearfield.node.identity import load
from nearfield.node.usage import Usage
from tests.node.contracts import NEAR, OWN_FUNDS, wasm
from tests.node.fake_rpc import FakeRpc
from tests.node.near_client import NearClient
from tests.node.near_vm import Account, LocalVM
from tests.node.rpc_server import rpc_server

PROGRAM = "import sys; from nearfield.cli.main import main; sys.exit(main())"
HI = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's home that is not there yet."""
    folder = tmp_path / "home"
    monkeypatch.setenv("NEARFIELD_NODE_HOME", str(folder))
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command prints with --json."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    return capsys.readouterr().err


@contextmanager
def started(*words: str) -> Iterator[tuple[str, str]]:
    """The URL and the banner of a server that is told to end, and does."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *words], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            box = ""
            while "╯" not in box and (line := process.stdout.readline()):
                box += line
            found = re.search(r"http://(?:127\.0\.0\.1|0\.0\.0\.0):\d+(?=/v1)", box)
            assert found, process.stderr.read()
            yield found[0], box
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_life(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Make keys, serve, stand in front of that server, and read the books."""
    assert main(["node", "init"]) == 0
    assert load(home).account_id in capsys.readouterr().out
    words = ["--port", "0", "--kv-memory", "64MiB", "--max-context", "256", "--dtype", "fp32"]
    with started("serve", "--node", *words) as (url, box):
        assert load(home).account_id in box and "no TEE" in box and "free of charge" in box
        assert "signed    the hashes of each request and its answer" in box and "nearfield verify" in box
        with httpx.Client(base_url=url, timeout=30) as http:
            got = NearClient(http, "pocket", "ed25519", encrypt=True).chat(HI, stream=True, max_tokens=5)
            assert got.text and got.usage["completion_tokens"] == 5
    with started("serve", *words) as (engine, _), \
            started("node", "front", engine, "--model", "pocket", "--port", "0") as (url, box):
        assert "only Nearfield's own engine" in box
        with httpx.Client(base_url=url, timeout=30) as http:
            assert NearClient(http, "pocket", "ecdsa").chat(HI, stream=False, max_tokens=4).text
    used = printed(capsys, "node", "usage")
    assert [(row["model"], row["responses"], row["completion_tokens"]) for row in used] == [("pocket", 2, 9)]
    assert printed(capsys, "node", "status")["responses"] == 2
    assert printed(capsys, "node", "earnings")["prepaid_nano"] == "0"


def test_keys_are_made_imported_and_never_overwritten(home: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init", "--account", "alice.testnet"]) == 0
    assert "alice.testnet" in capsys.readouterr().out
    assert "never overwritten" in refused(capsys, "node", "init")
    credentials = tmp_path / "alice.json"
    credentials.write_bytes((home / "ed25519.json").read_bytes())
    credentials.chmod(0o600)
    for file in home.iterdir():
        file.rename(tmp_path / file.name)
    assert main(["node", "init", "--import", str(credentials)]) == 0
    assert load(home).account_id == "alice.testnet"
    assert "not allowed with" in refused(capsys, "node", "init", "--implicit", "--account", "b.near")


def test_tables_for_people(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init"]) == 0
    ledger = open_ledger(home, NodeConfig())
    ledger.record(Usage("a", "org/model", 10, 4, 6), 1_500_000)
    ledger.database.close()
    capsys.readouterr()
    for command, words in (("status", ["no TEE", "testnet", "1 responses"]), ("earnings", ["vouchers in hand"]),
                           ("usage", ["org/model", "0.0015"])):
        assert main(["node", command]) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words), out
    assert main(["node", "usage", "--days", "3"]) == 0


def test_money_that_was_paid_in_another_way_is_credited_once(home: Path, tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init"]) == 0
    key, options = tmp_path / "key", tmp_path / "node.toml"
    key.write_text("sk-" + "a" * 40 + "\n")
    options.write_text('payment = "prepaid"\n[prices]\nprompt = "1"\n')
    credit = ["node", "credit", "--key-file", str(key), "--node-config", str(options)]
    capsys.readouterr()
    assert main([*credit, "--dollars", "2.5", "--reference", "invoice 7"]) == 0
    assert capsys.readouterr().out == "invoice 7: credited 2.5 dollars; the key has 2.5 dollars\n"
    assert main([*credit, "--dollars", "2.5", "--reference", "invoice 7"]) == 0
    assert "not again; the key has 2.5 dollars" in capsys.readouterr().out
    assert "another payment" in refused(capsys, *credit, "--dollars", "3", "--reference", "invoice 7")
    assert main([*credit, "--dollars", "0.000000001", "--reference", "invoice 8"]) == 0
    capsys.readouterr()
    assert printed(capsys, "node", "earnings")["prepaid_left_nano"] == "2500000001"
    for dollars in ("0", "-1", "nan", "x", "1e7", "0.0000000001"):
        assert "not an amount" in refused(capsys, *credit, f"--dollars={dollars}", "--reference", "a")
    assert "a reference has" in refused(capsys, *credit, "--dollars", "1", "--reference", "a\nb")
    assert "takes no balances" in refused(capsys, *credit[:4], "--dollars", "1", "--reference", "a")
    key.write_text("short\n")
    said = refused(capsys, *credit, "--dollars", "1", "--reference", "a")
    assert str(key) in said and "32 to 256" in said and "short" not in said


def test_what_channels_have_paid_is_in_near(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init"]) == 0
    ledger = open_ledger(home, NodeConfig())
    with ledger.database.write() as connection:
        connection.execute(insert(ACCOUNTS).values(payer="channel:a", added=2 * NEAR, spent=5 * NEAR // 4))
        connection.execute(insert(VOUCHERS).values(channel_id="a", spent_balance=1, signature="s"))
    ledger.database.close()
    capsys.readouterr()
    assert main(["node", "earnings"]) == 0
    out = capsys.readouterr().out
    assert "charged to channels               1.25 NEAR" in out and f"0.{'0' * 23}1 NEAR" in out


def test_a_banner_says_what_there_is(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init"]) == 0
    options = tmp_path / "node.toml"
    options.write_text('payment = "prepaid"\n[prices]\nprompt = "1"\n')
    front = ["node", "front", "http://127.0.0.1:9", "--model", "m", "--port", "0", "--host", "0.0.0.0"]
    with started(*front) as (_, box):
        assert "WARNING   open to the network" in box
    with started(*front, "--node-config", str(options)) as (_, box):
        assert "WARNING" not in box         # whoever asks, pays
        assert "the hashes of each request and its answer" in box and "receipts  none" in box
        assert "may ask, and pays" in box and "may use it" not in box
        assert "another process serves as this node" in refused(capsys, *front)


def test_names_that_are_none_are_refused_before_anything_is_asked(home: Path, tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert "not a NEAR account id" in refused(capsys, "node", "discover", "--registry", "BAD ID")
    said = refused(capsys, "node", "init", "--import", str(tmp_path / "none"))
    assert "no such file to import" in said and "~/.near-credentials" in said and "node init" not in said


def test_books_that_are_not_there_are_not_made(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init"]) == 0
    capsys.readouterr()
    for command in ("usage", "earnings"):
        assert "there is no ledger at" in refused(capsys, "node", command)
    assert printed(capsys, "node", "status")["ledger"] is None
    assert main(["node", "status"]) == 0 and "none yet" in capsys.readouterr().out
    other = tmp_path / "books" / "other.sqlite"
    options = tmp_path / "node.toml"
    options.write_text(f'ledger = "sqlite:///{other}"\n')
    assert str(other) in refused(capsys, "node", "usage", "--node-config", str(options))
    assert not other.parent.exists() and {file.name for file in home.iterdir()} == {"ed25519.json", "secp256k1.json"}


def test_top_ups_whose_end_is_not_known_are_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init"]) == 0
    ledger = open_ledger(home, NodeConfig())
    credits = Credits(ledger)
    for name in ("open", "doubtful", "refused", "paid"):
        credits.begin(name, "key:a", 1_500_000_000, "the signed payment")
    credits.begin("doubtful", "key:a", 1_500_000_000, "the signed payment")
    assert credits.refused("doubtful", "").state == "disputed" and credits.refused("refused", "").state == "failed"
    credits.paid("paid", "{}")
    ledger.database.close()
    capsys.readouterr()
    assert main(["node", "status"]) == 0
    out = capsys.readouterr().out
    assert "open: 1.5 dollars, not known yet" in out and "doubtful: 1.5 dollars, refused, after" in out
    assert "the signed payment" not in out and out.count("top-up") == 2
    found = printed(capsys, "node", "status")["top_ups"]
    assert [(each["id"], each["state"], each["nano_dollars"]) for each in found] == [
        ("open", "settling", "1500000000"), ("doubtful", "disputed", "1500000000")]


def test_a_node_is_published_and_found(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "init"]) == 0
    identity, vm = load(home), LocalVM()
    vm.deploy("registry.testnet", wasm("registry"), OWN_FUNDS)
    vm.accounts[identity.account_id] = Account(100 * NEAR)
    rpc = FakeRpc(vm)
    rpc.keys[identity.account_id, bytes(identity.ed25519.verify_key)] = 0
    with rpc_server(rpc) as url:
        options = tmp_path / "node.toml"
        options.write_text(f'registry = "registry.testnet"\nrpc_url = "{url}"\nendpoint = "https://node.example.com"\n'
                           '[prices]\nprompt = "0.1"\ncompletion = "0.4"\n')
        config = ["--node-config", str(options)]
        capsys.readouterr()
        register = ["node", "register", "org/model", *config, "--profile", "cpu-w4a8-v1", "--hardware", "2 CPUs"]
        assert main(register) == 0
        out = capsys.readouterr().out
        assert "dry run" in out and "registry.testnet" in out and "https://node.example.com" in out
        assert rpc.transactions == [] and printed(capsys, "node", "discover", *config) == []
        assert main([*register, "--send"]) == 0 and len(rpc.transactions) == 1
        capsys.readouterr()
        agent = printed(capsys, "node", "discover", *config, "--model", "org/model")[0]
        assert (agent["account_id"], agent["public_key"]) == (identity.account_id, identity.public_key)
        assert agent["registration"]["models"][0]["completion"] == 400 * 10**6
        assert main(["node", "discover", *config]) == 0 and "org/model" in capsys.readouterr().out
        assert printed(capsys, "node", "discover", *config, "--model", "other") == []


@pytest.mark.parametrize(("words", "parts"), [
    (["node", "status"], ["ed25519.json", "nearfield node init"]),
    (["serve", "--node"], ["ed25519.json", "nearfield node init"]),
    (["serve", "--node-config", "x.toml"], ["--node"]),
    (["node", "front", "host:8000", "--model", "m"], ["'host:8000'", "http://host:8000"]),
    (["node", "front", "http://host:8000"], ["--model"]),
    (["node", "register", "m"], ["registry", "--node-config"]), (["node", "discover"], ["--registry"]),
    (["node", "usge"], ["'usge'", "did you mean 'usage'"]),
    (["node", "status", "--node-config", "none.toml"], ["none.toml", "No such file"]),
])
def test_what_is_missing_is_said(home: Path, capsys: pytest.CaptureFixture[str], words: list[str],
                                 parts: list[str]) -> None:
    error = refused(capsys, *words)
    assert error.count("\n") == 1 and all(part in error for part in parts), error
    assert not home.exists()


@pytest.mark.parametrize("words", [["node", "init"], ["node", "status"], ["serve", "--node"], ["node", "discover"],
                                   ["node", "front", "http://h", "--model", "m"]])
def test_without_the_extra_the_remedy_is_named(home: Path, capsys: pytest.CaptureFixture[str], words: list[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_common, "EXTRA", ("no_such_package",))
    assert "pip install 'nearfield[node]'" in refused(capsys, *words)


def test_the_processor_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert re.fullmatch(r"Some CPU @ 2 GHz, \d+ CPUs", hardware(tmp_path / "cpuinfo"))
    assert hardware(tmp_path / "none").startswith("CPU, ")
