"""The attestation report, its evidence, and the byte rules between them, on recorded quotes."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nearfield.node.attestation import Attester
from nearfield.node.errors import NodeError
from nearfield.node.evidence import DstackEvidence, Evidence, EvidenceProvider, NoEvidence
from nearfield.node.identity import Identity
from nearfield.node.tdx import mr_config_id, read_quote, replay_rtmr3, report_data

NONCE = "ab" * 32
ECDSA_FIELDS = {"model_name", "signing_address", "signing_algo", "signing_public_key", "request_nonce", "tee",
                "intel_quote", "event_log", "info", "all_attestations"}


def recorded(near_data: Path, name: str) -> tuple[bytes, list[dict[str, Any]], dict[str, Any]]:
    """A quote, its event log and, where there is one, dstack's description of the app."""
    if name == "sample":
        content = json.loads((near_data / "nearai-vllm-proxy" / "sample_dstack_data.json").read_bytes())
        quoted, info = content["SAMPLE_DSTACK_QUOTE"], content["SAMPLE_DSTACK_INFO"]
    else:
        quoted, info = json.loads((near_data / "dstack" / f"dstack__verifier__fixtures__{name}.json").read_bytes()), {}
    return bytes.fromhex(quoted["quote"]), json.loads(quoted["event_log"]), info


@pytest.mark.parametrize("name", ["sample", "quote-report", "tdx-lite-getquote"])
def test_rtmr3_of_recorded_logs(near_data: Path, name: str) -> None:
    quote, log, _ = recorded(near_data, name)
    assert replay_rtmr3(log) == read_quote(quote).rtmr3
    runtime = [index for index, event in enumerate(log) if event["imr"] == 3]
    assert len(runtime) >= 8
    for index in runtime:  # each event counts, and so does their order
        assert replay_rtmr3(log[:index] + log[index + 1:]) != read_quote(quote).rtmr3
    assert replay_rtmr3(log[::-1]) != read_quote(quote).rtmr3


def test_recorded_report_data(near_data: Path) -> None:
    assert read_quote(recorded(near_data, "quote-report")[0]).report_data == b"\x12\x34" + bytes(62)
    assert read_quote(recorded(near_data, "tdx-lite-getquote")[0]).report_data.startswith(b"dip1::secp256k1c-pk:")
    assert read_quote(recorded(near_data, "sample")[0]).report_data == b"\1" * 64


def test_recorded_compose_files(near_data: Path) -> None:
    quote, _, info = recorded(near_data, "sample")
    compose = info["tcb_info"]["app_compose"]
    assert read_quote(quote).mr_config_id == mr_config_id(compose).ljust(48, b"\0")
    assert mr_config_id(compose + "\n") != mr_config_id(compose)
    deployment = json.loads((near_data / "inference-sdk" / "compose-manager-deployment.json").read_bytes())
    assert mr_config_id(deployment["compose"])[1:].hex() == deployment["actions"][0]["file_sha256"]


def test_report_data() -> None:
    address, nonce, spki = bytes(range(20)), b"n" * 32, b"s" * 32
    assert report_data(address, nonce) == address + bytes(12) + nonce
    assert report_data(address, nonce, spki) == hashlib.sha256(address + spki).digest() + nonce
    assert report_data(b"k" * 32, nonce) == b"k" * 32 + nonce


@settings(deadline=None)
@given(st.binary(max_size=700) | st.binary(max_size=700).map(lambda tail: bytes.fromhex("0400020081000000") + tail))
def test_any_bytes_are_a_quote_or_refused(data: bytes) -> None:
    try:
        assert len(read_quote(data).report_data) == 64
    except ValueError:
        assert len(data) < 632 or not data.startswith(bytes.fromhex("0400020081000000"))


VALUES: list[object] = [3, 0x08000001, "", "00", "ab" * 48, "x", None, [], "\ud800"]
NAMES = ["imr", "event_type", "digest", "event", "event_payload"]
EVENT = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES))


@settings(deadline=None)
@given(st.lists(EVENT | st.none(), max_size=4) | st.none() | st.text())
@example([{"imr": 3, "event_type": 0x08000001, "digest": "00"}])
@example([{"imr": 3, "event_type": 1, "digest": ""}])
def test_any_log_is_replayed_or_refused(log: object) -> None:
    try:
        assert len(replay_rtmr3(log)) == 48
    except ValueError as error:
        assert isinstance(error, UnicodeEncodeError) or "event" in str(error)


