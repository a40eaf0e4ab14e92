"""The control xattrs by the file system's own calls: what no driver stands between."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from memfs.errors import AlreadyExistsError, InvalidValueError, NoXattrError, XattrsFullError
from memfs.filesystem.foreign_changes import xattrs_of
from memfs.namespace.xattrs import XATTRS_BYTES_MAX, users_bytes
from memfs.stores.source import SourceObject
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from memfs.types import InodeNo
    from tests.property.world import World


def set_xattr(world: World, ino: InodeNo, name: str, value: str, flags: int = 0) -> None:
    filesystem = world.filesystem
    encoded = f"user.memfs.{name}".encode()
    world.run(
        filesystem.set_xattr(world.program, ino, encoded, value.encode(), flags, kill_sgid=False)
    )
    world.run(filesystem.commit())


@pytest.mark.parametrize(
    ("name", "first", "second"), [("tier", "cold", "glacier"), ("codec", "lz4", "none")]
)
def test_the_flags_of_setxattr_count_for_pins_and_codecs(
    world: World, name: str, first: str, second: str
) -> None:
    """What is inherited, or reads as a default, is not set on the file."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    set_xattr(world, ROOT_INODE, name, first)
    with pytest.raises(NoXattrError):
        set_xattr(world, file.ino, name, first, os.XATTR_REPLACE)
    set_xattr(world, file.ino, name, first, os.XATTR_CREATE)
    with pytest.raises(AlreadyExistsError):
        set_xattr(world, file.ino, name, second, os.XATTR_CREATE)
    set_xattr(world, file.ino, name, second, os.XATTR_REPLACE)
    set_xattr(world, ROOT_INODE, name, second)
    world.release(file)


def test_several_xattrs_change_at_once_or_not_at_all(world: World) -> None:
    """A program that is killed leaves no value with the type of another one."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.release(file)
    for name, value in ((b"user.a", b"1"), (b"user.b", b"2")):
        world.run(
            world.filesystem.set_xattr(world.program, file.ino, name, value, 0, kill_sgid=False)
        )
    before = world.run(world.engine.get_inode(file.ino))
    wanted = '{"user.a": "\\udcff\\u0000", "user.b": null, "user.c": ""}'
    set_xattr(world, file.ino, "xattrs", wanted)

    def present() -> dict[bytes, bytes]:
        names = world.run(world.engine.list_xattrs(file.ino))
        return {name: world.run(world.engine.get_xattr(file.ino, name)) for name in names}

    assert present() == {b"user.a": b"\xff\0", b"user.c": b""}
    # Two by themselves, and three at once; what memfs itself is told does not count.
    assert world.move_parts.traffic.user_write_count == 5
    after = world.run(world.engine.get_inode(file.ino))
    assert after.ctime_ns > before.ctime_ns
    for refused in (
        '{"user.a": "2", "user.memfs.tier": "cold"}',
        '{"user.a": "2", "user.": "3"}',
        '{"user.a": "2", "trusted.b": "3"}',
        '{"user.a": "2", "user.b": 3}',
        '["user.a"]',
        '{"user.a"',
        '{"user.a": "\\ud800"}',
        "[" * 60_000,
    ):
        with pytest.raises(InvalidValueError, match=r"^xattrs: "):
            set_xattr(world, file.ino, "xattrs", refused)
    assert present() == {b"user.a": b"\xff\0", b"user.c": b""}
    with pytest.raises(NoXattrError):
        world.run(world.filesystem.get_xattr(world.program, file.ino, b"user.memfs.xattrs"))


def test_several_xattrs_have_a_bound_together(world: World) -> None:
    """Each request has 64 KiB of them, and there can be any number of requests."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.release(file)

    def of_request(number: int) -> str:
        return json.dumps({f"user.{number}-{each}": "v" * 100 for each in range(400)})

    set_xattr(world, file.ino, "xattrs", of_request(1))
    with pytest.raises(XattrsFullError) as refused:
        set_xattr(world, file.ino, "xattrs", of_request(2))
    assert refused.value.errno == errno.ENOSPC
    assert len(world.run(world.engine.list_xattrs(file.ino))) == 400


def test_what_an_object_tells_has_room_or_is_left_out() -> None:
    """A source that tells of more than a file can have stops no adoption."""
    metadata = tuple((f"name-{number:04}", "v" * 990) for number in range(100))
    kept = xattrs_of(
        SourceObject("key", 1, "etag", 0, content_type="text/plain", metadata=metadata)
    )
    assert users_bytes(kept) <= XATTRS_BYTES_MAX < users_bytes(kept) + 1004
    assert kept[0][1] == b"text/plain"
    assert [name for name, _ in kept[1:3]] == [b"user.name-0000", b"user.name-0001"]


def test_cached_pages_go_of_a_file_that_is_about_to_be_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[str] = []

    def advise(fd: int, offset: int, size: int, advice: int) -> None:
        assert (offset, size, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        dropped.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, b"content")
    raw = world.run(world.engine.get_inode(file.ino)).raw
    set_xattr(world, file.ino, "cache", "drop")
    assert dropped == [], "a program has it open"
    world.release(file)
    set_xattr(world, file.ino, "cache", "drop")
    assert dropped == [str(world.raw_store.path(raw))]
    world.request(world.filesystem.link(file.ino, ROOT_INODE, b"other"))
    set_xattr(world, file.ino, "cache", "drop")
    set_xattr(world, ROOT_INODE, "cache", "drop")
    assert len(dropped) == 1, "it stays by its other name, and a directory has no pages"
    with pytest.raises(InvalidValueError, match="takes `drop`, and not 'x'"):
        set_xattr(world, file.ino, "cache", "x")


def test_an_empty_value_takes_no_capability_away(world: World) -> None:
    """The kernel asks no right for `setfattr -n security.capability`, without a value."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.release(file)
    name = b"security.capability"
    capability = bytes.fromhex("0000000200040000000000000000000000000000")
    filesystem = world.filesystem
    world.run(filesystem.set_xattr(world.program, file.ino, name, capability, 0, kill_sgid=False))
    with pytest.raises(InvalidValueError, match="no capability"):
        world.run(filesystem.set_xattr(world.program, file.ino, name, b"", 0, kill_sgid=False))
    world.run(filesystem.commit())
    assert world.run(filesystem.get_xattr(world.program, file.ino, name)) == capability
