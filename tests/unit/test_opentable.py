"""Open modes and backing ids: what the kernel would refuse must never be asked of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfs.content.opening import Handle, OpenMode
from memfs.content.opentable import OpenTable, SyncedFile
from memfs.stores.raw import RawStore
from memfs.types import NO_RAW, InodeNo, RawId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INO = InodeNo(7)
RAW = RawId(7)


class FakeBacking:
    """The kernel's registry: counts what is registered; can refuse."""

    def __init__(self) -> None:
        self.live: set[int] = set()
        self.registered_count = 0
        self.refuses = False
        self.available = True

    def register(self, fd: int) -> int:
        os.fstat(fd)
        if self.refuses:
            raise PermissionError(1, "refused")
        self.registered_count += 1
        self.live.add(self.registered_count)
        return self.registered_count

    def release(self, backing: int) -> None:
        self.live.remove(backing)


@pytest.fixture
def raw_store(tmp_path: Path) -> Iterator[RawStore]:
    store = RawStore(tmp_path)
    os.close(store.create(RAW))
    os.close(store.create(RawId(8)))
    yield store
    store.close()


def test_opens_of_one_inode_share_a_backing_id(raw_store: RawStore) -> None:
    """Two passthrough opens with different backing files are EIO (fs/fuse/iomode.c)."""
    backing = FakeBacking()
    table = OpenTable(raw_store, backing)
    first = table.choose(INO, RAW)
    table.add(INO, first[0], writable=False)
    assert table.choose(INO, RAW) == first == (OpenMode.PASSTHROUGH, 1)
    assert backing.registered_count == 1


def test_backing_id_is_kept_for_the_next_open(raw_store: RawStore) -> None:
    """Opening again needs no ioctl."""
    backing = FakeBacking()
    table = OpenTable(raw_store, backing)
    mode, _ = table.choose(INO, RAW)
    table.remove(INO, table.add(INO, mode, writable=True))
    assert not table.is_open(INO)
    assert table.choose(INO, RAW)[1] == 1
    assert backing.registered_count == 1


def test_another_raw_file_gets_another_backing_id(raw_store: RawStore) -> None:
    """The old id would serve the old bytes, and keep their disk space."""
    backing = FakeBacking()
    table = OpenTable(raw_store, backing)
    table.choose(INO, RAW)
    assert table.choose(INO, RawId(8))[1] == 2
    assert backing.live == {2}


def test_idle_backing_ids_are_bounded(raw_store: RawStore) -> None:
    """Each pins memory in the kernel."""
    backing = FakeBacking()
    table = OpenTable(raw_store, backing, 20)
    for number in range(30):
        ino = InodeNo(100 + number)
        mode, _ = table.choose(ino, RAW)
        table.remove(ino, table.add(ino, mode, writable=False))
    assert len(backing.live) == 20
    table.close()
    assert backing.live == set()


def test_without_raw_file_the_open_is_direct_and_later_ones_too(raw_store: RawStore) -> None:
    """While a direct handle lives, a mapping of it may forbid passthrough."""
    table = OpenTable(raw_store, FakeBacking())
    mode, _ = table.choose(INO, NO_RAW)
    handle = table.add(INO, mode, writable=False)
    assert mode == OpenMode.DIRECT
    assert table.choose(INO, RAW)[0] == OpenMode.DIRECT
    table.remove(INO, handle)
    assert table.choose(INO, RAW)[0] == OpenMode.PASSTHROUGH


def test_refused_backing_falls_back_to_cached_and_stays_there(raw_store: RawStore) -> None:
    """Passthrough is refused while a cached handle lives; the reason is kept for the user."""
    backing = FakeBacking()
    backing.refuses = True
    table = OpenTable(raw_store, backing)
    mode, _ = table.choose(INO, RAW)
    table.add(INO, mode, writable=False)
    backing.refuses = False
    assert mode == OpenMode.CACHED
    assert table.choose(INO, RAW)[0] == OpenMode.CACHED
    assert table.refusal is not None


def test_last_writer_is_told_and_only_then(raw_store: RawStore) -> None:
    """Sealing starts when the last handle for writing goes."""
    table = OpenTable(raw_store, None)
    first = table.add(INO, OpenMode.CACHED, writable=True)
    second = table.add(INO, OpenMode.CACHED, writable=True)
    reader = table.add(INO, OpenMode.CACHED, writable=False)
    assert [table.remove(INO, handle) for handle in (first, reader, second)] == [False, False, True]
    assert not table.is_open(INO)


