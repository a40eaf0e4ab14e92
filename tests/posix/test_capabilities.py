"""The table of capabilities against what each place really does, in both directions."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from memfs.linux.readiness import await_ready
from memfs_daemon.capabilities import as_markdown
from tests.outcomes import error_of
from tests.posix import calls
from tests.posix.capabilities import REFUSALS, Capability
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Site

pytestmark = pytest.mark.data_path

MIB = 1 << 20

# An access list of version 2 that grants user 54321 reading, with its mask (posix_acl_xattr.h).
ACL_VALUE = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, identity)
    for tag, permissions, identity in [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 54321),
        (0x04, 0, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
)


def _fallocates(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        calls.fallocate(fd, 0, 0, MIB)
    finally:
        os.close(fd)


def _makes_nameless_files(place: Path) -> None:
    os.close(os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600))


def _finds_holes(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.ftruncate(fd, MIB)
        if os.lseek(fd, 0, os.SEEK_HOLE) != 0:
            raise NotImplementedError
    finally:
        os.close(fd)


def _tells_birth(place: Path) -> None:
    (place / "f").touch()
    if not calls.statx_times(place / "f").mask & calls.STATX_BTIME:
        raise NotImplementedError


def _keeps_access_lists(place: Path) -> None:
    (place / "f").touch()
    os.setxattr(place / "f", "system.posix_acl_access", ACL_VALUE)


def _keeps_large_xattrs(place: Path) -> None:
    (place / "f").touch()
    os.setxattr(place / "f", "user.k", bytes(65536))


def _has_memfs_xattrs(place: Path) -> None:
    (place / "f").touch()
    os.getxattr(place / "f", "user.memfs.tier")


PROBES: dict[Capability, Callable[[Path], None]] = {
    Capability.FALLOCATE: _fallocates,
    Capability.TMPFILE: _makes_nameless_files,
    Capability.SEEK_HOLE: _finds_holes,
    Capability.BIRTH_TIME: _tells_birth,
    Capability.ACL: _keeps_access_lists,
    Capability.LARGE_XATTRS: _keeps_large_xattrs,
    Capability.MEMFS_XATTRS: _has_memfs_xattrs,
}


@pytest.mark.parametrize("capability", PROBES, ids=lambda capability: capability.name)
def test_the_table_is_right(
    place: Path, capabilities: frozenset[Capability], capability: Capability
) -> None:
    try:
        failure = error_of(PROBES[capability], place)
        absent = failure is not None
    except NotImplementedError:
        failure, absent = None, True
    assert absent == (capability not in capabilities)
    if absent and capability in REFUSALS:
        assert failure == errno.errorcode[REFUSALS[capability]]


@pytest.mark.needs(Capability.MEMFS_XATTRS)
def test_passthrough_needs_no_daemon(site: Site, place: Path) -> None:
    """A stopped daemon answers nothing, so what still moves bytes is the kernel alone."""
    assert site.mount is not None
    daemon_pids = site.mount.daemon_pids()
    script = f"""
import os, signal
fd = os.open({str(place / "f")!r}, os.O_CREAT | os.O_RDWR, 0o600)
os.pwrite(fd, b"the first write asks for security.capability", 0)
os.pread(fd, 1, 0)
for pid in {daemon_pids}: os.kill(pid, signal.SIGSTOP)
os.pwrite(fd, b"past the daemon", 1 << 20)
assert os.pread(fd, 15, 1 << 20) == b"past the daemon"
print("moved", flush=True)
"""
    program = subprocess.Popen(["python3", "-c", script], stdout=subprocess.PIPE)
    try:
        # Where bytes must move, only a hang reaches the limit; where they must not, all runs do.
        passes = Capability.PASSTHROUGH in site.capabilities
        moved = _reads_within(program, limit_s=60.0 if passes else 3.0)
    finally:
        for pid in daemon_pids:
            os.kill(pid, signal.SIGCONT)
        program.communicate(timeout=WAIT_S)
    assert moved == passes


def _reads_within(program: subprocess.Popen[bytes], limit_s: float) -> bool:
    assert program.stdout is not None
    return bool(await_ready([program.stdout.fileno()], limit_s))


def test_the_reference_shows_the_table(request: pytest.FixtureRequest) -> None:
    assert as_markdown() in (request.config.rootpath / "docs/reference/drivers.md").read_text()
