"""A repair makes any damaged state usable again, and no byte of a file is removed on the way."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import time
from typing import TYPE_CHECKING

import pytest

from memfs.config import MetadataConfig
from memfs.errors import MemfsError
from memfs.fsck.repair import Repaired, repair
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import read_state_id
from memfs.metadata.sqlite.pages import PageSums
from memfs.moves.dropping import drop_raw
from memfs.moves.packing import pack
from memfs.stores.lost_found import LostFound
from memfs.stores.packed import PackedStore
from memfs.stores.raw import RawStore
from memfs.types import ROOT_INODE, InodeNo
from tests.moving import State, compressible

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.moves.faults import FaultPoints

FILE_COUNT = 30
FILES = ("format", "ids", "metadata.db", "metadata.db-wal", "metadata.sums", "journal.0")


def content_of(index: int) -> bytes:
    return compressible(20_000, index) if index == 0 else b"content %d" % index


async def make_killed(root: Path) -> Path:
    """Return a state directory as a kill leaves it: files with bytes, one of them packed only."""
    state = State(root / "state")
    for index in range(FILE_COUNT):
        ino = await state.create(f"{index}", content_of(index))
        if index == 0:
            await pack(state.parts, ino)
            await drop_raw(state.parts, ino)
        if index == FILE_COUNT // 2:
            state.engine._database._checkpoint()
            state.engine.wait_for_checkpoint()
        state.engine.sync()
    killed = root / "killed"
    shutil.copytree(state.state_dir, killed)
    state.close()
    return killed


async def mend(state_dir: Path, faults: FaultPoints | None = None) -> Repaired:
    raw_store = RawStore(state_dir)
    try:
        return await repair(
            state_dir,
            MetadataConfig(),
            raw_store,
            PackedStore(state_dir),
            LostFound(state_dir),
            time.time_ns(),
            faults,
        )
    finally:
        raw_store.close()


async def check_nothing_is_lost(state_dir: Path, what: str) -> int:
    """See that each content is in the mount or in lost+found; returns how many are in the latter.

    The packed file counts as there with its container.
    """
    state = State(state_dir)
    assert state.engine.check() == [], what
    found: set[bytes] = set()
    after = 0
    while inodes := await state.engine.list_files(after, 100):  # type: ignore[arg-type]
        for inode in inodes:
            try:
                found.add(await state.content(inode.ino))
            except MemfsError:
                continue
        after = inodes[-1].ino
    root = state.parts.lost_found.root
    lost = {path.read_bytes() for path in root.glob("raw-*")}
    packed = [*root.glob("packed-*"), *(state_dir / "packed").glob("*/*")]
    state.close()
    expected = {content_of(index) for index in range(1, FILE_COUNT)}
    assert expected <= found | lost, what
    assert packed, what
    return len(expected & lost)


@pytest.mark.parametrize("name", FILES)
async def test_repair_after_flips_zeros_and_cuts(tmp_path: Path, name: str) -> None:
    killed = await make_killed(tmp_path)
    content = (killed / name).read_bytes()
    used = len(content.rstrip(b"\0"))
    rng = random.Random(name)
    copy = tmp_path / "copy"
    damages: list[tuple[str, bytes | None]] = [("dropped", None), ("cut", content[: used // 2])]
    for _ in range(6):
        offset = rng.randrange(used)
        flipped = bytearray(content)
        flipped[offset] ^= 1 << rng.randrange(8)
        damages.append((f"bit at {offset}", bytes(flipped)))
        zeroed = bytearray(content)
        start = offset // 512 * 512
        zeroed[start : start + 512] = bytes(512)
        damages.append((f"zeros at {start}", bytes(zeroed[: len(content)])))
    for what, changed in damages:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(killed, copy)
        if changed is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(changed)
        repaired = await mend(copy)
        # What was there before is kept.
        if changed is not None:
            kept = copy / "lost+found" / "metadata-1" / name
            assert kept.read_bytes() == changed, what
        await check_nothing_is_lost(copy, f"{name}: {what}: {repaired}")


async def test_repair_tells_names_of_what_it_cannot_join(tmp_path: Path) -> None:
    """The entries behind a broken one join nothing, and still tell what the files were called."""
    killed = await make_killed(tmp_path)
    path = max(
        (killed / name for name in ("journal.0", "journal.1")),
        key=lambda each: int.from_bytes(each.read_bytes()[16:24], "little"),
    )
    content = bytearray(path.read_bytes())
    content[1536 + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(MemfsError, match="memfs fsck --repair"):
        SqliteEngine.open(killed, MetadataConfig())
    repaired = await mend(killed)
    assert any("is damaged behind change" in action for action in repaired.actions)
    moved_count = await check_nothing_is_lost(killed, str(repaired))
    assert moved_count > 0
    assert any(name.endswith(f"-{FILE_COUNT - 1}") for name in repaired.moved)


async def test_repair_says_what_older_copies_of_both_journals_lack(tmp_path: Path) -> None:
    """Also when it was killed before: what it does first must not make the state look sound."""
    state = State(tmp_path / "state")
    for index in range(FILE_COUNT):
        if index == FILE_COUNT // 2:
            for name in ("journal.0", "journal.1"):
                shutil.copy(state.state_dir / name, tmp_path)
        await state.create(f"{index}", content_of(index))
        state.engine.sync()
    await pack(state.parts, (await state.engine.list_files(0, 1))[0].ino)  # type: ignore[arg-type]
    killed = tmp_path / "killed"
    shutil.copytree(state.state_dir, killed)
    state.close()
    for name in ("journal.0", "journal.1"):
        shutil.copy(tmp_path / name, killed)
    state_id = read_state_id(killed)
    assert state_id is not None
    PageSums(killed / "metadata.db", state_id).drop_sums()
    repaired = await mend(killed)
    assert any("were synced and are missing" in action for action in repaired.actions)
    assert await check_nothing_is_lost(killed, str(repaired)) >= FILE_COUNT // 2
    assert (await mend(killed)).actions == []


async def test_repair_of_tables_that_contradict_the_journals(tmp_path: Path) -> None:
    """As where some pages of the database are older: what the journals say is newer."""
    killed = await make_killed(tmp_path)
    name = b"%d" % (FILE_COUNT - 1)
    with sqlite3.connect(killed / "metadata.db") as connection:
        ((ino,),) = connection.execute("select ino from dentry where name = ?", (b"1",))
        connection.execute("insert into dentry values (1, 50000, ?, ?)", (name, ino))
    connection.close()
    with pytest.raises(MemfsError, match="memfs fsck --repair"):
        SqliteEngine.open(killed, MetadataConfig())
    (killed / "metadata.sums").unlink()
    # While the refusal is known, and all that its traceback refers to.
    with pytest.raises(MemfsError, match="memfs fsck --repair") as refusal:
        SqliteEngine.open(killed, MetadataConfig())
    repaired = await mend(killed)
    assert refusal.traceback
    assert any("contradicts the tables" in action for action in repaired.actions)
    assert await check_nothing_is_lost(killed, str(repaired)) == 0
    state = State(killed)
    found = await state.engine.lookup(ROOT_INODE, name)
    assert await state.content(found.ino) == content_of(FILE_COUNT - 1)
    state.close()


async def test_repair_gives_no_number_twice_after_an_older_id_lease(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    State(state_dir).close()
    ids = (state_dir / "ids").read_bytes()
    for _ in range(3):
        # Killed each time: a range of numbers is passed over.
        killed = tmp_path / "killed"
        state = State(state_dir)
        await state.create(f"{state.engine.reserve_ids()[0]}", b"content")
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(state_dir, killed)
        state.close()
        shutil.rmtree(state_dir)
        killed.rename(state_dir)
    (state_dir / "ids").write_bytes(ids)
    repaired = await mend(state_dir)
    assert any("ids is an older copy" in action for action in repaired.actions)
    state = State(state_dir)
    last = (await state.engine.list_files(InodeNo(0), 100))[-1]
    assert state.engine.reserve_ids()[0] > last.ino
    state.close()


async def test_repair_reads_rows_on_both_sides_of_a_damaged_page(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state = State(state_dir)
    count = 150
    inos = [await state.create(f"{index}", b"content %d" % index) for index in range(count)]
    state.close()
    path = state_dir / "metadata.db"
    with sqlite3.connect(path) as connection:
        ((root,),) = connection.execute("select rootpage from sqlite_master where name = 'inode'")
    connection.close()
    content = bytearray(path.read_bytes())
    # The root lists its leaves: https://www.sqlite.org/fileformat.html, section 1.6.
    page = content[(root - 1) * 4096 : root * 4096]
    (cell_count,) = struct.unpack_from(">H", page, 3)
    (cell,) = struct.unpack_from(">H", page, 12 + cell_count // 2 * 2)
    (leaf,) = struct.unpack_from(">I", page, cell)
    content[(leaf - 1) * 4096 : (leaf - 1) * 4096 + 16] = b"\xff" * 16
    path.write_bytes(content)
    repaired = await mend(state_dir)
    assert any("table inode: only" in action for action in repaired.actions)
    state = State(state_dir)
    found = [inode.ino for inode in await state.engine.list_files(InodeNo(0), 1000)]
    state.close()
    assert (inos[0], inos[-1]) == (found[0], found[-1])
    assert len(found) > count // 2


async def test_repair_of_a_sound_state_changes_nothing(tmp_path: Path) -> None:
    killed = await make_killed(tmp_path)
    repaired = await mend(killed)
    assert (repaired.actions, repaired.lost, repaired.moved) == ([], [], [])
    assert await check_nothing_is_lost(killed, "") == 0


async def test_repair_names_files_whose_bytes_are_gone(tmp_path: Path) -> None:
    killed = await make_killed(tmp_path)
    state = State(killed)
    [inode] = [each for each in await state.engine.list_files(0, 100) if each.size == 9][:1]  # type: ignore[arg-type]
    path = (await state.engine.get_path(inode.ino)).decode()
    state.raw_store.unlink(inode.raw)
    state.close()
    assert (await mend(killed)).lost == [path]
