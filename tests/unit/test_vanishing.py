"""What is remembered of a file goes with its inode, or memory grows with each file that is made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memfs.types import ROOT_INODE
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from pathlib import Path


def test_a_removed_file_is_no_use_of_the_disk(tmp_path: Path) -> None:
    """Its number does not come again; 200,000 of them took 34 MB."""
    world = World(tmp_path, ROOMY, passthrough=True)
    stats = world.access_stats
    removed, kept = (
        world.create(ROOT_INODE, name, 0o644, os.O_RDWR) for name in (b"removed", b"kept")
    )
    for file in (removed, kept):
        world.write(file, 0, b"content")
        world.release(file)
        stats.use_local(file.ino, 4096, copied=False)
    assert removed.ino in stats.cold
    world.request(world.filesystem.unlink(ROOT_INODE, b"removed"))
    world.filesystem.forget([removed.ino])
    world.run(world.filesystem.reap())
    assert removed.ino not in stats.cold
    assert kept.ino in stats.cold
    world.close()
