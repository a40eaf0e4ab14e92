"""Forms that only snapshots show, and those that clones share: moves keep every byte of theirs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from memfs.codecs.registry import get_codec, parse_codec
from memfs.config import EncryptionConfig, QuotasConfig
from memfs.encryption.keys import Key, KeyRing
from memfs.jobs.compression import Compression, CompressionRequest
from memfs.jobs.file_work import run_work
from memfs.jobs.rekeying import KeptRekeying
from memfs.moves.dropping import drop_raw
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.rekeying import rekey
from memfs.moves.uploading import upload
from memfs.placement.quotas import Quotas
from memfs.policy.access_stats import AccessStats
from memfs.types import NO_BLOB, FormKind, InodeNo
from tests.moving import SMALL_FRAMES, State, compressible, incompressible
from tests.past import clone, past

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.control.methods.trees import WorkReport
    from memfs.types import SnapshotId

OLD, NEW = Key(bytes(range(32)), "env:OLD"), Key(bytes(range(32, 64)), "env:NEW")
PACKED, REMOTE = FormKind.PACKED, FormKind.REMOTE
CONTENT = compressible(30_000)

ENCRYPTED = dataclasses.replace(SMALL_FRAMES, encryption=EncryptionConfig(remote=True, packed=True))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state", ENCRYPTED, keys=KeyRing([OLD]))
    yield opened
    assert opened.engine.check() == []
    opened.close()


async def snapshot(state: State, name: str = "before") -> SnapshotId:
    async with state.engine.change():
        return (await state.engine.create_snapshot(name, 1)).snap


async def make(state: State, name: str, content: bytes, *kinds: FormKind) -> InodeNo:
    """Return a file with exactly these forms, packed or remote ones."""
    ino = await state.create(name, content)
    for kind in kinds:
        await (pack if kind == PACKED else upload)(state.parts, ino)
    await drop_raw(state.parts, ino)
    return ino


async def rekey_kept(state: State, *, dry_run: bool = False) -> WorkReport:
    """Do as `memfs rekey` does with what only snapshots show; its keys are those that it counts."""
    blobs = [kept.blob for kept in await state.engine.list_kept_blobs(NO_BLOB, 100)]
    quotas = Quotas(QuotasConfig(), state.engine)
    work = KeptRekeying(state.parts, quotas, dry_run=dry_run)
    answer = await run_work(blobs, work)
    answer["keys"] = work.keys
    return answer


# --- rekey ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kinds", [(PACKED,), (REMOTE,), (PACKED, REMOTE)])
async def test_rekey_takes_what_only_snapshots_show(
    state: State, kinds: tuple[FormKind, ...]
) -> None:
    """So that the former key can go: the bytes are read with the new one alone."""
    ino = await make(state, "a", CONTENT, *kinds)
    snap = await snapshot(state)
    await state.unlink("a")
    state.parts.keys = KeyRing([NEW, OLD])
    counted = await rekey_kept(state, dry_run=True)
    assert counted["outcomes"] == {"due": 1}
    assert {key: count for key, (count, _) in counted["keys"].items()} == {OLD.id.hex(): len(kinds)}
    answer = await rekey_kept(state)
    assert answer["outcomes"] == {"done": 1}
    assert answer["moved_bytes"] > 0
    assert (await rekey_kept(state))["outcomes"] == {"unneeded": 1}
    while await state.garbage.collect(10):
        pass
    assert await state.leaks() == []
    state.parts.keys = KeyRing([NEW])
    assert await past(state, snap, ino) == CONTENT
    assert await state.engine.usage() == await state.engine.recount()


async def test_what_a_file_still_has_is_left_to_its_own_rekey(state: State) -> None:
    """A clone that is in the tree has the blob: one of both does it, and both read it."""
    ino = await make(state, "a", CONTENT, REMOTE)
    other = await clone(state, ino, "b")
    snap = await snapshot(state)
    await state.unlink("a")
    state.parts.keys = KeyRing([NEW, OLD])
    assert (await rekey_kept(state))["taken_count"] == 0
    assert (await rekey(state.parts, other)).outcome == MoveOutcome.DONE
    state.parts.keys = KeyRing([NEW])
    assert await past(state, snap, ino) == await state.content(other) == CONTENT


@pytest.mark.parametrize("sharer", ["clone", "snapshot"])
async def test_a_packed_form_that_others_need_is_rekeyed_for_all(state: State, sharer: str) -> None:
    """It used to be found changed meanwhile, for ever: a clone had no other form."""
    ino = await make(state, "a", CONTENT, PACKED)
    other = await clone(state, ino, "b")
    snap = await snapshot(state)
    if sharer == "snapshot":
        await state.unlink("b")
    state.parts.keys = KeyRing([NEW, OLD])
    assert (await rekey(state.parts, ino)).outcome == MoveOutcome.DONE
    assert await state.forms(ino) == {PACKED}
    while await state.garbage.collect(10):
        pass
    state.parts.keys = KeyRing([NEW])
    assert await past(state, snap, other) == await past(state, snap, ino) == CONTENT
    assert await state.content(ino) == CONTENT


async def test_what_cannot_be_rekeyed_is_named_by_its_snapshot(state: State) -> None:
    ino = await make(state, "a", CONTENT, REMOTE)
    await snapshot(state)
    blob = (await state.engine.get_inode(ino)).blob
    await state.unlink("a")
    state.parts.keys = KeyRing([NEW])
    answer = await rekey_kept(state)
    assert answer["outcomes"] == {"failed": 1}
    [(number, (outcome, reason))] = answer["left"].items()
    assert (number, outcome) == (str(blob), "failed")
    assert reason.startswith("/a@before: ")
    assert OLD.id.hex() in reason


async def test_a_deleted_snapshot_takes_its_forms_out_of_the_work(state: State) -> None:
    await make(state, "a", CONTENT, PACKED)
    await snapshot(state)
    await state.unlink("a")
    [kept] = await state.engine.list_kept_blobs(NO_BLOB, 10)
    async with state.engine.change():
        await state.engine.delete_snapshot((await state.engine.list_snapshots())[0].snap)
        while await state.engine.delete_snapshot_step(10):
            pass
    state.parts.keys = KeyRing([NEW, OLD])
    work = KeptRekeying(state.parts, Quotas(QuotasConfig(), state.engine), dry_run=False)
    assert (await run_work([kept.blob], work))["outcomes"] == {"unneeded": 1}


# --- compress ------------------------------------------------------------------------------------
async def compress(state: State, ino: InodeNo, codec: str) -> WorkReport:
    request = CompressionRequest(get_codec(parse_codec(codec)))
    quotas = Quotas(QuotasConfig(), state.engine)
    return await run_work([ino], Compression(state.parts, AccessStats(), quotas, request))


async def test_another_codec_is_for_all_that_share_the_form(state: State) -> None:
    """It used to be called done, and stayed as it was: a clone had no other form."""
    ino = await make(state, "a", CONTENT, PACKED)
    other = await clone(state, ino, "b")
    third = await clone(state, ino, "c")
    snap = await snapshot(state)
    await state.unlink("c")
    assert (await compress(state, ino, "lz4"))["outcomes"] == {"done": 1}
    assert (await state.form(other, PACKED)).coding.codec == "lz4"
    assert await state.forms(ino) == {PACKED}
    assert (await compress(state, other, "lz4"))["outcomes"] == {"unneeded": 1}
    while await state.garbage.collect(10):
        pass
    assert await state.leaks() == []
    assert await past(state, snap, third) == await state.content(other) == CONTENT
    assert (await state.engine.usage()).packed_count == 1
    assert await state.engine.usage() == await state.engine.recount()


async def test_a_codec_that_gains_nothing_leaves_the_form_that_there_is(state: State) -> None:
    """Bytes that repeat at a distance that lz4 does not reach."""
    content = incompressible(80_000) * 2
    state.parts.config = dataclasses.replace(
        ENCRYPTED, cold=dataclasses.replace(ENCRYPTED.cold, frame_bytes=1 << 20)
    )
    ino = await state.create("a", content)
    await pack(state.parts, ino, get_codec(parse_codec("zstd:19")))
    await drop_raw(state.parts, ino)
    form = await state.form(ino, PACKED)
    assert (await compress(state, ino, "lz4"))["outcomes"] == {"incompressible": 1}
    assert await state.form(ino, PACKED) == form
    assert await state.forms(ino) == {PACKED}
