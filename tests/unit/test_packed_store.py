"""Packed files appear whole or not at all, and copies of files are equal, holes kept."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import (
    CorruptDataError,
    InvalidValueError,
    NoSpaceError,
    ObjectMissingError,
    StoreError,
)
from memfs.stores.directory import DirectoryStore
from memfs.stores.disk import clone_file, translate_error
from memfs.stores.packed import PackedStore
from memfs.stores.reading import PackedFile
from memfs.types import BlobId
from tests.disk_calls import intercept, name_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20


def _listen(path: Path) -> None:
    # The name of a socket has 107 bytes at most.
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)


def publish(store: PackedStore, blob: int, data: bytes) -> str:
    location = store.location(BlobId(blob))
    with store.draft(location) as draft:
        os.write(draft.fd, data)
        draft.publish()
    return location


def test_a_published_file_is_read_by_its_location(tmp_path: Path) -> None:
    store = PackedStore(tmp_path)
    location = publish(store, 0x1234, b"0123456789")
    assert location == "packed/1/1234"
    assert (tmp_path / location).read_bytes() == b"0123456789"
    assert store.read_range(location, 2, 5) == b"234"
    assert store.read_range(location, 8, 20) == b"89"
    assert store.stat(location).st_size == 10
    assert list(store.iterate()) == [location]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, _listen], ids=["pipe", "directory", "socket"])
def test_what_is_no_plain_file_is_damage_and_keeps_nobody_waiting(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    """A pipe in the place of a form kept a thread waiting in open(2) for ever."""
    packed = PackedStore(tmp_path)
    location = publish(packed, 1, b"content")
    directory = DirectoryStore(tmp_path / "store", 60, 2)
    (tmp_path / "file").write_bytes(b"content")
    trio.run(directory.put_file, "blobs/0/1", tmp_path / "file")
    for path in (tmp_path / location, tmp_path / "store" / "blobs/0/1"):
        path.unlink()
        put(path)
    with pytest.raises(CorruptDataError, match="no plain file"):
        packed.read_range(location, 0, 7)
    with pytest.raises(CorruptDataError, match="no plain file"):
        PackedFile.open(packed.path(location))
    with pytest.raises(CorruptDataError, match="no plain file"):
        trio.run(directory.get_range, "blobs/0/1", 0, 7)
    with pytest.raises(CorruptDataError, match="no plain file"):
        trio.run(directory.get_file, "blobs/0/1", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_directory_among_unfinished_files_stays_and_stops_no_start(tmp_path: Path) -> None:
    store = PackedStore(tmp_path)
    (tmp_path / "tmp" / "somebody-s-own").mkdir()
    (tmp_path / "tmp" / "1-2-3").touch()
    assert store.foreign_temporary() == [tmp_path / "tmp" / "1-2-3"]
    assert store.clear_temporary() == 1
    assert os.listdir(tmp_path / "tmp") == ["somebody-s-own"]


def test_a_draft_that_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    store = PackedStore(tmp_path)
    location = store.location(BlobId(1))
    with store.draft(location) as draft:
        os.write(draft.fd, b"half")
        assert not (tmp_path / location).exists()
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(ObjectMissingError, match=location):
        store.open(location)


def test_publishing_again_replaces_the_file(tmp_path: Path) -> None:
    store = PackedStore(tmp_path)
    publish(store, 1, b"first")
    location = publish(store, 1, b"second")
    assert store.read_range(location, 0, 10) == b"second"


def test_a_directory_that_somebody_removed_is_made_durable_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a clean-up of empty directories does: power loss took what was written there later."""
    store = PackedStore(tmp_path)
    location = publish(store, 0x1234, b"first")
    (tmp_path / location).unlink()
    (tmp_path / location).parent.rmdir()
    synced: list[str] = []
    intercept(monkeypatch, "fsync", before=lambda _, fd: synced.append(name_of(fd)))
    publish(store, 0x1234, b"second")
    # The file's own name, and that of its directory.
    assert synced[-2:] == ["1", "packed"]
    synced.clear()
    publish(store, 0x1235, b"third")
    assert "packed" not in synced


def test_bytes_are_durable_before_the_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def note(call: str, place: int | Path, *_target: Path) -> None:
        if not isinstance(place, int):
            events.append(call)
        else:
            events.append("bytes" if stat.S_ISREG(os.fstat(place).st_mode) else name_of(place))

    store = PackedStore(tmp_path)
    intercept(monkeypatch, "fsync", "rename", before=note)
    publish(store, 1, b"x")
    # The directories' own names up to the state directory are made durable once.
    assert events == ["bytes", "rename", "0", "packed", tmp_path.name]
    events.clear()
    publish(store, 2, b"x")
    assert events == ["bytes", "rename", "0"]


def test_delete_may_be_repeated(tmp_path: Path) -> None:
    store = PackedStore(tmp_path)
    location = publish(store, 1, b"x")
    store.delete(location)
    store.delete(location)
    assert list(store.iterate()) == []


def test_unfinished_files_of_a_dead_process_are_cleared_at_start(tmp_path: Path) -> None:
    store = PackedStore(tmp_path)
    (tmp_path / "tmp" / "left").write_bytes(b"x")
    assert store.clear_temporary() == 1
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("location", ["", "packed", "raw/0/1", "packed/../raw/1", "/packed/0/1"])
def test_what_is_no_location_is_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(InvalidValueError):
        PackedStore(tmp_path).path(location)


def test_a_full_disk_is_told_as_such() -> None:
    assert isinstance(translate_error(OSError(errno.ENOSPC, "No space"), "x"), NoSpaceError)
    assert isinstance(translate_error(OSError(errno.EDQUOT, "Quota"), "x"), NoSpaceError)


@pytest.fixture(params=["as the file system can", "no FICLONE", "no copy_file_range"])
def _abilities(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if request.param != "as the file system can":
        monkeypatch.setattr(fcntl, "ioctl", refuse)
    if request.param == "no copy_file_range":
        monkeypatch.setattr(os, "copy_file_range", refuse)


@pytest.mark.usefixtures("_abilities")
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 5])
def test_a_clone_is_equal_and_keeps_holes(tmp_path: Path, size: int, holes: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, 2 * MIB if holes else 1000):
            file.seek(offset)
            file.write(b"some data"[: size - offset])
    with source.open("rb", buffering=0) as from_file, target.open("wb", buffering=0) as to_file:
        clone_file(from_file.fileno(), to_file.fileno())
    assert source.read_bytes() == target.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks


@pytest.mark.parametrize("may_shrink", [False, True])
def test_a_clone_of_what_shrinks_meanwhile_is_refused_or_has_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_shrink: bool
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.write(b"first")
        file.seek(2 * MIB)
        file.write(b"last")
    size = source.stat().st_size
    with source.open("rb", buffering=0) as from_file, target.open("wb", buffering=0) as to_file:

        def clone() -> bool:
            return clone_file(
                from_file.fileno(),
                to_file.fileno(),
                lambda _: os.truncate(source, 5),
                may_shrink=may_shrink,
            )

        if not may_shrink:
            with pytest.raises(StoreError, match="ended at byte 5"):
                clone()
            return
        assert not clone()
    assert target.read_bytes() == b"first".ljust(size, b"\0")
