"""Commits that fail: no reply says that something was done which was undone."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from memfs.errors import NoSpaceError, StaleInodeError
from memfs.filesystem.operations import AttributeRequest
from memfs.types import ROOT_INODE, InodeNo
from tests.property.world import Program, Refusal

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from tests.property.world import World


class Stranger(Program):
    """Owns nothing, and may not keep set-user-ID bits."""

    uid = 1000
    gid = 1000


def sealed_file(world: World, name: bytes) -> InodeNo:
    file = world.create(ROOT_INODE, name, 0o644, os.O_RDWR)
    world.release(file)
    world.step()
    return file.ino


def fail_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full for the next entry of the journal."""
    journal = world.sqlite._database._journals.current
    append = journal.append

    def refuse(*_arguments: object) -> None:
        monkeypatch.setattr(journal, "append", append)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "append", refuse)


@pytest.mark.parametrize("request_name", ["open", "truncate", "fsync", "fsync_directory", "tier"])
def test_what_an_inner_commit_undid_is_told_to_the_replies_before(
    world: World, monkeypatch: pytest.MonkeyPatch, request_name: str
) -> None:
    """A create waits for the commit of its batch; another request of the batch commits first."""
    other = sealed_file(world, b"other")
    filesystem, program = world.filesystem, world.program
    world.run(filesystem.make_directory(program, ROOT_INODE, b"undone", 0o755))
    fail_once(world, monkeypatch)
    requests: dict[str, Coroutine[Any, Any, object]] = {
        "open": filesystem.open(program, other, os.O_RDWR),
        "truncate": filesystem.open(program, other, os.O_RDWR | os.O_TRUNC),
        "fsync": filesystem.fsync(program, other, data_only=False),
        "fsync_directory": filesystem.fsync_directory(program, ROOT_INODE),
        "tier": filesystem.get_xattr(program, other, b"user.memfs.tier"),
    }
    asked = requests.pop(request_name)
    for unasked in requests.values():
        unasked.close()
    with pytest.raises(NoSpaceError):
        world.run(asked)
    assert filesystem.uncommitted
    with pytest.raises(NoSpaceError):
        world.run(filesystem.commit())
    assert not filesystem.uncommitted


@pytest.mark.parametrize("request_name", ["truncate", "open", "write"])
def test_a_request_that_is_refused_at_its_commit_has_changed_no_byte(
    world: World, monkeypatch: pytest.MonkeyPatch, request_name: str
) -> None:
    """The disk is full: cutting a file open for writing changes its times, and perhaps its mode."""
    filesystem, program = world.filesystem, Stranger()
    file = world.create(ROOT_INODE, b"file", 0o4755, os.O_RDWR)
    world.write(file, 0, b"0123456789")
    fail_once(world, monkeypatch)
    requests: dict[str, Coroutine[Any, Any, object]] = {
        "truncate": filesystem.set_attributes(program, file.ino, AttributeRequest(size=3)),
        "open": filesystem.open(program, file.ino, os.O_RDWR | os.O_TRUNC, kill_suidgid=True),
        "write": filesystem.write(
            program, file.ino, file.handle, 0, memoryview(b"other"), kill_suidgid=True
        ),
    }
    asked = requests.pop(request_name)
    for unasked in requests.values():
        unasked.close()
    with pytest.raises((Refusal, NoSpaceError)):
        world.request(asked)
    assert world.run(world.read_all(file.ino)) == b"0123456789"
    world.release(file)


@pytest.mark.parametrize(
    ("atime_ns", "mtime_ns"), [(None, 10**18), (2 * 10**18, None), (2 * 10**18, 10**18)]
)
def test_times_that_come_with_a_size_are_those_after_the_cut(
    world: World, atime_ns: int | None, mtime_ns: int | None
) -> None:
    ino = sealed_file(world, b"file")
    request = AttributeRequest(size=7, atime_ns=atime_ns, mtime_ns=mtime_ns)
    before_ns = time.time_ns() - 10**9
    changed = world.request(world.filesystem.set_attributes(world.program, ino, request)).inode
    world.step()
    for inode in (changed, world.run(world.filesystem.get_attributes(ino)).inode):
        assert inode.size == 7
        assert atime_ns in (None, inode.atime_ns)
        assert inode.mtime_ns == mtime_ns or (mtime_ns is None and inode.mtime_ns > before_ns)