class Machine:
    """Evidence that shows what was asked for, and counts."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def evidence(self, report_data: bytes) -> Evidence:
        self.asked.append(report_data)
        return Evidence("tdx", report_data.hex(), [], {"tcb_info": {"app_compose": "c"}})


def report(attester: Attester, **query: str) -> dict[str, Any]:
    return asyncio.run(attester.report(query))


def refusal(attester: Attester, **query: str) -> NodeError:
    with pytest.raises(NodeError) as caught:
        report(attester, **query)
    return caught.value


def test_a_node_without_a_tee_says_so(identity: Identity) -> None:
    made = report(Attester(identity, "m", NoEvidence()), nonce=NONCE.upper(), include_tls_fingerprint="false")
    assert set(made) == ECDSA_FIELDS
    assert made["tee"] == "none" and made["intel_quote"] == "" and made["event_log"] == []
    assert made["info"] == {"tcb_info": {"app_compose": ""}} and "nvidia_payload" not in made
    assert made["all_attestations"] == [{key: made[key] for key in ECDSA_FIELDS - {"all_attestations"}}]
    assert made["request_nonce"] == NONCE and made["model_name"] == "m"


def test_the_keys_of_a_report(identity: Identity) -> None:
    machine = Machine()
    attester = Attester(identity, "m", machine)
    made = report(attester, nonce=NONCE)
    assert (made["signing_algo"], made["signing_address"]) == ("ecdsa", identity.signing_address("ecdsa"))
    assert len(made["signing_public_key"]) == 128
    assert machine.asked == [report_data(bytes.fromhex(made["signing_address"][2:]), bytes.fromhex(NONCE))]
    made = report(attester, nonce=NONCE, signing_algo="ed25519")
    assert made["signing_address"] == made["signing_public_key"] == identity.signing_address("ed25519")
    assert machine.asked[1].hex() == made["signing_address"] + NONCE


def test_the_certificate_is_bound_where_it_is_asked_for(identity: Identity) -> None:
    machine, spki = Machine(), b"s" * 32
    attester = Attester(identity, "m", machine, spki=spki)
    assert "tls_cert_fingerprint" not in report(attester, nonce=NONCE)
    made = report(attester, nonce=NONCE, include_tls_fingerprint="true")
    assert made["tls_cert_fingerprint"] == made["all_attestations"][0]["tls_cert_fingerprint"] == spki.hex()
    assert machine.asked[1] == report_data(identity.address_bytes("ecdsa"), bytes.fromhex(NONCE), spki)
    without = report(Attester(identity, "m", machine), nonce=NONCE, include_tls_fingerprint="true")
    assert "tls_cert_fingerprint" not in without and machine.asked[2] == machine.asked[0]


@pytest.mark.parametrize(("query", "status", "reason"), [
    ({"nonce": "xy"}, 400, "Nonce must be hex-encoded"), ({"nonce": "a"}, 400, "Nonce must be hex-encoded"),
    ({"nonce": "0x" + NONCE}, 400, "Nonce must be hex-encoded"),
    ({"nonce": "é" * 64}, 400, "Nonce must be hex-encoded"),
    ({"nonce": ""}, 400, "Nonce must be 32 bytes"), ({"nonce": NONCE + "00"}, 400, "Nonce must be 32 bytes"),
    ({"signing_algo": "rsa"}, 400, "Invalid signing algorithm. Must be 'ed25519' or 'ecdsa'"),
    ({"signing_address": "0x" + "00" * 20}, 404, "Signing address not found on this server"),
    ({"signing_address": ""}, 404, "Signing address not found on this server"),
    ({"include_tls_fingerprint": "1"}, 400, "include_tls_fingerprint must be true or false"),
])
def test_malformed_queries(identity: Identity, query: dict[str, str], status: int, reason: str) -> None:
    error = refusal(Attester(identity, "m", NoEvidence()), **query)
    assert (error.status, error.message) == (status, reason)


def test_an_address_is_found_in_any_case(identity: Identity) -> None:
    attester, address = Attester(identity, "m", NoEvidence()), identity.signing_address("ecdsa")
    assert report(attester, signing_address=address.upper())["signing_address"] == address
    assert refusal(attester, signing_address=address, signing_algo="ed25519").status == 404


def test_a_report_without_a_nonce_is_kept_for_five_minutes(identity: Identity) -> None:
    now, machine = [1000.0], Machine()
    attester = Attester(identity, "m", machine, spki=b"s" * 32, clock=lambda: now[0])
    first = report(attester)
    now[0] += 299
    assert report(attester) == first and len(machine.asked) == 1
    assert report(attester, nonce=first["request_nonce"]) == first and len(machine.asked) == 2  # made anew
    assert report(attester, signing_algo="ed25519") != first
    assert report(attester, include_tls_fingerprint="true")["request_nonce"] != first["request_nonce"]
    now[0] += 1
    assert report(attester)["request_nonce"] != first["request_nonce"]


def test_a_failure_is_not_kept(identity: Identity) -> None:
    class Flaky(Machine):
        async def evidence(self, report_data: bytes) -> Evidence:
            found = await super().evidence(report_data)
            if len(self.asked) == 1:
                raise NodeError(503, "no quote")
            return found

    attester = Attester(identity, "m", Flaky())
    assert refusal(attester).status == 503 and report(attester)["tee"] == "tdx"


@asynccontextmanager
async def dstack(socket: Path, answers: Mapping[str, bytes], asked: list[str]) -> AsyncIterator[None]:
    """A guest agent on a socket: status and body for each path; it hangs up on others."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        asked.append(f"{path} {(await reader.readexactly(length)).decode()}")
        status, _, body = answers.get(path, b"").partition(b" ")
        if status:
            writer.write(b"HTTP/1.1 %b X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)))
            writer.write(body)
        writer.close()

    async with await asyncio.start_unix_server(serve, socket):
        yield


def from_dstack(folder: Path, answers: Mapping[str, bytes], wanted: bytes) -> tuple[Evidence, list[str]]:
    asked: list[str] = []

    async def run() -> Evidence:
        async with dstack(folder / "s", answers, asked):
            return await DstackEvidence(folder / "s").evidence(wanted)

    return asyncio.run(run()), asked


def sample_answers(near_data: Path, **changes: object) -> dict[str, bytes]:
    content = json.loads((near_data / "nearai-vllm-proxy" / "sample_dstack_data.json").read_bytes())
    quoted = content["SAMPLE_DSTACK_QUOTE"] | {k: v for k, v in changes.items() if k in ("quote", "event_log")}
    info = content["SAMPLE_DSTACK_INFO"] | {k: v for k, v in changes.items() if k == "tcb_info"}
    return {"/GetQuote": b"200 " + json.dumps(quoted).encode(), "/Info": b"200 " + json.dumps(info).encode()}


@pytest.mark.parametrize("as_text", [False, True])
def test_dstack_evidence(near_data: Path, tmp_path: Path, as_text: bool) -> None:
    quote, log, info = recorded(near_data, "sample")
    changes = {"tcb_info": json.dumps(info["tcb_info"])} if as_text else {}
    found, asked = from_dstack(tmp_path, sample_answers(near_data, **changes), b"\1" * 64)
    assert asked == ["/GetQuote " + json.dumps({"report_data": "01" * 64}, separators=(",", ":")), "/Info {}"]
    assert found == Evidence("tdx", quote.hex(), log, info | changes)


def test_evidence_that_does_not_hold_together(near_data: Path, tmp_path: Path) -> None:
    quote, log, info = recorded(near_data, "sample")
    other = {**info["tcb_info"], "app_compose": "{}"}
    cases: list[tuple[dict[str, object], bytes, str]] = [
        ({}, b"\2" * 64, "report_data"), ({"event_log": log[:-1]}, b"\1" * 64, "RTMR3"),
        ({"event_log": "[1]"}, b"\1" * 64, "list of objects"), ({"event_log": "["}, b"\1" * 64, "hold together"),
        ({"tcb_info": other}, b"\1" * 64, "MRCONFIGID"), ({"tcb_info": None}, b"\1" * 64, "MRCONFIGID"),
        ({"quote": quote.hex()[2:]}, b"\1" * 64, "not a TDX quote"), ({"quote": None}, b"\1" * 64, "no hex")]
    for changes, wanted, reason in cases:
        with pytest.raises(NodeError, match=reason) as caught:
            from_dstack(tmp_path, sample_answers(near_data, **changes), wanted)
        assert caught.value.status == 503


@pytest.mark.parametrize(("answers", "reason"), [
    ({}, "socket failed"), ({"/GetQuote": b'500 {"error": "x"}'}, "socket failed"),
    ({"/GetQuote": b"200 [1]"}, "malformed"), ({"/GetQuote": b"200 {"}, "malformed"),
    ({"/GetQuote": b"200 {}", "/Info": b"200 {}"}, "no hex")])
def test_a_socket_that_fails(tmp_path: Path, answers: dict[str, bytes], reason: str) -> None:
    with pytest.raises(NodeError, match=reason) as caught:
        from_dstack(tmp_path, answers, bytes(64))
    assert caught.value.status == 503


def test_without_a_socket(tmp_path: Path, identity: Identity) -> None:
    provider: EvidenceProvider = DstackEvidence(tmp_path / "absent")
    error = refusal(Attester(identity, "m", provider))
    assert error.status == 503 and "guest agent" in error.message