def test_unknown_handles_are_passed_over(raw_store: RawStore) -> None:
    """A RELEASE of an open that an earlier daemon served must not unbalance the counts."""
    table = OpenTable(raw_store, None)
    assert table.remove(INO, Handle(15)) is False
    reader = table.add(INO, OpenMode.CACHED, writable=False)
    assert table.remove(INO, Handle(0)) is False
    assert table.is_open(INO)
    table.remove(INO, reader)
    assert not table.is_open(INO)


def test_descriptors_close_with_the_handles_that_need_them(raw_store: RawStore) -> None:
    """A writable descriptor of the daemon's own would make the lease see a writer for ever."""
    table = OpenTable(raw_store, None)
    writer = table.add(INO, OpenMode.CACHED, writable=True)
    reader = table.add(INO, OpenMode.CACHED, writable=False)
    write_fd, read_fd = table.write_fd(INO, RAW), table.read_fd(INO, RAW)
    table.remove(INO, writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write_fd)
    os.fstat(read_fd)
    table.remove(INO, reader)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_fd)


class KernelModel:
    """What the kernel allows, as fs/fuse/iomode.c decides it."""

    def __init__(self) -> None:
        self.handles: list[tuple[OpenMode, int]] = []

    def admit(self, mode: OpenMode, backing: int) -> bool:
        modes = [other for other, _ in self.handles]
        backings = {other for _, other in self.handles if other}
        if mode == OpenMode.PASSTHROUGH:
            return OpenMode.CACHED not in modes and backings <= {backing}
        return OpenMode.PASSTHROUGH not in modes


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 30)), max_size=30))
def test_no_sequence_of_opens_is_refused_by_the_kernel(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, bool, int]]
) -> None:
    """Hydration in between, refusals: the kernel never says EIO."""
    store = RawStore(tmp_path_factory.mktemp("raw"))
    os.close(store.create(RAW))
    table = OpenTable(store, FakeBacking())
    kernel = KernelModel()
    open_handles: list[tuple[Handle, tuple[OpenMode, int]]] = []
    raw_present = False
    for hydrate, writable, close_index in steps:
        raw_present = raw_present or hydrate
        mode, backing = table.choose(INO, RAW if raw_present else NO_RAW)
        assert kernel.admit(mode, backing)
        kernel.handles.append((mode, backing))
        open_handles.append((table.add(INO, mode, writable=writable), (mode, backing)))
        if close_index < len(open_handles):
            handle, known = open_handles.pop(close_index)
            table.remove(INO, handle)
            kernel.handles.remove(known)
    table.close()
    store.close()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_kept_descriptor_is_closed_with_the_last_writer(raw_store: RawStore) -> None:
    """A seal would find it open, and the disk space of a removed file would stay taken."""
    table = OpenTable(raw_store, None)
    writer, other, reader = (
        table.add(INO, OpenMode.CACHED, writable=writable) for writable in (True, True, False)
    )
    fd = raw_store.open(RAW, os.O_RDONLY)
    table.keep(INO, SyncedFile(RAW, fd))
    table.remove(INO, writer)
    kept = table.kept(INO)
    assert kept is not None
    assert (kept.raw, kept.fd, is_open(fd)) == (RAW, fd, True)
    del kept
    table.remove(INO, other)
    assert table.kept(INO) is None
    assert not is_open(fd)
    table.remove(INO, reader)


def test_a_descriptor_in_use_outlives_the_last_writer(raw_store: RawStore) -> None:
    """A thread would sync what has got its number meanwhile, and call this file durable."""
    table = OpenTable(raw_store, None)
    writer = table.add(INO, OpenMode.CACHED, writable=True)
    table.keep(INO, SyncedFile(RAW, raw_store.open(RAW, os.O_RDONLY)))
    in_use = table.kept(INO)
    assert in_use is not None
    table.remove(INO, writer)
    assert is_open(fd := in_use.fd)
    del in_use
    assert not is_open(fd)