def test_a_file_whose_unlink_was_undone_is_no_orphan(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = sealed_file(world, b"kept")
    world.run(world.filesystem.unlink(ROOT_INODE, b"kept"))
    fail_once(world, monkeypatch)
    with pytest.raises(NoSpaceError):
        world.run(world.filesystem.commit())
    world.step()
    assert ino not in world.filesystem._orphans


def test_a_nameless_file_whose_link_was_undone_is_reaped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, opened = world.request(
        world.filesystem.create_unnamed(world.program, ROOT_INODE, 0o600, os.O_RDWR)
    )
    ino = entry.inode.ino
    world.run(world.filesystem.link(ino, ROOT_INODE, b"undone"))
    fail_once(world, monkeypatch)
    with pytest.raises(NoSpaceError):
        world.run(world.filesystem.commit())
    world.step()
    world.filesystem.release(ino, opened.handle)
    world.filesystem.forget([ino])
    world.step()
    with pytest.raises(StaleInodeError):
        world.run(world.engine.get_inode(ino))


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_opening_for_synchronous_writes_makes_the_name_durable(
    world: World, monkeypatch: pytest.MonkeyPatch, flag: int
) -> None:
    """The kernel syncs the raw file at each write, but would lose the file with its name."""
    ino = sealed_file(world, b"log")
    syncs: list[str] = []
    monkeypatch.setattr(world.engine, "sync", lambda: syncs.append("engine"))
    world.release(world.open(ino, os.O_RDWR | flag))
    assert syncs == ["engine"]
    world.release(world.create(ROOT_INODE, b"new", 0o644, os.O_RDWR | flag))
    assert syncs == ["engine", "engine"]


def test_an_open_whose_sync_fails_leaves_no_handle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = sealed_file(world, b"log")

    def fail() -> None:
        raise NoSpaceError("the disk is full")

    monkeypatch.setattr(world.engine, "sync", fail)
    with pytest.raises(NoSpaceError):
        world.run(world.filesystem.open(world.program, ino, os.O_RDWR | os.O_SYNC))
    assert not world.open_table.is_open(ino)


def test_the_raw_file_of_an_undone_create_is_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No inode names it, and after an orderly end nobody would look for it."""
    fail_once(world, monkeypatch)
    entry, opened = world.run(
        world.filesystem.create(world.program, ROOT_INODE, b"undone", 0o644, os.O_RDWR)
    )
    with pytest.raises(NoSpaceError):
        world.run(world.filesystem.commit())
    world.filesystem.release(entry.inode.ino, opened.handle)
    assert entry.inode.raw in set(world.raw_store.iterate())
    world.step()
    assert entry.inode.raw not in set(world.raw_store.iterate())


def test_the_raw_file_of_a_create_that_was_committed_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = sealed_file(world, b"kept")
    world.run(world.filesystem.make_directory(world.program, ROOT_INODE, b"undone", 0o755))
    fail_once(world, monkeypatch)
    with pytest.raises(NoSpaceError):
        world.run(world.filesystem.commit())
    world.step()
    assert world.run(world.engine.get_inode(ino)).raw in set(world.raw_store.iterate())


def test_orphans_whose_deletion_was_undone_are_deleted_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not keep what would free it."""
    ino = sealed_file(world, b"gone")
    world.request(world.filesystem.unlink(ROOT_INODE, b"gone"))
    world.filesystem.forget([ino])
    fail_once(world, monkeypatch)
    with pytest.raises(NoSpaceError):
        world.run(world.filesystem.reap())
    world.run(world.filesystem.reap())
    with pytest.raises(StaleInodeError):
        world.run(world.engine.get_inode(ino))
