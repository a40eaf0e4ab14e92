"""mmap(2) of files: shared and private maps, and what happens to the file below them."""

from __future__ import annotations

import mmap
import operator
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.posix.calls import mtime_alone
from tests.posix.capabilities import Capability
from tests.processes import holding, in_child, killed_by, together
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path

PAGE = mmap.PAGESIZE

SOON_S = 20.0
"""The kernel believes attributes for 1 s while a map may write, else for a day; the rest is for a
loaded machine."""


def _overwrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


def test_a_private_map_reads_the_file_and_keeps_writes_to_itself(place: Path) -> None:
    (place / "f").write_bytes(b"f" * 3 * PAGE)
    with (
        (place / "f").open("rb") as file,
        mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        ) as private,
    ):
        private[PAGE] = ord("p")
        assert private[PAGE - 1 : PAGE + 2] == b"fpf"
    assert (place / "f").read_bytes() == b"f" * 3 * PAGE


def test_a_shared_map_writes_the_file(place: Path) -> None:
    (place / "f").write_bytes(bytes(2 * PAGE))
    with (place / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[PAGE - 1 : PAGE + 1] = b"ab"
        assert os.pread(file.fileno(), 2, PAGE - 1) == b"ab"
    assert bytes(PAGE - 1) + b"ab" + bytes(PAGE - 1) == (place / "f").read_bytes()


def test_a_shared_map_shows_writes_by_others(place: Path) -> None:
    (place / "f").write_bytes(bytes(PAGE))
    with (
        (place / "f").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as shared,
    ):
        assert shared[:1] == b"\0"
        in_child(_overwrite, place / "f", b"new")
        assert shared[:3] == b"new"


def test_two_processes_share_one_map(place: Path) -> None:
    (place / "f").write_bytes(bytes(4 * PAGE))

    def fill(index: int) -> None:
        with (place / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
            for page in range(4):
                shared[page * PAGE + index] = index + 1

    together(4, fill)
    assert (b"\1\2\3\4" + bytes(PAGE - 4)) * 4 == (place / "f").read_bytes()


def test_msync_makes_a_map_durable_and_updates_mtime(place: Path) -> None:
    (place / "f").write_bytes(bytes(PAGE))
    os.utime(place / "f", ns=(0, 0))
    with (place / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[:4] = b"sync"
        shared.flush()
        assert (place / "f").stat().st_mtime_ns > 0
    assert (place / "f").read_bytes()[:4] == b"sync"


def test_a_map_lives_on_after_close_and_unlink(place: Path) -> None:
    (place / "f").write_bytes(b"content!" * 1024)
    with (place / "f").open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
    (place / "f").unlink()
    shared[:8] = b"changed!"
    assert shared[:16] == b"changed!content!"
    shared.close()
    assert os.listdir(place) == []


def test_writes_to_a_map_after_close_reach_the_file(place: Path) -> None:
    """A file with a writable map still has a writer, though no handle is open."""
    (place / "f").write_bytes(bytes(PAGE))
    with (place / "f").open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
    assert bytes(PAGE) == (place / "f").read_bytes()
    shared[:5] = b"later"
    assert (place / "f").read_bytes()[:5] == b"later"
    shared.flush()
    shared.close()
    assert (place / "f").read_bytes()[:5] == b"later"


def test_a_map_of_another_process_keeps_writing_after_its_close(place: Path) -> None:
    (place / "f").write_bytes(bytes(PAGE))
    maps: list[mmap.mmap] = []

    def write_and_keep() -> None:
        with (place / "f").open("r+b") as file:
            maps.append(mmap.mmap(file.fileno(), 0))
        maps[0][:4] = b"kept"

    with holding(write_and_keep):
        assert (place / "f").read_bytes()[:4] == b"kept"
    assert (place / "f").read_bytes()[:4] == b"kept"


def test_truncate_under_a_map_makes_the_lost_pages_sigbus(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 2 * PAGE)

    with (place / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        os.ftruncate(file.fileno(), PAGE)
        assert shared[PAGE - 1 : PAGE] == b"x"

        def touch_lost_page() -> None:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            shared[PAGE]

        assert killed_by(touch_lost_page) == signal.SIGBUS


def test_growing_again_after_truncate_shows_zeros_in_the_map(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 2 * PAGE)
    with (place / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        os.ftruncate(file.fileno(), 100)
        os.ftruncate(file.fileno(), 2 * PAGE)
        assert b"x" * 100 + bytes(2 * PAGE - 100) == shared[:]


def test_bytes_past_the_end_in_the_last_page_are_zero_and_stay_out_of_the_file(
    place: Path,
) -> None:
    (place / "f").write_bytes(b"abc")
    with (place / "f").open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 3)
        shared.flush()
        shared.close()
    assert (place / "f").read_bytes() == b"abc"


def test_a_read_only_handle_cannot_be_mapped_shared_for_writing(place: Path) -> None:
    (place / "f").write_bytes(bytes(PAGE))
    with (place / "f").open("rb") as file, pytest.raises(PermissionError):
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def test_a_large_map_reads_what_was_written(place: Path) -> None:
    page_count = 4096
    with (place / "f").open("wb") as file:
        for number in range(page_count):
            file.write(number.to_bytes(8, "big") + bytes(PAGE - 8))
    with (
        (place / "f").open("rb") as reader,
        mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as shared,
    ):
        for number in range(0, page_count, 7):
            at = number * PAGE
            assert number == int.from_bytes(shared[at : at + 8], "big")


def test_a_program_on_the_mount_can_be_run(place: Path) -> None:
    program = shutil.copy("/bin/echo", place / "echo")
    done = subprocess.run([program, "ran"], capture_output=True, check=True)
    assert done.stdout == b"ran\n"


def test_a_script_on_the_mount_can_be_run(place: Path) -> None:
    (place / "script").write_text("#!/bin/sh\necho scripted\n")
    (place / "script").chmod(0o755)
    done = subprocess.run([place / "script"], capture_output=True, check=True)
    assert done.stdout == b"scripted\n"


def test_a_running_program_may_be_replaced_by_rename(place: Path) -> None:
    program = place / "sleep"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as running:
        shutil.copy("/bin/echo", place / "new")
        (place / "new").rename(program)
        assert running.poll() is None
        running.kill()
    assert subprocess.run([program, "x"], capture_output=True, check=True).stdout == b"x\n"


def _make_sparse(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 64 * PAGE)


def _let_it_be_sealed(path: Path, capabilities: frozenset[Capability]) -> None:
    """Have memfs take a file for one that nobody writes, whose attributes the kernel keeps."""
    if Capability.MEMFS_XATTRS in capabilities:
        assert os.getxattr(path, "user.memfs.tier")
    os.utime(path, (5, 5))


def _wait_for_a_tick(since_ns: int) -> None:
    coarse = 5  # CLOCK_REALTIME_COARSE
    wait_for(lambda: time.clock_gettime_ns(coarse) > since_ns, "a tick of the clock")


def _times_and_blocks(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_blocks


@pytest.mark.parametrize("looked_at", [False, True], ids=["", "looked-at-between"])
def test_a_write_by_a_map_shows_once_it_is_unmapped_and_closed(
    place: Path, capabilities: frozenset[Capability], looked_at: bool
) -> None:
    path = place / "f"
    for serial in range(5):
        _make_sparse(path)
        _let_it_be_sealed(path, capabilities)
        before = _times_and_blocks(path)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
            if looked_at:
                shared[0] = 1
                shared.flush()
                before = _times_and_blocks(path)
                _wait_for_a_tick(before[1])
            shared[32 * PAGE] = serial + 1
            shared.flush()
        after = _times_and_blocks(path)
        assert all(now > then for now, then in zip(after, before, strict=True)), serial


def _wait_until_all_later(path: Path, before: tuple[int, int, int]) -> None:
    wait_for(
        lambda: all(map(operator.gt, _times_and_blocks(path), before)),
        "mtime, ctime and blocks",
        2.0,  # 1 s, and as much for a loaded machine
    )


def test_a_write_by_a_map_shows_soon_where_the_file_is_asked_about_all_the_time(
    place: Path,
) -> None:
    """Within 1 s while it is open, and when it is closed."""
    path = place / "f"
    _make_sparse(path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        for page in (32, 48):
            for _ in range(50):
                before = _times_and_blocks(path)
            _wait_for_a_tick(before[1])
            shared[page * PAGE] = 1
            shared.flush()
            if page == 32:
                _wait_until_all_later(path, before)
    _wait_until_all_later(path, before)


def test_a_write_by_a_map_that_outlives_its_handle_shows_within_a_second(
    place: Path, capabilities: frozenset[Capability]
) -> None:
    path = place / "f"
    _make_sparse(path)
    _let_it_be_sealed(path, capabilities)
    before = _times_and_blocks(path)
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
    with shared:
        _times_and_blocks(path)
        shared[32 * PAGE] = 1
        shared.flush()
        wait_for(lambda: all(map(operator.gt, _times_and_blocks(path), before)), "times", SOON_S)


def test_a_write_by_a_map_shows_to_who_asks_for_the_mtime_alone(
    place: Path, capabilities: frozenset[Capability]
) -> None:
    """The kernel then has no reason of its own to ask again: nothing read the file."""
    path = place / "f"
    _make_sparse(path)
    _let_it_be_sealed(path, capabilities)
    before_ns = mtime_alone(path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        shared[32 * PAGE] = 1
        shared.flush()
        wait_for(lambda: mtime_alone(path) > before_ns, "the mtime", SOON_S)
