"""Who is at the other end of a socket, and behind a request."""

from __future__ import annotations

import os
import socket

import pytest

from memfs.linux.peers import Peer, peer_of
from memfs.linux.processes import ids_of
from tests.processes import ALICE, ALICE_IN_TEAM, TEAM_GID, User, holding, run_as

MANY = User(ALICE.uid, ALICE.gid, tuple(range(60_000, 60_400)))


@pytest.mark.parametrize("user", [ALICE, ALICE_IN_TEAM, MANY], ids=["alone", "in team", "in many"])
def test_the_kernel_tells_who_has_connected(user: User) -> None:
    """Groups too, and more of them than Python has room for."""

    def seen() -> Peer:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            return peer_of(ours)

    peer = run_as(user, seen)
    assert peer[1:] == (user.uid, user.gid, frozenset(user.groups))


def test_the_ids_of_a_thread_are_told_as_long_as_it_lives() -> None:
    with holding(os.getpid, ALICE_IN_TEAM) as pid:
        assert ids_of(pid) == (ALICE.uid, ALICE.gid, frozenset({TEAM_GID}))
    assert ids_of(pid) is None
    assert ids_of(0) is None
