"""Bytes that a replaced writer has in packed forms alone, or under names that are too long."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.encryption.keys import NO_KEYS
from memfs.metadata.shared.demoting import OwnContent
from memfs.moves.packing import pack
from memfs.moves.rescuing import Rescue
from memfs.types import StateId
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.records import Inode


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


def own(inode: Inode) -> OwnContent:
    """Return what is told of a file of which no store has the bytes."""
    return OwnContent(
        *(inode.ino, inode.generation, inode.raw, inode.blob, inode.size, inode.mtime_ns),
        *(False, False, False),
    )


async def packed_file(state: State, name: str, content: bytes) -> Inode:
    ino = await state.create(name, content)
    await pack(state.parts, ino)
    inode = await state.engine.get_inode(ino)
    if inode.raw:
        async with state.engine.change():
            assert await state.engine.drop_raw(ino, inode.generation)
    return await state.engine.get_inode(ino)


def rescue(state: State, tmp_path: Path, *inodes: Inode) -> Rescue:
    made = Rescue(tmp_path / "state", 7, StateId(b""), NO_KEYS)
    made.rescue(state.engine, [own(inode) for inode in inodes], 0)
    return made


async def test_a_packed_file_is_unpacked_with_its_time(state: State, tmp_path: Path) -> None:
    content = compressible(300_000)
    inode = await packed_file(state, "f", content)
    for _ in range(2):
        # Again, as after a start that was cut short.
        path = rescue(state, tmp_path, inode).root / "files" / "f"
        assert path.read_bytes() == content
        assert path.stat().st_mtime_ns == inode.mtime_ns
    assert sorted(each.name for each in path.parent.parent.iterdir()) == ["README.txt", "files"]


async def test_a_damaged_packed_file_is_kept_as_it_is(state: State, tmp_path: Path) -> None:
    inode = await packed_file(state, "f", compressible(300_000))
    [form] = await state.engine.list_forms(inode.blob)
    container = tmp_path / "state" / form.place.key
    damaged = b"x" * 100 + container.read_bytes()[100:]
    container.write_bytes(damaged)
    path = rescue(state, tmp_path, inode).root / "files" / "f"
    assert path.read_bytes() == damaged
    assert sorted(each.name for each in path.parent.parent.iterdir()) == ["README.txt", "files"]


async def test_a_path_that_is_too_long_gets_a_short_one(state: State, tmp_path: Path) -> None:
    inode = await state.engine.get_inode(await state.create("f", b"bytes"))
    made = Rescue(tmp_path / "state", 7, StateId(b""), NO_KEYS)
    made._path_of = lambda *_: made.root / "/".join(["x" * 250] * 20)  # type: ignore[method-assign]
    made.rescue(state.engine, [own(inode)], 0)
    path = made.root / "unnamed" / f"inode-{inode.ino}"
    assert path.read_bytes() == b"bytes"
    assert os.fspath(path.relative_to(made.root)) in (made.root / "README.txt").read_text()


async def test_nothing_is_made_where_nothing_is_alone(state: State, tmp_path: Path) -> None:
    inode = await state.engine.get_inode(await state.create("f", b"bytes"))
    made = Rescue(tmp_path / "state", 7, StateId(b""), NO_KEYS)
    made.rescue(state.engine, [own(inode)._replace(is_safe=True)], 0)
    assert not made.root.exists()
    made.clear()
    assert not (tmp_path / "state" / "raw").exists()
