"""Intents, work lists, pending moves, decisions and totals; commits and reopenings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.errors import NotFoundError, StaleInodeError
from memfs.metadata.records import Decision, Intent, MoveKind, PendingMove, Usage
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.statements import PUT_PENDING, PUT_PENDING_CODE
from memfs.types import ROOT_INODE, FormKind, Generation, InodeNo, PendingCode, Tier
from tests.contract.engine.making import (
    NOW_NS,
    garbage_in,
    make_directory,
    make_file,
    make_sealed,
    names_in,
    publish,
)
from tests.contract.engine.site import local_only

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from tests.contract.engine.site import SqliteSite

FAR_NS = 1 << 62


async def test_intents_outlive_a_crash_in_order(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    file = await make_sealed(engine, b"file")
    first = await engine.begin_intent(MoveKind.PACK, file.ino, Generation(1), "packed/1", 10)
    second = await engine.begin_intent(MoveKind.UPLOAD, file.ino, Generation(1), "key", 5)
    await engine.commit()
    assert [
        Intent(first, MoveKind.PACK, file.ino, Generation(1), "packed/1", 10),
        Intent(second, MoveKind.UPLOAD, file.ino, Generation(1), "key", 5),
    ] == await engine_site.crash().list_intents()


@pytest.mark.parametrize(
    ("move", "kind"),
    [
        (MoveKind.PACK, FormKind.PACKED),
        (MoveKind.UPLOAD, FormKind.REMOTE),
        (MoveKind.HYDRATE, FormKind.RAW),
    ],
)
async def test_cancelled_intent_leaves_garbage_of_its_kind(
    engine: Engine, move: MoveKind, kind: FormKind
) -> None:
    file = await make_sealed(engine, b"file")
    intent = await engine.begin_intent(move, file.ino, file.generation, "123456", NOW_NS)
    await engine.cancel_intent(intent)
    await engine.cancel_intent(intent)
    assert {(kind, "123456")} == await garbage_in(engine)
    assert await engine.list_intents() == []


async def test_intent_needs_an_inode(engine: Engine) -> None:
    with pytest.raises(StaleInodeError):
        await engine.begin_intent(MoveKind.PACK, InodeNo(99), Generation(1), "x", NOW_NS)


# --- work lists ----------------------------------------------------------------------------------
async def test_sealed_files_are_listed_coldest_first_in_pages(engine: Engine) -> None:
    files = [await make_sealed(engine, b"%d" % index) for index in range(5)]
    unsealed = await make_file(engine, b"unsealed")
    times = [30, 10, 20, 20, 50]
    accesses = [(file.ino, time) for file, time in zip(files, times, strict=True)]
    await engine.record_access([*accesses, (unsealed.ino, 1), (InodeNo(1 << 40), 1)])
    for file, time in zip(files, times, strict=True):
        assert (await engine.get_inode(file.ino)).accessed_ns == time
    await engine.record_access([(files[4].ino, 60)])
    assert (await engine.get_inode(files[4].ino)).accessed_ns == 60
    first = await engine.list_raw_by_access(50, (0, 0), 2)
    last = first[-1]
    rest = await engine.list_raw_by_access(50, (last.accessed_ns, last.ino), 10)
    expected = [files[1].ino, files[2].ino, files[3].ino, files[0].ino]
    assert expected == [inode.ino for inode in first + rest]


async def test_packed_files_are_listed_with_and_without_a_raw_file(engine: Engine) -> None:
    both = await make_sealed(engine, b"both")
    packed = await make_sealed(engine, b"packed")
    remote = await make_sealed(engine, b"remote")
    await publish(engine, both, FormKind.PACKED)
    await publish(engine, packed, FormKind.PACKED)
    await publish(engine, remote, FormKind.REMOTE)
    await engine.drop_raw(packed.ino, packed.generation)
    await engine.drop_raw(remote.ino, remote.generation)
    listed = await engine.list_packed_by_access(FAR_NS, (0, 0), 10)
    assert [both.ino, packed.ino] == [inode.ino for inode in listed]
    listed = await engine.list_raw_by_access(FAR_NS, (0, 0), 10)
    assert [both.ino] == [inode.ino for inode in listed]
    await engine.unseal(both.ino, both.raw)
    listed = await engine.list_packed_by_access(FAR_NS, (0, 0), 10)
    assert [packed.ino] == [inode.ino for inode in listed]


async def test_regular_files_are_listed_by_number(engine: Engine) -> None:
    first = await make_file(engine, b"first")
    await make_directory(engine, b"directory")
    second = await make_sealed(engine, b"second")
    assert [first] == await engine.list_files(InodeNo(0), 1)
    assert [second] == await engine.list_files(first.ino, 10)


# --- pending moves and decisions -----------------------------------------------------------------
async def test_pending_moves_are_listed_when_due(engine: Engine) -> None:
    first = await make_file(engine, b"first")
    second = await make_file(engine, b"second")
    late = PendingMove(
        first.ino, Tier.GLACIER, "the store is away", 3, 200, 50, PendingCode.STORE, 900
    )
    early = PendingMove(second.ino, Tier.COLD, "the disk is full", 1, 100, 60, PendingCode.DISK)
    await engine.set_pending(late._replace(retry_ns=1))
    await engine.set_pending(late)
    await engine.set_pending(early)
    assert late == await engine.get_pending(first.ino)
    assert [early, late] == await engine.list_pending(None, 10)
    assert [early] == await engine.list_pending(100, 10)
    assert await engine.list_pending(99, 10) == []
    assert [early] == await engine.list_pending(None, 1)
    await engine.clear_pending(second.ino)
    await engine.clear_pending(second.ino)
    assert await engine.get_pending(second.ino) is None


async def test_last_decision_is_kept(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    assert await engine.get_decision(file.ino) is None
    last = Decision("age", "not opened for 72 h", 5, 20)
    await engine.record_decision(file.ino, last._replace(rule="pin"))
    await engine.record_decision(file.ino, last)
    assert last == await engine.get_decision(file.ino)


async def test_reaped_inode_takes_its_records_along(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    await engine.set_pending(PendingMove(file.ino, Tier.COLD, "", 1, 1, 1, PendingCode.OTHER))
    await engine.record_decision(file.ino, Decision("age", "", 0, 0))
    await engine.unlink(ROOT_INODE, b"file", NOW_NS)
    await engine.reap([file.ino])
    assert await engine.list_pending(None, 10) == []
    with pytest.raises(StaleInodeError):
        await engine.get_decision(file.ino)
    with pytest.raises(StaleInodeError):
        await engine.set_pending(PendingMove(file.ino, Tier.COLD, "", 1, 1, 1, PendingCode.OTHER))


# --- totals and transactions ---------------------------------------------------------------------
async def test_usage_counts_what_there_is(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    file = await make_sealed(engine, b"file", size=1000)
    await make_file(engine, b"unsealed")
    await make_directory(engine, b"directory")
    await publish(engine, file, FormKind.REMOTE)
    expected = Usage(
        inode_count=4,
        logical_bytes=1000,
        raw_count=2,
        raw_bytes=1024,
        packed_count=0,
        packed_bytes=0,
        remote_count=1,
        remote_bytes=500,
        garbage_count=0,
    )
    assert expected == await engine.usage()
    assert expected == await engine.recount()
    await engine.commit()
    assert expected == await engine_site.crash().usage()
    assert expected == await engine_site.reopen().usage()


@local_only
async def test_uncommitted_tells_changes_from_reads_and_refusals(engine: Engine) -> None:
    await engine.get_inode(ROOT_INODE)
    with pytest.raises(NotFoundError):
        await engine.unlink(ROOT_INODE, b"missing", NOW_NS)
    assert not engine.uncommitted
    await make_file(engine, b"file")
    assert engine.uncommitted
    await engine.commit()
    assert not engine.uncommitted
    await engine.commit()


async def test_reserved_numbers_are_all_different(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    inos = [engine.reserve_ids()[0] for _index in range(100)]
    blobs = [engine.reserve_blob() for _index in range(100)]
    assert 100 == len(set(inos)) == len(set(blobs))
    assert min(inos) > ROOT_INODE
    later = engine_site.reopen()
    assert later.reserve_ids()[0] > max(inos)
    assert later.reserve_blob() > max(blobs)


async def test_numbers_go_on_beyond_the_first_lease(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    last = [engine.reserve_ids()[0] for _index in range(70_000)][-1]
    _start, end = engine_site.crash().unrecorded_raw_range()
    assert end > last


async def test_many_changes_go_through_checkpoints_and_survive(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    for index in range(300):
        await make_file(engine, b"%d" % index)
        if index % 3:
            await engine.commit()
        if index % 10 == 0:
            engine.maintain()
    await engine.commit()
    engine.sync()
    engine = engine_site.crash()
    assert [b"%d" % index for index in range(300)] == await names_in(engine)


async def test_a_wait_keeps_its_beginning(engine_site: SqliteSite) -> None:
    """From attempt to attempt, over a crash, until another tier is wanted or the wait is over."""
    engine = engine_site.engine
    file = await make_sealed(engine, b"a")
    move = PendingMove(file.ino, Tier.GLACIER, "the store is away", 1, 200, 50, PendingCode.STORE)
    await engine.set_pending(move)
    await engine.set_pending(move._replace(attempt_count=2, since_ns=70))
    await engine.commit()
    engine = engine_site.crash()
    assert await engine.get_pending(file.ino) == move._replace(attempt_count=2)
    await engine.set_pending(move._replace(wanted=Tier.COLD, since_ns=80))
    assert await engine.list_pending(None, 10) == [move._replace(wanted=Tier.COLD, since_ns=80)]
    await engine.clear_pending(file.ino)
    await engine.set_pending(move._replace(since_ns=90))
    assert await engine.get_pending(file.ino) == move._replace(since_ns=90)
    await engine.unlink(ROOT_INODE, b"a", NOW_NS)
    await engine.reap([file.ino])
    assert engine.check() == []


@local_only
async def test_a_code_is_that_of_the_row_beside_it(engine_site: SqliteSite) -> None:
    """A version that knows no codes replaces the row alone, and one that knows more writes them."""
    engine = engine_site.engine
    file = await make_sealed(engine, b"a")
    move = PendingMove(
        file.ino, Tier.GLACIER, "restored soon", 1, 200, 50, PendingCode.ARCHIVED, 7000
    )
    await engine.set_pending(move)
    await engine.commit()
    engine = engine_site.crash()
    assert isinstance(engine, SqliteEngine)
    assert await engine.get_pending(file.ino) == move
    engine._write(PUT_PENDING, (file.ino, int(Tier.COLD), "the disk is full", 2, 300))
    plain = move._replace(
        wanted=Tier.COLD,
        reason="the disk is full",
        attempt_count=2,
        retry_ns=300,
        code=PendingCode.OTHER,
        until_ns=0,
    )
    assert await engine.get_pending(file.ino) == plain
    engine._write(PUT_PENDING_CODE, (file.ino, 300, "weather", 0))
    assert await engine.list_pending(None, 10) == [plain]
    await engine.clear_pending(file.ino)
    assert engine.check() == []
