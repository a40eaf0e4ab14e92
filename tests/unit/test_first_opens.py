"""What an open looks at on the disk, the first time and after it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.metadata.records import InodeFlags
from memfs.types import ROOT_INODE
from tests.disk_calls import intercept
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("passthrough", [True, False], ids=["passthrough", "served"])
def test_a_file_that_the_kernel_has_is_looked_at_again_only_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passthrough: bool
) -> None:
    """An epoch over small files opens each of them again; to look took an eighth of its time."""
    world = World(tmp_path, ROOMY, passthrough=passthrough)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, b"content")
    world.release(file)
    world.run(world.sealer.seal_all())
    inode = world.run(world.engine.get_inode(file.ino))
    world.run(world.file_syncs.make_durable([inode]))
    inode = world.run(world.engine.get_inode(file.ino))
    assert inode.flags == InodeFlags.DURABLE
    # As after a mount: it may have been damaged before, and nothing of it is registered.
    world.sealer.note_clean(inode.ctime_ns)
    world.open_table.forget_raw(file.ino)
    looked_at: list[str] = []
    intercept(monkeypatch, "stat", before=lambda _, path: looked_at.append(os.path.basename(path)))
    name = world.raw_store.path(inode.raw).name
    looks = []
    for flags in (os.O_RDONLY, os.O_RDONLY, os.O_RDONLY, os.O_RDWR):
        looked_at.clear()
        world.release(world.open(file.ino, flags))
        looks.append(name in looked_at)
    assert looks == [True, not passthrough, not passthrough, True]
    world.close()
