"""A full disk refuses moves that need room, loses nothing, and leaves nothing half done."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from memfs.errors import NoSpaceError
from memfs.moves.dropping import drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.types import FormKind
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK_MIB = 96
CONTENT = compressible(2_000_000)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """A state directory on a small file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "memfs-test", disk],
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs takes root")
    try:
        state = State(disk / "state")
        yield state
        state.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(state: State) -> Path:
    """Take all the room that is left."""
    filler = state.state_dir.parent / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


async def collect_all(state: State) -> None:
    while await state.garbage.collect(100):
        pass


async def test_packing_on_a_full_disk_changes_nothing(state: State) -> None:
    """It is tried again when there is room, and works then."""
    ino = await state.create("a", CONTENT)
    filler = fill(state)
    with pytest.raises(NoSpaceError):
        await pack(state.parts, ino)
    with pytest.raises(NoSpaceError):
        await upload(state.parts, ino)
    assert await state.content(ino) == CONTENT
    filler.unlink()
    await collect_all(state)
    assert await state.leaks() == []
    assert (await pack(state.parts, ino)).outcome == MoveOutcome.DONE


async def test_hydrating_on_a_full_disk_changes_nothing(state: State) -> None:
    """The program gets ENOSPC, and the packed form stays."""
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    await drop_raw(state.parts, ino)
    await collect_all(state)
    filler = fill(state)
    with pytest.raises(NoSpaceError):
        await hydrate(state.parts, ino)
    assert await state.forms(ino) == {FormKind.PACKED}
    await collect_all(state)
    assert await state.leaks() == []
    filler.unlink()
    assert await state.content(ino) == CONTENT
