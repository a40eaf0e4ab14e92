"""Power loss around the moment when a raw file becomes a snapshot's: no byte is parted from it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.moves.keeping import Keeper, keep_copy
from memfs.types import ROOT_INODE
from tests.crash.moves_scenario import content_of
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.types import InodeNo, SnapshotId

OLD, NEW = compressible(30_000, 1), compressible(9_000, 2)
METADATA = ("metadata.db", "metadata.db-wal", "metadata.sums", "journal.0", "journal.1", "ids")


class PowerCut:
    """Keeps each file of the metadata as of its last fsync: the least that a disk may keep."""

    def __init__(self, state: State, stable_dir: Path, patch: pytest.MonkeyPatch) -> None:
        self._state = state
        self._stable_dir = stable_dir
        stable_dir.mkdir()
        for name in METADATA:
            shutil.copyfile(state.state_dir / name, stable_dir / name)
        self._fdatasync = os.fdatasync
        patch.setattr(os, "fdatasync", self.fdatasync)

    def fdatasync(self, fd: int) -> None:
        self._fdatasync(fd)
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        # SQLite writes to the database file only what its log has already.
        names = (name, "metadata.db") if name == "metadata.db-wal" else (name,)
        for each in names:
            if each in METADATA:
                shutil.copyfile(self._state.state_dir / each, self._stable_dir / each)

    def restore(self, copy: Path, *, lagging: bool) -> None:
        """Make a copy of the state as the power cut leaves it.

        Args:
            copy: Where it goes.
            lagging: The metadata are as of their last fsync, else as they are; raw files have
                what was written to them, since the kernel writes that earlier.
        """
        shutil.copytree(self._state.state_dir, copy)
        for name in METADATA if lagging else ():
            shutil.copyfile(self._stable_dir / name, copy / name)


async def settle(state: State) -> None:
    """Do what a mount does after an unclean end."""
    await state.recovery.begin()
    while not state.recovery.done:
        await state.recovery.look_at_slice()
    while await state.garbage.collect(1000):
        pass


async def remove(state: State, _ino: InodeNo) -> None:
    await state.unlink("file")


async def replace(state: State, _ino: InodeNo) -> None:
    other = await state.create("other", NEW)
    await state.engine.rename(ROOT_INODE, b"other", ROOT_INODE, b"file", 0, time.time_ns())
    replaced = [each for each in await state.engine.list_orphans(10) if each != other]
    await state.engine.reap(replaced)
    state.engine.commit_nowait()


async def cut_to_nothing(state: State, ino: InodeNo) -> None:
    """As O_TRUNC: the inode gets a raw file of its own."""
    inode = await state.engine.get_inode(ino)
    _, raw = state.engine.reserve_ids()
    os.close(state.raw_store.create(raw))
    await state.engine.unseal(ino, raw, inode.generation)
    state.engine.commit_nowait()
    state.raw_store.path(raw).write_bytes(NEW)
    await state.seal(ino)


async def write_in_place(state: State, ino: InodeNo) -> None:
    await keep_copy(state.parts, ino)
    await state.rewrite(ino, NEW)


async def write_in_place_with_a_ready_copy(state: State, ino: InodeNo) -> None:
    """The copy gets a raw file that was made before."""
    _, ready = state.engine.reserve_ids()
    os.close(state.raw_store.create(ready))
    await keep_copy(state.parts, ino, Keeper(take_raw=lambda: ready))
    await state.rewrite(ino, NEW)


CHANGES: dict[str, tuple[Callable[[State, InodeNo], Awaitable[None]], bytes | None]] = {
    "removed": (remove, None),
    "replaced": (replace, NEW),
    "cut": (cut_to_nothing, NEW),
    "written": (write_in_place, NEW),
    "written, copy ready": (write_in_place_with_a_ready_copy, NEW),
}


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("kind", CHANGES)
async def test_a_snapshot_has_its_bytes_whatever_power_loss_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, synced: bool
) -> None:
    """The change of owner is there or not; in both cases the snapshot shows what it showed."""
    change, after = CHANGES[kind]
    state = State(tmp_path / "state")
    ino = await state.create("file", OLD)
    snap = (await state.engine.create_snapshot("snapshot", time.time_ns())).snap
    state.engine.commit_nowait()
    state.engine.sync()
    with monkeypatch.context() as patch:
        power = PowerCut(state, tmp_path / "stable", patch)
        state.engine.sync()
        await change(state, ino)
        if synced:
            state.engine.sync()
        power.restore(tmp_path / "lagging", lagging=True)
        power.restore(tmp_path / "whole", lagging=False)
    state.close()
    for copy in ("lagging", "whole"):
        await _look_at(tmp_path / copy, snap, ino, after, changed=synced or copy == "whole")


async def _look_at(
    state_dir: Path, snap: SnapshotId, ino: InodeNo, after: bytes | None, *, changed: bool
) -> None:
    state = State(state_dir)
    try:
        await settle(state)
        assert await content_of(state, snap, ino) == OLD
        names = [each.name for each in await state.engine.list_directory(ROOT_INODE, 0, 10)]
        if changed:
            assert (b"file" in names) == (after is not None)
        if b"file" in names:
            found = await state.engine.lookup(ROOT_INODE, b"file")
            content = await state.content(found.ino)
            assert content in ((after,) if changed else (OLD, NEW))
        assert state.engine.check() == []
        report = await state.check_files()
        assert list(report.problems) == []
        assert await state.leaks() == []
    finally:
        state.close()
