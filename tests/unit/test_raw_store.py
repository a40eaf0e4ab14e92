"""Raw files by id: created once, found again, and durable by name when that is said."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from memfs.errors import ObjectMissingError, StoreError
from memfs.stores.raw import DIRECTORY_BITS, RawStore
from memfs.types import RawId
from tests.disk_calls import intercept, name_of
from tests.waiting import WAIT_S, join

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PER_DIRECTORY = 1 << DIRECTORY_BITS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RawStore]:
    raw_store = RawStore(tmp_path)
    yield raw_store
    raw_store.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files and directories that were fsynced, in order."""
    names: list[str] = []
    intercept(monkeypatch, "fsync", before=lambda _call, fd: names.append(name_of(fd)))
    return names


def create(store: RawStore, *ids: int) -> None:
    for raw in ids:
        os.close(store.create(RawId(raw)))


def test_a_created_file_is_empty_private_and_in_its_place(store: RawStore, tmp_path: Path) -> None:
    fd = store.create(RawId(0x1ABC))
    os.write(fd, b"data")
    os.close(fd)
    path = tmp_path / "raw" / "1" / "1abc"
    assert path == store.path(RawId(0x1ABC))
    assert path.read_bytes() == b"data"
    assert path.stat().st_mode & 0o777 == 0o600
    fd = store.open(RawId(0x1ABC), os.O_RDONLY)
    assert os.pread(fd, 10, 0) == b"data"
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert store.stat(RawId(0x1ABC)).st_size == 4


def test_an_id_is_never_created_twice(store: RawStore) -> None:
    create(store, 5)
    with pytest.raises(StoreError, match="raw file 5 exists already"):
        store.create(RawId(5))


def test_a_missing_file_is_named(store: RawStore) -> None:
    with pytest.raises(ObjectMissingError, match=r"raw file 7 at .*/raw/0/7"):
        store.open(RawId(7))
    with pytest.raises(ObjectMissingError, match="raw file 7"):
        store.stat(RawId(7))


def test_unlink_may_be_repeated_and_keeps_open_descriptors(store: RawStore) -> None:
    fd = store.create(RawId(9))
    os.write(fd, b"kept")
    store.unlink(RawId(9))
    store.unlink(RawId(9))
    assert os.pread(fd, 10, 0) == b"kept"
    os.close(fd)
    assert list(store.iterate()) == []


def test_files_are_listed_by_range_and_as_a_whole(store: RawStore) -> None:
    ids = [1, 2, PER_DIRECTORY - 1, PER_DIRECTORY, PER_DIRECTORY + 1, 40 * PER_DIRECTORY]
    create(store, *reversed(ids))
    assert ids == list(store.iterate())
    assert ids == store.list_range(RawId(0), RawId(1 << 40))
    assert ids[1:4] == store.list_range(RawId(2), RawId(PER_DIRECTORY + 1))
    assert store.list_range(RawId(5), RawId(5)) == []


def test_what_is_no_raw_file_is_a_stray(store: RawStore, tmp_path: Path) -> None:
    create(store, 1)
    (tmp_path / "raw" / "note").touch()
    for name in ("0x1", "01", "A", "-1", "1000", "x"):
        (tmp_path / "raw" / "0" / name).touch()
    assert list(store.iterate()) == [1]
    expected = {"note", "0x1", "01", "A", "-1", "1000", "x"}
    assert expected == {path.name for path in store.strays()}


def test_a_name_is_synced_once(store: RawStore, synced: list[str]) -> None:
    create(store, 1, 2)
    store.sync_directory(RawId(1))
    assert synced == ["0", "raw"]
    store.sync_directory(RawId(1))
    store.sync_directory(RawId(2))
    assert synced == ["0", "raw"]
    create(store, 3, 4)
    store.sync_directory(RawId(1))
    assert synced == ["0", "raw"], "files are made ahead all the time"
    assert [store.is_name_synced(RawId(raw)) for raw in (1, 3, 4)] == [True, False, False]
    store.sync_directory(RawId(3))
    assert synced == ["0", "raw", "0"]
    create(store, PER_DIRECTORY)
    store.sync_directory(RawId(4))
    assert synced == ["0", "raw", "0"]
    store.sync_directory(RawId(PER_DIRECTORY))
    assert synced == ["0", "raw", "0", "1", "raw"]


def test_names_of_an_earlier_process_count_as_not_synced(
    store: RawStore, tmp_path: Path, synced: list[str]
) -> None:
    """It may have been killed between create and fsync."""
    create(store, 1)
    synced.clear()
    later = RawStore(tmp_path)
    later.sync_directory(RawId(1))
    later.close()
    assert synced[-2:] == ["0", "raw"]


def test_a_create_during_a_sync_is_synced_by_the_next(
    store: RawStore, monkeypatch: pytest.MonkeyPatch, synced: list[str]
) -> None:
    create(store, 1)
    coming = [2]

    def create_once(_call: str, _fd: int) -> None:
        while coming:
            create(store, coming.pop())

    intercept(monkeypatch, "fsync", after=create_once)
    store.sync_directory(RawId(1))
    before = len(synced)
    store.sync_directory(RawId(2))
    assert synced[before:] == ["0"]


def test_a_failed_sync_is_repeated(store: RawStore, monkeypatch: pytest.MonkeyPatch) -> None:
    create(store, 1)
    attempts: list[int] = []

    def fail(_call: str, fd: int) -> None:
        attempts.append(fd)
        raise OSError(5, "Input/output error")

    intercept(monkeypatch, "fsync", before=fail)
    for _ in range(2):
        with pytest.raises(StoreError, match="raw file 1"):
            store.sync_directory(RawId(1))
    assert len(attempts) == 2


def test_many_threads_create_in_one_new_directory(store: RawStore) -> None:
    barrier = threading.Barrier(4)

    def work(first: int) -> None:
        barrier.wait(WAIT_S)
        create(store, *range(first, 200, 4))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert list(range(200)) == list(store.iterate())
