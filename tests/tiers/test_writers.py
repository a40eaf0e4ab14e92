"""Writers: cold and glacier files are written like all others, and no file moves under a writer."""

from __future__ import annotations

import mmap
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.posix.capabilities import Capability
from tests.processes import in_child
from tests.tiers.tiering import (
    compressible,
    let_mover_look,
    pin,
    residence,
    send,
    told,
    wait_until_at,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.data_path]

MIB = 1 << 20
LARGE = compressible(3 * MIB + 77)
SMALL = compressible(50_000)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(MIB - 5)
        file.write(b"across frames")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"at the end")


def cut(path: Path) -> None:
    os.truncate(path, MIB + 1)


def grow(path: Path) -> None:
    os.truncate(path, 4 * MIB)


def replace(path: Path) -> None:
    path.write_bytes(b"short")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def write_by_map(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[100:105] = b"inmap"


CHANGES: dict[str, tuple[Callable[[Path], None], Callable[[bytes], bytes]]] = {
    "overwrite": (
        overwrite,
        lambda old: old[: MIB - 5] + b"across frames" + old[MIB + 8 :],
    ),
    "append": (append, lambda old: old + b"at the end"),
    "cut": (cut, lambda old: old[: MIB + 1]),
    "grow": (grow, lambda old: old + bytes(4 * MIB - len(old))),
    "replace": (replace, lambda _: b"short"),
    "empty": (empty, lambda _: b""),
    "map": (write_by_map, lambda old: old[:100] + b"inmap" + old[105:]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tier", ["cold", "glacier"])
def test_a_change_shows_at_once_also_to_readers_from_before(
    place: Path, tier: str, change: str
) -> None:
    """Another process writes while one reads by frames: both see one file."""
    apply, expect = CHANGES[change]
    path = place / "large"
    path.write_bytes(LARGE)
    send(tier, path)
    expected = expect(LARGE)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(fd, 1000, 2 * MIB) == LARGE[2 * MIB : 2 * MIB + 1000]
        in_child(apply, path)
        assert os.fstat(fd).st_size == len(expected)
        assert os.pread(fd, 5 * MIB, 0) == expected
        assert path.read_bytes() == expected
    finally:
        os.close(fd)
    wait_until_at(tier, path)
    assert path.read_bytes() == expected


@pytest.mark.parametrize("tier", ["cold", "glacier"])
def test_a_change_without_readers_is_kept(place: Path, tier: str) -> None:
    """All changes one after the other, with the way down to the tier between them."""
    path = place / "large"
    path.write_bytes(LARGE)
    expected = LARGE
    for name in ("overwrite", "append", "map", "cut", "grow", "replace"):
        send(tier, path)
        apply, expect = CHANGES[name]
        apply(path)
        expected = expect(expected)
        assert path.read_bytes() == expected, name
        assert path.stat().st_size == len(expected)


@pytest.mark.parametrize("tier", ["cold", "glacier"])
def test_times_follow_the_change_and_not_the_fetch(place: Path, tier: str) -> None:
    """Opening for writing fetches the bytes; only writing renews mtime."""
    path = place / "file"
    path.write_bytes(SMALL)
    os.utime(path, ns=(10**18, 10**18))
    send(tier, path)
    with path.open("r+b"):
        pass
    assert path.stat().st_mtime_ns == 10**18
    append(path)
    assert path.stat().st_mtime_ns > 10**18


@pytest.mark.parametrize("tier", ["cold", "glacier"])
def test_a_file_that_is_open_for_writing_stays(place: Path, tier: str) -> None:
    """Until it is closed; then it goes, with the last byte."""
    path = place / "file"
    with path.open("wb") as file:
        file.write(SMALL)
        file.flush()
        pin(path, tier)
        let_mover_look(place / "witness")
        assert residence(path).forms == ["raw"]
        assert told(path, "state") == "dirty"
        assert "open for writing" in told(path, "why")
        file.write(b"last")
    wait_until_at(tier, path)
    assert path.read_bytes() == SMALL + b"last"


@pytest.mark.parametrize("tier", ["cold", "glacier"])
def test_a_file_that_is_mapped_for_writing_stays(place: Path, tier: str) -> None:
    """A shared map outlives its descriptor, and may write until it is gone."""
    path = place / "file"
    path.write_bytes(SMALL)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    try:
        pin(path, tier)
        let_mover_look(place / "witness")
        assert residence(path).forms == ["raw"]
        assert "for writing; it moves when that ends" in told(path, "why")
        mapped[-4:] = b"last"
    finally:
        mapped.close()
    wait_until_at(tier, path)
    assert path.read_bytes() == SMALL[:-4] + b"last"


@pytest.mark.parametrize("tier", ["cold", "glacier"])
def test_bytes_of_a_map_reach_all_forms_though_their_program_is_killed(
    place: Path, tier: str
) -> None:
    """Pages that it has dirtied after closing its descriptor are written before the file goes."""
    path = place / "file"
    path.write_bytes(LARGE)
    pin(path, tier)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if not pid:
        fd = os.open(path, os.O_RDWR)
        mapped = mmap.mmap(fd, 0)
        os.close(fd)
        os.write(write_fd, b"mapped")
        for offset in range(0, len(LARGE), mmap.PAGESIZE):
            mapped[offset : offset + 6] = b"mapped"
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        assert os.read(read_fd, 6) == b"mapped"
    finally:
        os.waitpid(pid, 0)
        os.close(read_fd)
        os.close(write_fd)
    wait_until_at(tier, path)
    content = path.read_bytes()
    assert len(content) == len(LARGE)
    for offset in range(0, len(LARGE), mmap.PAGESIZE):
        assert content[offset : offset + 6] == b"mapped"
        end = offset + mmap.PAGESIZE
        assert content[offset + 6 : end] == LARGE[offset + 6 : end]


def test_a_file_that_is_open_for_reading_is_uploaded_and_dropped_later(place: Path) -> None:
    """A reader keeps the raw file; that it waits for the reader is told."""
    path = place / "file"
    path.write_bytes(SMALL)
    with path.open("rb") as file:
        pin(path, "glacier")
        wait_for(lambda: told(path, "state") == "remote", lambda: residence(path))
        let_mover_look(place / "witness")
        assert "raw" in residence(path).forms
        assert file.read() == SMALL
    wait_until_at("glacier", path)


def test_a_file_that_is_mapped_for_reading_keeps_its_raw_file(place: Path) -> None:
    """A later writer must change what the map shows."""
    path = place / "file"
    path.write_bytes(SMALL)
    fd = os.open(path, os.O_RDONLY)
    with mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as mapped:
        os.close(fd)
        pin(path, "glacier")
        let_mover_look(place / "witness")
        with path.open("r+b") as file:
            file.write(b"seen")
        assert mapped[:4] == b"seen"
    wait_until_at("glacier", path)
    assert path.read_bytes() == b"seen" + SMALL[4:]


def test_a_file_deleted_while_it_moves_is_gone(place: Path) -> None:
    """Nothing of it comes back, and nothing of it is left (fsck looks in the end)."""
    for round_number in range(20):
        path = place / f"file-{round_number}"
        path.write_bytes(compressible(300_000, seed=round_number))
        pin(path, "glacier" if round_number % 2 else "cold")
        path.unlink()
        assert not path.exists()


def test_a_file_rewritten_while_it_moves_has_the_new_content(place: Path) -> None:
    """What was packed or uploaded of the old one is never published for the new one."""
    path = place / "file"
    for round_number in range(20):
        content = compressible(300_000, seed=round_number)
        path.write_bytes(content)
        pin(path, ("glacier", "cold", "warm")[round_number % 3])
        assert path.read_bytes() == content
    send("glacier", path)
    assert path.read_bytes() == content
