"""Digests against the same made by hand: a tree's nodes, the groups of states, the seed."""

import struct
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from nearfield.proof.digest import StateDigests, digests_of, hash_ids, merkle_root, state_root, tagged
from nearfield.proof.nonces import NONCE_SECONDS, NodeNonces, seed_of


def h(data: bytes) -> bytes:
    return sha256(data).digest()


def test_a_tree_by_hand() -> None:
    a, b, c, d, e = (h(b"\0" + bytes([i]) * 32) for i in range(5))
    ab, cd = h(b"\1" + a + b), h(b"\1" + c + d)
    top = h(b"\1" + h(b"\1" + ab + cd) + e)
    leaves = [bytes([i]) * 32 for i in range(5)]
    assert merkle_root("states", leaves) == h(b"nearfield states v1\0" + struct.pack("<Q", 5) + top)
    assert merkle_root("states", leaves[:1]) == h(b"nearfield states v1\0" + struct.pack("<Q", 1) + a)
    assert merkle_root("states", []) == h(b"nearfield states v1\0" + struct.pack("<Q", 0))
    assert merkle_root("model", leaves) != merkle_root("states", leaves)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=9), st.lists(st.binary(min_size=32, max_size=32),
                                                                            max_size=9))
def test_other_leaves_have_another_root(one: list[bytes], two: list[bytes]) -> None:
    assert (state_root(one) == state_root(two)) == (one == two)


@given(st.integers(0, 100))
def test_thirty_two_states_share_a_digest(count: int) -> None:
    states = [bytes([i]) * 12 for i in range(count)]
    by_hand = tuple(h(b"".join(states[first:first + 32])) for first in range(0, count, 32))
    assert digests_of(states) == by_hand
    made = StateDigests()
    for i, state in enumerate(states):
        made.add(state)
        assert made.all()[:i // 32] == by_hand[:i // 32]


def test_ids_are_32_bits_each() -> None:
    assert hash_ids("prompt", (1, 258)) == h(b"nearfield prompt v1\0" + b"\1\0\0\0\2\1\0\0")
    assert hash_ids("prompt", (1,)) != hash_ids("output", (1,))


def test_the_seed_is_of_both_nonces_and_the_place() -> None:
    client, node = b"c" * 32, b"n" * 32
    by_hand = int.from_bytes(h(b"nearfield seed v1\0" + client + node + struct.pack("<I", 3))[:8], "big")
    assert seed_of(client, node, 3) == by_hand
    assert len({seed_of(client, node, 0), seed_of(node, client, 0), seed_of(client, node, 1), by_hand}) == 4
    assert tagged("seed", b"") != tagged("receipt", b"")


def test_a_nonce_is_good_once_and_for_a_while() -> None:
    now = [0.0]
    nonces = NodeNonces(clock=lambda: now[0])
    one, two = nonces.hand_out(), nonces.hand_out()
    assert one != two and len(one) == 32
    assert nonces.use(one) and not nonces.use(one) and not nonces.use(bytes(32))
    now[0] = NONCE_SECONDS + 1
    assert not nonces.use(two)


def test_nonces_that_nobody_uses_do_not_fill_the_memory() -> None:
    nonces = NodeNonces(clock=lambda: 0.0)
    first = nonces.hand_out()
    last = [nonces.hand_out() for _ in range(10_000)][-1]
    assert not nonces.use(first) and nonces.use(last)
