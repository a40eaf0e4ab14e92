"""flock(2), POSIX record locks and open file description locks, between processes."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix.calls import F_OFD_GETLK, F_OFD_SETLK
from tests.processes import holding, in_child, together

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHOLE = (0, 0)
"""Start and length of a lock on all bytes, those to come included."""

BUSY = ("EAGAIN", "EACCES")


@pytest.fixture
def fd(place: Path) -> Iterator[int]:
    """A handle of a file of 1000 bytes."""
    handle = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(handle, bytes(1000))
    yield handle
    os.close(handle)


def _record(kind: int, start: int, length: int, pid: int = 0) -> bytes:
    """`struct flock` on 64-bit Linux."""
    return struct.pack("=hhxxxxqqixxxx", kind, os.SEEK_SET, start, length, pid)


def _open_and(place: Path, lock: int, start: int, length: int) -> int:
    handle = os.open(place / "f", os.O_RDWR)
    fcntl.lockf(handle, lock | fcntl.LOCK_NB, length, start)
    return handle


def _refusal(place: Path) -> str | None:
    return error_of(_open_and, place, fcntl.LOCK_EX, *WHOLE)


def _flock(place: Path, lock: int) -> int:
    handle = os.open(place / "f", os.O_RDWR)
    fcntl.flock(handle, lock | fcntl.LOCK_NB)
    return handle


def test_flock_excludes_and_shares(place: Path, fd: int) -> None:
    with holding(lambda: _flock(place, fcntl.LOCK_SH)):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert error_of(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB) in BUSY
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert in_child(error_of, _flock, place, fcntl.LOCK_SH) in BUSY
    fcntl.flock(fd, fcntl.LOCK_UN)
    assert in_child(error_of, _flock, place, fcntl.LOCK_EX) is None


def test_flock_belongs_to_the_open_file_and_not_to_the_process(place: Path, fd: int) -> None:
    other = os.open(place / "f", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert error_of(fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB) in BUSY
    twin = os.dup(fd)
    os.close(other)
    fcntl.flock(twin, fcntl.LOCK_UN)
    os.close(twin)
    assert in_child(error_of, _flock, place, fcntl.LOCK_EX) is None


def test_record_locks_conflict_where_they_overlap(place: Path, fd: int) -> None:
    with holding(lambda: _open_and(place, fcntl.LOCK_EX, 100, 50)):
        for start, length, expected in [(0, 100, None), (150, 100, None), (0, 0, "EAGAIN")]:
            failure = error_of(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            assert (failure in BUSY) == (expected in BUSY)
        assert error_of(fcntl.lockf, fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 149) in BUSY


def test_record_locks_tell_who_holds_them(place: Path, fd: int) -> None:
    with holding(lambda: (_open_and(place, fcntl.LOCK_EX, 10, 5), os.getpid())) as (_, pid):
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, _record(fcntl.F_WRLCK, 0, 100))
        kind, _whence, start, length, holder = struct.unpack("=hhxxxxqqixxxx", answer)
        assert (kind, start, length, holder) == (fcntl.F_WRLCK, 10, 5, pid)
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, _record(fcntl.F_WRLCK, 0, 100))
    assert struct.unpack_from("=h", answer)[0] == fcntl.F_UNLCK


def test_closing_any_handle_drops_the_record_locks_of_the_process(place: Path, fd: int) -> None:
    fcntl.lockf(fd, fcntl.LOCK_EX)
    assert in_child(_refusal, place) in BUSY
    os.close(os.open(place / "f", os.O_RDONLY))
    assert in_child(_refusal, place) is None


def test_locks_of_a_killed_process_are_gone(place: Path, fd: int) -> None:
    with holding(lambda: (_open_and(place, fcntl.LOCK_EX, *WHOLE), os.getpid())) as (_, pid):
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_open_file_description_locks_conflict_within_a_process(place: Path, fd: int) -> None:
    other = os.open(place / "f", os.O_RDWR)
    fcntl.fcntl(fd, F_OFD_SETLK, _record(fcntl.F_WRLCK, 0, 10))
    overlapping = _record(fcntl.F_WRLCK, 5, 10)
    assert error_of(fcntl.fcntl, other, F_OFD_SETLK, overlapping) in BUSY
    fcntl.fcntl(other, F_OFD_SETLK, _record(fcntl.F_WRLCK, 10, 10))
    answer = fcntl.fcntl(other, F_OFD_GETLK, _record(fcntl.F_WRLCK, 0, 5))
    assert struct.unpack_from("=h", answer)[0] == fcntl.F_WRLCK
    os.close(os.dup(fd))
    assert error_of(fcntl.fcntl, other, F_OFD_SETLK, overlapping) in BUSY
    os.close(other)


def test_a_shared_record_lock_needs_a_readable_handle(place: Path, fd: int) -> None:
    writer = os.open(place / "f", os.O_WRONLY)
    assert error_of(fcntl.lockf, writer, fcntl.LOCK_SH | fcntl.LOCK_NB) == "EBADF"
    os.close(writer)


def test_deadlocks_are_found(place: Path, fd: int) -> None:
    """Two processes that would wait for each other: the kernel refuses one of them."""
    ready = [os.pipe(), os.pipe()]

    def lock_both(index: int) -> str | None:
        handle = os.open(place / "f", os.O_RDWR)
        fcntl.lockf(handle, fcntl.LOCK_EX, 1, index)
        os.write(ready[1 - index][1], b"x")
        os.read(ready[index][0], 1)
        return error_of(fcntl.lockf, handle, fcntl.LOCK_EX, 1, 1 - index)

    assert sorted(map(str, together(2, lock_both))) == ["EDEADLOCK", "None"]
    for pair in ready:
        os.close(pair[0])
        os.close(pair[1])


def test_a_counter_under_a_lock_loses_no_step(place: Path) -> None:
    (place / "counter").write_text("0")

    def count(_index: int) -> None:
        for _ in range(50):
            with (place / "counter").open("r+") as file:
                fcntl.lockf(file, fcntl.LOCK_EX)
                value = int(file.read())
                file.seek(0)
                file.write(str(value + 1))
                file.flush()

    together(3, count)
    assert (place / "counter").read_text() == "150"
