"""Permissions by ids: the same answers as the kernel gives, with ACLs and without."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.namespace.acl import ACCESS_XATTR
from memfs.namespace.permissions import READ, SEARCH, Credentials, permits
from tests.processes import ALICE, ALICE_IN_TEAM, BOB, TEAM_GID, User, run_as

if TYPE_CHECKING:
    from pathlib import Path

    from tests.scratch import Scratch

USERS = (ALICE, ALICE_IN_TEAM, BOB, User(BOB.uid, TEAM_GID), User(54999, 54999, (ALICE.gid,)))
ENTRIES = (
    *(f"u:{user.uid}:{bits}" for user in (ALICE, BOB) for bits in ("r", "x", "rx", "-")),
    *(f"g:{gid}:{bits}" for gid in (TEAM_GID, ALICE.gid) for bits in ("r", "x", "rx", "-")),
)
COUNT = 300


def test_the_kernel_gives_the_same_answers(scratch_area: Scratch) -> None:
    directory = scratch_area.directory("permissions")
    rng = random.Random(7)
    paths = []
    for number in range(COUNT):
        path = directory / str(number)
        path.touch()
        owner, group = rng.choice(USERS), rng.choice((ALICE.gid, TEAM_GID, BOB.gid))
        os.chown(path, owner.uid, group)
        if number % 2:
            entries = ",".join(rng.sample(ENTRIES, rng.randrange(1, 4)))
            subprocess.run(["setfacl", "-m", entries, path], check=True)
        path.chmod(rng.randrange(0o1000))
        paths.append(path)
    answers = set()
    for user in USERS:
        expected = run_as(user, allowed, paths)
        who = Credentials(user.uid, user.gid, frozenset(user.groups))
        for path, (may_read, may_search, may_both) in zip(paths, expected, strict=True):
            status = path.stat()
            access_acl = None
            if ACCESS_XATTR.decode() in os.listxattr(path):
                access_acl = os.getxattr(path, ACCESS_XATTR)
            ids = (status.st_mode, status.st_uid, status.st_gid, access_acl)
            assert permits(who, *ids, READ) == may_read
            assert permits(who, *ids, SEARCH) == may_search
            assert permits(who, *ids, READ | SEARCH) == may_both
            answers.add((access_acl is not None, may_read, may_search))
    assert len(answers) == 8


def allowed(paths: list[Path]) -> list[tuple[bool, ...]]:
    """Both at once can be refused although each is granted, by entries of two groups."""
    wishes = (os.R_OK, os.X_OK, os.R_OK | os.X_OK)
    return [tuple(os.access(path, wish) for wish in wishes) for path in paths]


def test_a_damaged_list_permits_nothing() -> None:
    who = Credentials(1, 1, frozenset())
    assert not permits(who, 0o777, 2, 2, b"\x02", READ)
