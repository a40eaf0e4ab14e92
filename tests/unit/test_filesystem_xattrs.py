"""The control xattrs by the file system's own calls: what no driver stands between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.errors import AlreadyExistsError, NoXattrError
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from memfs.types import InodeNo
    from tests.property.world import World


def set_xattr(world: World, ino: InodeNo, name: str, value: str, flags: int = 0) -> None:
    filesystem = world.filesystem
    encoded = f"user.memfs.{name}".encode()
    world.run(filesystem.set_xattr(ino, encoded, value.encode(), flags, kill_sgid=False))
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
