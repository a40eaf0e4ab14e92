"""Each rule of mending: one contradiction of rows at a time, told where something is lost by it."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.lease import IdLease
from memfs.metadata.sqlite.mending import mend
from memfs.moves.batching import upload_batch
from memfs.moves.packing import pack
from memfs.types import ROOT_INODE, InodeNo
from tests.moving import State, compressible

if TYPE_CHECKING:
    from pathlib import Path

FIRST_FREE = 1 << 20


class Case(NamedTuple):
    """A contradiction, and what is to be told of it."""

    statements: str
    """With the inode numbers of the files, directories and the link by name."""
    told: str = ""
    """Empty: nothing, for nothing is lost."""


CASES = {
    "dentry-without-inode": Case(
        "insert into dentry values (1, 900, x'78', 4242)", "lost: its inode 4242 is"
    ),
    "dentry-without-directory": Case(
        "insert into dentry values (4242, 900, x'78', {raw})", "lost: its directory 4242 is"
    ),
    "dentry-in-a-file": Case(
        "insert into dentry values ({raw}, 900, x'78', {packed})", "lost: its directory {raw} is"
    ),
    "second-name-of-a-directory": Case(
        "insert into dentry values (1, 900, x'78', {outer})", "directory {outer} had a second name"
    ),
    "metrics-in-another-slot": Case("insert into metric values (10, 7, 1000, x'')"),
    "metrics-of-no-ring": Case("insert into metric values (11, 0, 0, x'')"),
    "event-in-another-slot": Case("insert into event values (7, 8, 0, 'pin', '', '')"),
    "shared-raw-file": Case(
        "update inode set raw = (select raw from inode where ino = {raw}) where ino = {packed}",
        "inode {packed} shared its raw file",
    ),
    "blob-without-form": Case(
        "delete from form where blob = (select blob from inode where ino = {packed})",
        "inode {packed} has lost its blob",
    ),
    "form-without-inode": Case(
        "update inode set blob = 0, packed = 0 where ino = {packed}",
        "the packed form packed/",
    ),
    "form-without-blob": Case(
        "delete from blob where blob = (select blob from inode where ino = {packed})",
        "the packed form packed/",
    ),
    "nameless-file": Case(
        "delete from dentry where ino = {raw}", "inode {raw} has lost its name: it is in the root"
    ),
    "ring-of-directories": Case(
        "update dentry set parent = {inner} where ino = {outer}",
        "inode {outer} has lost its name: it is in the root",
    ),
    "no-root": Case("delete from inode where ino = 1", "the root directory is made anew"),
    "impossible-flags": Case("update inode set flags = 7 where ino = {raw}"),
    "unsealed-without-raw": Case("update inode set flags = 1, raw = 0 where ino = {empty}"),
    "unsealed-with-blob": Case("update inode set flags = 1 where ino = {packed}"),
    "directory-with-raw": Case("update inode set raw = 999 where ino = {outer}"),
    "raw-in-use-as-garbage": Case(
        "insert into garbage select 901, 'raw', cast(raw as text) from inode where ino = {raw}"
    ),
    "form-in-use-as-garbage": Case(
        "insert into garbage select 901, kind, key from form where kind = 'packed'"
    ),
    "batch-in-use-as-garbage": Case("insert into garbage select 901, 'remote', key from batch"),
    "packed-form-of-others": Case("update form set owned = 0, store = 's' where kind = 'packed'"),
    "batched-form-of-others": Case("update form set owned = 0 where kind = 'remote'"),
    "impossible-owner": Case("update form set owned = 7 where kind = 'packed'"),
    "unknown-layout": Case("update form set layout = 'odd'"),
    "lost-batch": Case("delete from batch"),
    "wrong-count-of-a-batch": Case("update batch set live_count = 99"),
    "wrong-bytes-of-a-batch": Case("update batch set live_bytes = 99"),
    "empty-batch": Case("insert into batch values ('x', 1, 1, 1)"),
    "wrong-mark-of-packed": Case("update inode set packed = 1 - packed where ino = {packed}"),
    "lost-target": Case("delete from symlink"),
    "target-of-a-file": Case("insert into symlink values ({raw}, x'78')"),
    "xattr-of-nothing": Case("insert into xattr values (4242, x'78', x'78', 0, null)"),
    "key-of-nothing": Case("update xattr set key = 77 where key <> 0"),
    "lost-names": Case("delete from attribute_name"),
    "value-that-its-text-contradicts": Case("update xattr set typed = 7 where key <> 0"),
    "value-of-nothing": Case("update xattr set typed = null where key <> 0"),
    "pending-of-nothing": Case("insert into pending values (4242, 1, 'r', 1, 1)"),
    "decision-of-nothing": Case("insert into decision values (4242, 'r', 'd', 1, 1)"),
    "lost-head": Case("delete from head"),
    "lost-snapshot": Case("delete from snapshot", "is lost but for what changed after it"),
    "lost-former-target": Case("delete from symlink_was"),
    "former-target-of-nothing": Case("insert into symlink_was values (4242, x'78')"),
    "kept-for-nothing": Case(
        "insert into kept values ({raw}, 9, 14, 0, 1, 8, 1, 0)",
        "generation 9 of inode {raw} was kept, and no snapshot shows it",
    ),
    "kept-without-bytes": Case(
        "insert into kept values ({raw}, 1, 0, 0, 1, 8, 1, 0)",
        "a snapshot has lost generation 1 of inode {raw}",
    ),
    "kept-raw-of-an-inode": Case(
        "insert into kept select ino, generation, raw, 0, 1, 8, 1, 0 from inode where ino = {raw}",
        "of a snapshot belonged to something else too",
    ),
    "links-of-a-file": Case("update inode set nlink = 5 where ino = {raw}"),
    "links-of-a-directory": Case("update inode set nlink = 5 where ino = {outer}"),
    "totals": Case("update state set inode_count = 77, raw_bytes = 1"),
}


class Closed(NamedTuple):
    """A closed state directory with one of everything."""

    state_dir: Path
    inos: dict[str, InodeNo]


async def make(state_dir: Path) -> dict[str, InodeNo]:
    state = State(state_dir)
    engine = state.engine
    inos = {name: await state.create(name, compressible(9000)) for name in ("raw", "packed")}
    inos["empty"] = await state.create("empty", b"")
    await engine.index_attributes(100)
    await engine.set_xattr(inos["raw"], b"user.city", b"Ulm", 0, time.time_ns())
    await pack(state.parts, inos["packed"])
    small = [await state.create(f"small{index}", compressible(500, index)) for index in range(2)]
    await upload_batch(state.parts, small)
    async with engine.change():
        where = ROOT_INODE
        for name in ("outer", "inner"):
            inos[name] = engine.reserve_ids()[0]
            new = NewInode(inos[name], stat.S_IFDIR | 0o755, 0, 0, time.time_ns())
            await engine.create(where, name.encode(), new)
            where = inos[name]
        inos["link"] = engine.reserve_ids()[0]
        new = NewInode(inos["link"], stat.S_IFLNK | 0o777, 0, 0, time.time_ns(), target=b"raw")
        await engine.create(ROOT_INODE, b"link", new)
        gone = engine.reserve_ids()[0]
        await engine.create(ROOT_INODE, b"gone", new._replace(ino=gone))
        await engine.create_snapshot("snapshot", time.time_ns())
        await engine.unlink(ROOT_INODE, b"gone", time.time_ns())
        await engine.reap([gone])
    state.close()
    return inos


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Closed:
    state_dir = tmp_path_factory.mktemp("closed") / "state"
    return Closed(state_dir, trio.run(make, state_dir))


def mend_after(state_dir: Path, statements: str) -> list[str]:
    """Run statements on a closed database, and mend it."""
    with sqlite3.connect(state_dir / "metadata.db", isolation_level=None) as connection:
        connection.execute("begin")
        connection.execute(statements)
        told = mend(connection, FIRST_FREE, 1)
        connection.execute("commit")
    connection.close()
    (state_dir / "metadata.sums").unlink()
    (state_dir / "ids").unlink()
    IdLease.format(state_dir / "ids", 2 * FIRST_FREE, 1000)
    return told


@pytest.mark.parametrize("name", list(CASES))
def test_a_contradiction_is_mended_and_told(tmp_path: Path, closed: Closed, name: str) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(closed.state_dir, state_dir)
    statements, sentence = CASES[name]
    told = mend_after(state_dir, statements.format(**closed.inos))
    if sentence:
        assert sentence.format(**closed.inos) in "\n".join(told)
    else:
        assert told == []
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    try:
        assert engine.check() == []
    finally:
        engine.close()


def test_sound_rows_stay_as_they_are(tmp_path: Path, closed: Closed) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(closed.state_dir, state_dir)

    def dump() -> list[str]:
        with sqlite3.connect(state_dir / "metadata.db") as connection:
            lines = list(connection.iterdump())
        connection.close()
        return lines

    before = dump()
    assert mend_after(state_dir, "select 1") == []
    assert before == dump()