def test_no_descriptor_is_kept_of_a_file_that_may_get_another_raw_file(
    raw_store: RawStore,
) -> None:
    table = OpenTable(raw_store, None)
    fd = raw_store.open(RAW, os.O_RDONLY)
    table.keep(INO, SyncedFile(RAW, fd))
    assert not is_open(fd), "it is not open"
    table.add(INO, OpenMode.CACHED, writable=False)
    table.keep(INO, SyncedFile(RAW, raw_store.open(RAW, os.O_RDONLY)))
    assert table.kept(INO) is None, "it has no writer"


def test_kept_descriptors_are_bounded(raw_store: RawStore) -> None:
    table = OpenTable(raw_store, None, kept_max=1)
    first, second = InodeNo(7), InodeNo(8)

    def keep(ino: InodeNo) -> bool:
        table.keep(ino, SyncedFile(RawId(ino), raw_store.open(RawId(ino), os.O_RDONLY)))
        return table.kept(ino) is not None

    handles = {ino: table.add(ino, OpenMode.CACHED, writable=True) for ino in (first, second)}
    assert keep(first)
    assert keep(first), "another one of the same file takes no more room"
    assert not keep(second)
    table.remove(first, handles[first])
    assert keep(second)
    table.close()


def test_a_file_whose_sync_has_failed_has_no_kept_descriptor(raw_store: RawStore) -> None:
    """The kernel calls the lost page clean: a further sync by it would succeed."""
    table = OpenTable(raw_store, None)
    table.add(INO, OpenMode.CACHED, writable=True)
    table.keep(INO, SyncedFile(RAW, raw_store.open(RAW, os.O_RDONLY)))
    table.fail_syncs(INO, 5)
    assert table.kept(INO) is None
    table.close()


def test_a_file_of_others_is_passed_through_for_reading_while_it_is_open(
    raw_store: RawStore, tmp_path: Path
) -> None:
    backing = FakeBacking()
    table = OpenTable(raw_store, backing)
    (tmp_path / "other").write_bytes(b"x")
    fd = os.open(tmp_path / "other", os.O_RDONLY)
    # A program that is about to write gets bytes of memfs's own, and so do all that open it then.
    table.begin(INO, writing=True)
    assert table.choose(INO, NO_RAW, fd) == (OpenMode.DIRECT, 0)
    table.end(INO, writing=True)
    first, known = table.choose(INO, NO_RAW, fd)
    handle = table.add(INO, first, writable=False)
    assert (first, known, table.is_referenced(INO)) == (OpenMode.PASSTHROUGH, 1, True)
    # It was fetched meanwhile: the kernel takes no other file while this one is open.
    assert table.choose(INO, RAW) == (OpenMode.PASSTHROUGH, 1)
    with pytest.raises(AssertionError):
        table.add(INO, first, writable=True)
    table.remove(INO, handle)
    assert (backing.live, table.is_referenced(INO)) == (set(), False)
    assert table.choose(INO, RAW) == (OpenMode.PASSTHROUGH, 2)
    backing.refuses = True
    assert table.choose(InodeNo(8), NO_RAW, fd) == (OpenMode.DIRECT, 0)
    backing.refuses = False
    table.choose(InodeNo(9), NO_RAW, fd)
    table.close()
    os.close(fd)
    assert backing.live == set()


def test_bytes_of_another_generation_are_read_from_their_raw_file(raw_store: RawStore) -> None:
    """A thread may still read from the former one: that stays open as long as the file."""
    table = OpenTable(raw_store, None)
    handle = table.add(INO, OpenMode.CACHED, writable=False)
    assert table.opened_fd(INO) == -1
    former = table.read_fd(INO, RAW)
    assert table.read_fd(INO, RAW) == former == table.opened_fd(INO)
    now = table.read_fd(INO, RawId(8))
    assert table.opened_fd(INO) == now
    assert os.fstat(now).st_ino != os.fstat(former).st_ino
    table.remove(INO, handle)
    for fd in (former, now):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert table.opened_fd(INO) == -1


def test_handles_of_another_raw_file_are_told(raw_store: RawStore) -> None:
    table = OpenTable(raw_store, FakeBacking())
    mode, _ = table.choose(INO, RAW)
    assert not table.is_passed_elsewhere(INO, RawId(8))
    handle = table.add(INO, mode, writable=False)
    assert not table.is_passed_elsewhere(INO, RAW)
    assert table.is_passed_elsewhere(INO, RawId(8))
    assert table.is_passed_elsewhere(INO, NO_RAW)
    table.remove(INO, handle)
    assert not table.is_passed_elsewhere(INO, RawId(8))
