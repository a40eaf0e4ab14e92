"""SIGKILL amid a compaction, a rekey and a new codec of what snapshots and clones need."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.codecs.registry import get_codec, parse_codec
from memfs.config import EncryptionConfig
from memfs.encryption.keys import KeyRing
from memfs.moves.batching import compact, upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.faults import FaultPoints
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.moves.rekeying import rekey, rekey_kept
from memfs.types import NO_BLOB, ROOT_INODE, FormKind
from tests.crash.moves_scenario import KEYS, NEW_KEY, OLD_KEY, KillAt
from tests.moving import SMALL_FRAMES, State, compressible
from tests.past import clone, past
from tests.processes import outlived

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.types import InodeNo

CONFIG = dataclasses.replace(SMALL_FRAMES, encryption=EncryptionConfig(remote=True, packed=True))
PAST = {name: compressible(9000, seed) for seed, name in enumerate("abcdefg")}
"""Files of one batch by name. The first four are in the snapshot, the others never were."""
PRESENT = {"twin": PAST["b"], "c": compressible(9000, 20), "d": PAST["d"]}
"""What is left: a clone of `b`, which is gone as `a` is; `c`, which was written anew; and `d`."""

POINTS = (
    *("batch.begun", "compact.prepared", "compact.stored", "compact.verified", "compact.published"),
    *("garbage.synced", "garbage.removed", "garbage.cleared"),
    *("upload.begun", "rekey.prepared", "rekey.stored", "rekey.verified", "rekey.published"),
    *("pack.begun", "pack.written", "pack.verified", "pack.published"),
    *("rekey_packed.written", "rekey_packed.verified", "rekey_packed.published"),
)


async def prepare(state_dir: Path) -> None:
    """Make a batch of which half is dead, and the rest needed by a snapshot, a clone or a file."""
    state = State(state_dir, CONFIG, keys=KEYS)
    inos = {name: await state.create(name, content) for name, content in PAST.items()}
    await upload_batch(state.parts, [*inos.values()])
    for name, ino in inos.items():
        if name in "abc":
            await pack(state.parts, ino)
        await drop_raw(state.parts, ino)
    await clone(state, inos["b"], "twin")
    for name in "efg":
        await state.unlink(name)
    async with state.engine.change():
        await state.engine.create_snapshot("before", 1)
    for name in "ab":
        await state.unlink(name)
    await state.rewrite(inos["c"], PRESENT["c"])
    state.close()


async def work(state_dir: Path, faults: FaultPoints) -> None:
    """Compact the batch, give a shared form another codec, then bring everything under the new key.

    Goes on where it was stopped.
    """
    state = State(state_dir, CONFIG, faults, KEYS)
    await recover(state)
    for batch in await state.engine.list_sparse_batches(75, 10):
        await compact(state.parts, batch)
    await collect(state)
    twin = (await list_files(state))["twin"]
    await hydrate(state.parts, twin)
    packed = await state.form(twin, FormKind.PACKED)
    if packed.coding.codec != "lz4":
        await pack(state.parts, twin, get_codec(parse_codec("lz4")), replacing=packed)
    await drop_raw(state.parts, twin)
    await collect(state)
    state.parts.keys = KeyRing([NEW_KEY, OLD_KEY])
    for kept in await state.engine.list_kept_blobs(NO_BLOB, 100):
        await rekey_kept(state.parts, kept)
    for ino in (await list_files(state)).values():
        await rekey(state.parts, ino)
    await collect(state)
    state.close()


async def recover(state: State) -> None:
    await state.recovery.begin()
    while not state.recovery.done:
        await state.recovery.look_at_slice()


async def collect(state: State) -> None:
    while await state.garbage.collect(2):
        pass


async def list_files(state: State) -> dict[str, InodeNo]:
    entries = await state.engine.list_directory(ROOT_INODE, 0, 100)
    return {entry.name.decode(): entry.inode.ino for entry in entries}


async def check(state_dir: Path, *, new_key_alone: bool) -> None:
    """Every byte of the past and of the present is read, fsck is content, nothing is left over."""
    state = State(state_dir, CONFIG, keys=KEYS)
    await recover(state)
    await collect(state)
    assert await state.leaks() == []
    if new_key_alone:
        state.parts.keys = KeyRing([NEW_KEY])
    [snapshot] = await state.engine.list_snapshots()
    for name in "abcd":
        ino = (await state.engine.lookup_at(snapshot.snap, ROOT_INODE, name.encode())).ino
        assert await past(state, snapshot.snap, ino) == PAST[name], name
    report = await state.check_files()
    assert list(report.problems) == []
    assert state.engine.check() == []
    files = await list_files(state)
    assert {name: await state.content(ino) for name, ino in files.items()} == PRESENT
    state.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state_dir = tmp_path_factory.mktemp("kept") / "state"
    trio.run(prepare, state_dir)
    return state_dir


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_the_past_readable(prepared: Path, tmp_path: Path, point: str) -> None:
    """And the work is done when it is begun again."""
    state_dir = tmp_path / "state"
    shutil.copytree(prepared, state_dir)
    assert outlived(lambda: trio.run(work, state_dir, KillAt(point, 1))) == signal.SIGKILL
    again = tmp_path / "again"
    shutil.copytree(state_dir, again)
    trio.run(check_killed, state_dir)
    trio.run(finish, again)


async def check_killed(state_dir: Path) -> None:
    await check(state_dir, new_key_alone=False)


async def finish(state_dir: Path) -> None:
    """Do the rest of the work; then the former key is needed by nobody."""
    await work(state_dir, FaultPoints())
    await check(state_dir, new_key_alone=True)


def test_a_compaction_takes_along_what_a_snapshot_alone_needs(
    prepared: Path, tmp_path: Path
) -> None:
    """The former object goes, and four contents have moved: those of files that are gone too."""
    state_dir = tmp_path / "state"
    shutil.copytree(prepared, state_dir)
    trio.run(_compact_alone, state_dir)
    trio.run(check_killed, state_dir)


async def _compact_alone(state_dir: Path) -> None:
    state = State(state_dir, CONFIG, keys=KEYS)
    [batch] = await state.engine.list_sparse_batches(75, 10)
    assert batch.live_count == len("abcd")
    assert await compact(state.parts, batch) > 0
    await collect(state)
    assert not (state.objects_dir / batch.key).exists()
    [kept, *_] = await state.engine.list_kept_blobs(NO_BLOB, 10)
    forms = await state.engine.list_forms(kept.blob)
    assert [form.kind for form in forms] == [FormKind.PACKED, FormKind.REMOTE]
    assert forms[1].place.key != batch.key
    state.close()
