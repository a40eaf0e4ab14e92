"""A life of a state directory in which every fault point is reached; kills itself at one of them.

Started again on the same directory it goes on from what it finds.

Invariant: it runs in a child of the test process, which has all modules already: to start Python
for each fault point took longer than the scenario.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from typing import TYPE_CHECKING

import trio

from memfs.config import EncryptionConfig, NamedStoreConfig
from memfs.encryption.keys import Key, KeyRing
from memfs.errors import AlreadyExistsError, StoreUnavailableError
from memfs.metadata.records import AttributeChanges, InodeFlags, NewInode
from memfs.moves.batching import compact, upload_batch
from memfs.moves.copying import copied
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.faults import FaultPoints
from memfs.moves.generation import StateGeneration
from memfs.moves.hydrating import hydrate
from memfs.moves.keeping import keep_copy
from memfs.moves.open_files import OpenFiles, OpenState
from memfs.moves.packing import pack
from memfs.moves.rechecking import CLEAN_SETTING
from memfs.moves.rekeying import rekey
from memfs.moves.relocating import relocate
from memfs.moves.uploading import upload
from memfs.placement.prefetch.done_files import DoneFiles
from memfs.policy.marks import STORE_XATTR
from memfs.types import ROOT_INODE, FormKind, Generation
from tests.faulty_store import Fault, FaultKind
from tests.moving import SMALL_FRAMES, State, compressible
from tests.processes import outlived

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.types import InodeNo, IntentId, SnapshotId


OLD_KEY, NEW_KEY = Key(bytes(range(32)), "old"), Key(bytes(range(32, 64)), "new")
KEYS = KeyRing([OLD_KEY, NEW_KEY])
"""Objects are encrypted; packed files are not."""


COPY = "copy"
"""A file that has the bytes of the first one."""

SNAPSHOT = "before"
"""Shows the files with the contents that they always have."""


TWO_STORES = dataclasses.replace(
    SMALL_FRAMES, stores={"archive": NamedStoreConfig(url="file:///unused")}
)


class KillAt(FaultPoints):
    """Kills the process when a point is reached for the n-th time."""

    def __init__(self, point: str, count: int) -> None:
        self._point = point
        self._left_count = count

    def reach(self, point: str) -> None:
        if point != self._point:
            return
        self._left_count -= 1
        if not self._left_count:
            os.kill(os.getpid(), signal.SIGKILL)


async def ensure(state: State, name: str, seed: int) -> InodeNo:
    """Return a file, created if an earlier run did not get that far."""
    try:
        return await state.create(name, compressible(30_000, seed))
    except AlreadyExistsError:
        return (await state.engine.lookup(ROOT_INODE, name.encode())).ino


async def live(state: State) -> None:
    parts = state.parts
    await state.recovery.begin()
    await note_generation(state)
    inos = [await ensure(state, name, seed) for seed, name in enumerate("abcd")]
    while not state.recovery.done:
        await state.recovery.look_at_slice()
    for ino in inos:
        await hydrate(parts, ino)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file"))
    with contextlib.suppress(StoreUnavailableError):
        await upload(parts, inos[0])
    for ino in inos[:2]:
        await pack(parts, ino)
        await upload(parts, ino)
        await drop_raw(parts, ino)
    for ino in inos[2:]:
        await upload(parts, ino)
        await drop_raw(parts, ino)
    state.parts.keys = KeyRing([NEW_KEY, OLD_KEY])
    await rekey(parts, inos[2])
    state.parts.keys = KEYS
    await drop_form(parts, inos[0], FormKind.PACKED)
    await drop_form(parts, inos[1], FormKind.REMOTE)
    await collect(state)
    for ino in inos:
        await hydrate(parts, ino)
    await copy(state, inos[0])
    await make_room(state, inos[0])
    await lose_a_raw_file(state, inos[1])
    await pack(parts, inos[2])
    parts.config = dataclasses.replace(state.config, encryption=EncryptionConfig(packed=True))
    await rekey(parts, inos[2])
    parts.config = state.config
    await drop_form(parts, inos[2], FormKind.PACKED)
    await drop_form(parts, inos[3], FormKind.REMOTE)
    await collect(state)
    await write_after_a_snapshot(state, inos[3])
    await snapshot_of_an_open_file(state)
    await live_in_batches(state)
    await live_in_two_stores(state)


async def copy(state: State, ino: InodeNo) -> None:
    """A file gets a second one with a copy of its raw file, as `memfs clone` makes it."""
    engine = state.engine
    if await engine.find(ROOT_INODE, COPY.encode()) is not None:
        return
    inode = await engine.get_inode(ino)
    async with copied(state.parts, inode) as (attempt, made):

        async def publish(intent: IntentId) -> bool:
            number, _ = engine.reserve_ids()
            await engine.create_orphan(NewInode(number, inode.mode, 0, 0, time.time_ns()))
            changes = AttributeChanges(size=made.size, mtime_ns=made.mtime_ns)
            await engine.set_attributes(number, changes)
            await engine.link(number, ROOT_INODE, COPY.encode(), time.time_ns())
            generation = Generation(1)
            answer = await engine.publish_raw(number, generation, made.raw, made.blocks, intent)
            return answer is not None

        assert await attempt.publish(publish)


async def write_after_a_snapshot(state: State, ino: InodeNo) -> None:
    """A file that a snapshot shows is written in place; the snapshot goes later."""
    engine = state.engine
    if not await engine.list_snapshots():
        async with engine.change():
            await engine.create_snapshot(SNAPSHOT, time.time_ns())
    await keep_copy(state.parts, ino)
    await state.rewrite(ino, compressible(30_000, 3))
    for snapshot in await engine.list_snapshots():
        if snapshot.name == SNAPSHOT:
            assert await content_of(state, snapshot.snap, ino) == compressible(30_000, 3)
    await delete_snapshots(state)


async def delete_snapshots(state: State) -> None:
    engine = state.engine
    for snapshot in await engine.list_snapshots():
        async with engine.change():
            await engine.delete_snapshot(snapshot.snap)
    more = True
    while more:
        async with engine.change():
            more = await engine.delete_snapshot_step(100)
    await collect(state)


async def snapshot_of_an_open_file(state: State) -> None:
    """A file that may have a writer is copied for a snapshot, which goes later."""
    engine, parts = state.engine, state.parts
    ino = await ensure(state, "i", 8)
    inode = await engine.get_inode(ino)
    if not inode.flags & InodeFlags.UNSEALED:
        if await engine.needs_copy(ino):
            await keep_copy(parts, ino)
        await engine.unseal(ino, inode.raw)
        await engine.commit()
    open_files = OpenFiles(parts)
    async with engine.change():
        made = await engine.create_snapshot(f"open-{time.time_ns()}", time.time_ns())
        copies = await open_files.part(await open_files.find())
    open_files.begin(copies)
    await open_files.copy_all()
    assert [each.state for each in copies if each.inode.ino == ino] == [OpenState.OPEN]
    assert await content_of(state, made.snap, ino) == compressible(30_000, 8)
    await state.seal(ino)
    await delete_snapshots(state)


async def content_of(state: State, snap: SnapshotId, ino: InodeNo) -> bytes:
    """Return the bytes of a file as a snapshot shows it, which has a raw file."""
    inode = await state.engine.inode_at(snap, ino)
    return state.raw_store.path(inode.raw).read_bytes()


async def note_generation(state: State) -> None:
    """Do what a mount begins with."""
    generation = StateGeneration(
        state.engine, state.remote, state.packed_store.temporary_path, state.parts.faults
    )
    await generation.begin()
    await generation.try_to_mark()


async def make_room(state: State, ino: InodeNo) -> None:
    """A file that a program is done with leaves, in both its local forms, and comes back."""
    await pack(state.parts, ino)
    done = DoneFiles(state.placement())
    done.add([ino])
    await done.drop_next()
    await hydrate(state.parts, ino)


async def lose_a_raw_file(state: State, ino: InodeNo) -> None:
    """A raw file is cut while nothing is mounted, after an orderly end."""
    inode = await state.engine.get_inode(ino)
    async with state.engine.change():
        await state.engine.mark_durable([(ino, inode.generation)])
    os.truncate(state.raw_store.path(inode.raw), 100)
    clean_ns = time.time_ns()
    async with state.engine.change():
        await state.engine.put_setting(CLEAN_SETTING, b"%d" % clean_ns)
    state.sealer.note_clean(clean_ns)
    await hydrate(state.parts, ino)


async def live_in_batches(state: State) -> None:
    """Small files share an object, and move to another one when half of them are rewritten."""
    parts = state.parts
    inos = [await ensure(state, name, seed) for seed, name in enumerate("efgh", start=4)]
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file"))
    with contextlib.suppress(StoreUnavailableError):
        await upload_batch(parts, inos)
    await upload_batch(parts, inos)
    for ino in inos:
        await drop_raw(parts, ino)
    await collect(state)
    for ino, seed in zip(inos[:3], (4, 5, 6), strict=True):
        await state.rewrite(ino, compressible(30_000, seed))
    for batch in await state.engine.list_sparse_batches(50, 10):
        await compact(parts, batch)
    await collect(state)
    for ino in inos:
        await hydrate(parts, ino)


async def live_in_two_stores(state: State) -> None:
    """An object goes to another store and back: a copy of itself, and one of the raw file."""
    parts, engine = state.parts, state.engine
    ino = await ensure(state, "j", 9)
    for store in ("default", "archive", "default"):
        async with engine.change():
            await engine.set_xattr(ino, STORE_XATTR, store.encode(), 0, time.time_ns())
        await upload(parts, ino)
        await drop_raw(parts, ino)
        await relocate(parts, ino)
        await collect(state)
        await hydrate(parts, ino)
        await relocate(parts, ino)
        await collect(state)


async def collect(state: State) -> None:
    while await state.garbage.collect(2):
        pass


def die_within_a_create(state_dir: Path) -> None:
    """Leave a raw file that no inode names, by a process of its own that is killed."""
    child = os.fork()
    if not child:
        state = State(state_dir, TWO_STORES, keys=KEYS)
        _, raw = state.engine.reserve_ids()
        os.close(state.raw_store.create(raw))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


async def run(state_dir: Path, point: str, count: int) -> None:
    """Live, and be killed when a point is reached for the n-th time."""
    state = State(state_dir, TWO_STORES, KillAt(point, count), KEYS)
    try:
        await live(state)
    finally:
        state.close()


def ended_by(state_dir: Path, point: str, count: int) -> int:
    """Live in a child; return the number of the signal that ended it, 0 if it came to its end.

    Raises:
        Exception: Whatever the scenario raised.
    """

    def scenario() -> None:
        die_within_a_create(state_dir)
        trio.run(run, state_dir, point, count)

    return outlived(scenario)
