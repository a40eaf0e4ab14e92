"""Which changes of a file's bytes clear its set-user-ID and set-group-ID bits, and for whom.

The rule is the kernel's (`setattr_should_drop_suidgid`, fs/attr.c); under FUSE the file system has
to carry it out. The local file system is the reference.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.posix.calls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    fallocate,
)
from tests.posix.capabilities import Capability
from tests.processes import ALICE, ALICE_IN_TEAM, ROOT, TEAM_GID, User, run_as

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.data_path

KIB = 1024


def _by(mode: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        fd = os.open(path, os.O_RDWR)
        fallocate(fd, mode, 64 * KIB, 64 * KIB)
        os.close(fd)

    return change


def _write(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"x", 64 * KIB)
    os.close(fd)


def _truncate(path: Path) -> None:
    os.truncate(path, 64 * KIB)


def _open(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


CHANGES = {
    "allocate": _by(0),
    "punch": _by(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE),
    "zero": _by(FALLOC_FL_ZERO_RANGE),
    "write": _write,
    "truncate": _truncate,
    "open-truncating": _open,
}
MODES = (0o6666, 0o6676, 0o6766, 0o6777, 0o2666, 0o2676, 0o2777, 0o4666, 0o4777)
USERS = {"root": ROOT, "other": ALICE, "of-the-group": ALICE_IN_TEAM}


def _after(directory: Path, change: str, user: User) -> dict[str, str]:
    """Return the modes of changed files by their modes before."""
    paths = {mode: directory / f"{mode:o}" for mode in MODES}
    for mode, path in paths.items():
        path.write_bytes(b"X" * 192 * KIB)
        os.chown(path, 0, TEAM_GID)
        path.chmod(mode)
        os.listxattr(path)
        assert path.stat().st_mode & 0o7777 == mode

    def change_all() -> None:
        for path in paths.values():
            CHANGES[change](path)

    run_as(user, change_all)
    return {f"{mode:o}": f"{path.stat().st_mode & 0o7777:o}" for mode, path in paths.items()}


@pytest.mark.needs(Capability.FALLOCATE)
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("change", CHANGES)
def test_bits_are_cleared_as_on_a_local_file_system(
    place: Path, reference: Path, change: str, user: str
) -> None:
    place.chmod(0o777)
    found = _after(place, change, USERS[user])
    assert found == _after(reference, change, USERS[user])
