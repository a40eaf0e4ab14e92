"""What is left after a kill or a power cut, at every point where it makes a difference."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memfs.config import KIB
from memfs.errors import MetadataError, StateDamagedError, UsageError
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite import opening
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.journal import Journal
from memfs.metadata.sqlite.limits import Limits
from memfs.metadata.sqlite.schema import Made
from memfs.metadata.sqlite.undo_triggers import UNDO_TRIGGERS, make_undo_triggers
from memfs.types import ROOT_INODE
from tests.contract.engine.making import NOW_NS, make_file, names_in, new_file
from tests.contract.engine.site import CONFIG, SMALL, SqliteSite, run
from tests.waiting import wait_until_set

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from memfs.metadata.sqlite.statements import Parameters

QUIET = Limits(checkpoint_bytes=64 * KIB, journal_bytes=64 * KIB, reserve_bytes=64 * KIB)
"""No checkpoint begins by itself."""


def open_engine(state_dir: Path, limits: Limits = QUIET) -> SqliteEngine:
    return SqliteEngine.open(state_dir, CONFIG, 1, limits)


def create_and_commit(engine: SqliteEngine, names: list[bytes]) -> None:
    for name in names:
        run(make_file(engine, name))
        engine.commit_nowait()


def used_bytes(path: Path) -> bytes:
    """Return a journal file up to its last byte that is not zero."""
    return path.read_bytes().rstrip(b"\0")


@pytest.fixture
def engine_site(tmp_path: Path) -> Iterator[SqliteSite]:
    site = SqliteSite(tmp_path, QUIET)
    yield site
    site.close()


def test_uncommitted_changes_are_gone_after_a_crash(engine_site: SqliteSite) -> None:
    run(make_file(engine_site.engine, b"committed"))
    run(engine_site.engine.commit())
    run(make_file(engine_site.engine, b"uncommitted"))
    assert run(names_in(engine_site.crash())) == [b"committed"]


def test_ids_are_never_handed_out_twice_across_crashes(engine_site: SqliteSite) -> None:
    seen = {engine_site.engine.reserve_ids()[0]}
    for _round in range(3):
        engine = engine_site.crash()
        fresh = engine.reserve_ids()[0]
        assert fresh > max(seen)
        seen.add(fresh)


def test_unrecorded_range_covers_every_raw_id_of_the_killed_process(
    engine_site: SqliteSite,
) -> None:
    raws = [engine_site.engine.reserve_ids()[1] for _index in range(5)]
    start, end = engine_site.crash().unrecorded_raw_range()
    assert all(start <= raw < end for raw in raws)


def test_unrecorded_range_survives_a_second_crash_before_it_was_looked_at(
    engine_site: SqliteSite,
) -> None:
    raw = engine_site.engine.reserve_ids()[1]
    engine_site.crash()
    start, end = engine_site.crash().unrecorded_raw_range()
    assert start <= raw < end


def test_unrecorded_range_survives_a_clean_close_before_it_was_looked_at(
    engine_site: SqliteSite,
) -> None:
    """As after fsck, or a mount that ended early: the raw files would lie there for ever."""
    raw = engine_site.engine.reserve_ids()[1]
    engine_site.crash()
    start, end = engine_site.reopen().unrecorded_raw_range()
    assert start <= raw < end
    engine_site.engine.clear_unrecorded_raw_range()
    start, end = engine_site.reopen().unrecorded_raw_range()
    assert start == end


def test_unrecorded_range_is_empty_after_a_clean_close(engine_site: SqliteSite) -> None:
    raw = engine_site.engine.reserve_ids()[1]
    start, end = engine_site.reopen().unrecorded_raw_range()
    assert start == end
    assert engine_site.engine.reserve_ids()[1] == raw + 1


def test_torn_last_entry_is_cut_at_every_byte(tmp_path: Path) -> None:
    """Power loss may leave any part of the last entry; the ones before it must count."""
    engine = open_engine(tmp_path / "state")
    create_and_commit(engine, [b"first"])
    whole = len(used_bytes(tmp_path / "state/journal.0"))
    create_and_commit(engine, [b"second"])
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    engine.close()
    content = (tmp_path / "crashed/journal.0").read_bytes()
    end = len(content.rstrip(b"\0"))
    assert end > whole
    for cut in range(whole, end):
        torn = tmp_path / "torn"
        shutil.copytree(tmp_path / "crashed", torn)
        (torn / "journal.0").write_bytes(content[:cut].ljust(len(content), b"\0"))
        engine = open_engine(torn)
        assert run(names_in(engine)) == [b"first"]
        assert engine.check() == []
        engine.close()
        shutil.rmtree(torn)


def test_flipped_bit_in_an_entry_with_others_behind_is_refused(tmp_path: Path) -> None:
    """No kill leaves that: in the same run of the kernel every page that was written is there."""
    engine = open_engine(tmp_path / "state")
    create_and_commit(engine, [b"first"])
    whole = len(used_bytes(tmp_path / "state/journal.0"))
    create_and_commit(engine, [b"second", b"third"])
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    engine.close()
    path = tmp_path / "crashed/journal.0"
    content = bytearray(path.read_bytes())
    content[whole + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(StateDamagedError, match=r"journal\.0 is damaged behind change"):
        open_engine(tmp_path / "crashed")
    assert path.read_bytes() == content


def test_entries_of_an_abandoned_future_are_never_read(tmp_path: Path) -> None:
    """A reused sequence that ends where an old entry of the next sequence begins: it stays dead."""
    book = Journal(tmp_path / "journal")
    book.start(1, 42)
    book.append(b"first" * 2)
    one_entry_bytes = book.size_bytes
    book.append(b"other" * 2)
    book.append(b"stale" * 2)
    book.start(2, 42)
    book.append(b"x" * (10 + one_entry_bytes))
    assert book.size_bytes == 2 * one_entry_bytes
    assert [sequence for sequence, _payload in book.entries()] == [3]
    book.close()


def test_journal_of_other_statements_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(tmp_path / "state")
    create_and_commit(engine, [b"first"])
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    engine.close()
    with monkeypatch.context() as patch:
        patch.setattr(opening, "UNDERSTOOD", {})
        with pytest.raises(UsageError, match="another version"):
            open_engine(tmp_path / "crashed")
    engine = open_engine(tmp_path / "crashed")
    assert run(names_in(engine)) == [b"first"]
    engine.close()


class PowerCut:
    """Keeps what is on stable storage, by watching each fdatasync.

    Invariant: `restore` gives each file as it was at its last fsync, which is the least that a disk
    may keep: the database with its log at the last one of the log.
    """

    def __init__(self, state_dir: Path, stable_dir: Path, patch: pytest.MonkeyPatch) -> None:
        self._state_dir = state_dir
        self.stable_dir = stable_dir
        self.log_sync_count = 0
        shutil.copytree(state_dir, stable_dir)
        self._fdatasync = os.fdatasync
        patch.setattr(os, "fdatasync", self.fdatasync)

    def fdatasync(self, fd: int) -> None:
        self._fdatasync(fd)
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        names = [name]
        if name == "metadata.db-wal":
            # SQLite writes to the database file only what its log has already.
            names = [name, "metadata.db"]
            self.log_sync_count += 1
        for each in names:
            shutil.copyfile(self._state_dir / each, self.stable_dir / each)


@pytest.mark.parametrize("sync_after", [1, 7, 40])
def test_power_loss_keeps_all_that_sync_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync_after: int
) -> None:
    """Through many checkpoints, at any time, the stable parts alone give every promised name."""
    engine = open_engine(tmp_path / "state", SMALL)
    with monkeypatch.context() as patch:
        power = PowerCut(tmp_path / "state", tmp_path / "stable", patch)
        for index in range(200):
            create_and_commit(engine, [b"%d" % index])
            if index % sync_after == 0:
                engine.sync()
            if index % 5 == 0:
                engine.wait_for_checkpoint()
            if index % 20 == 0:
                engine.wait_for_checkpoint()
                promised = index // sync_after * sync_after
                copy = tmp_path / f"cut-{index}"
                shutil.copytree(power.stable_dir, copy)
                survivor = open_engine(copy)
                names = run(names_in(survivor))
                assert names == [b"%d" % number for number in range(len(names))]
                assert len(names) > promised
                assert survivor.check() == []
                survivor.close()
                shutil.rmtree(copy)
        engine.wait_for_checkpoint()
        assert power.log_sync_count > 3
    engine.close()


def test_sync_covers_the_retiring_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the log is durable, entries of the retiring journal are nowhere else on the disk."""
    engine = open_engine(tmp_path / "state", SMALL)
    held = threading.Event()
    with monkeypatch.context() as patch:
        power = PowerCut(tmp_path / "state", tmp_path / "stable", patch)
        watched = os.fdatasync

        def hold_log(fd: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                wait_until_set(held)
            watched(fd)

        patch.setattr(os, "fdatasync", hold_log)
        names = [b"%d" % index for index in range(40)]
        create_and_commit(engine, names)
        engine.sync()
        assert power.log_sync_count == 0
        shutil.copytree(power.stable_dir, tmp_path / "cut")
        held.set()
        engine.wait_for_checkpoint()
        assert power.log_sync_count == 1
    engine.close()
    survivor = open_engine(tmp_path / "cut")
    assert names == run(names_in(survivor))
    survivor.close()


def create_until_it_fails(engine: SqliteEngine) -> None:
    for index in range(200):
        create_and_commit(engine, [b"%d" % index])
        engine.wait_for_checkpoint()
        engine.maintain()


def test_retiring_journal_is_not_reused_before_the_log_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the log's fsync fails, no promise may be given that depends on it."""
    engine = open_engine(tmp_path / "state", SMALL)

    def refuse(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        with pytest.raises(MetadataError):
            create_until_it_fails(engine)
        with pytest.raises(MetadataError):
            engine.sync()
        with pytest.raises(MetadataError):
            run(make_file(engine, b"more"))
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    engine.close()
    survivor = open_engine(tmp_path / "crashed")
    assert len(run(names_in(survivor))) >= 10
    assert survivor.check() == []
    survivor.close()


def test_a_sync_after_one_that_failed_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed fsync may have dropped pages, and the next one says that all is well."""
    engine = open_engine(tmp_path / "state")
    create_and_commit(engine, [b"lost"])

    def refuse(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        with pytest.raises(MetadataError):
            engine.sync()
    for _attempt in range(2):
        with pytest.raises(MetadataError):
            engine.sync()
        assert not engine.synced
    engine.close()


CHILD = """
import sys
from pathlib import Path
from memfs.metadata.sqlite.engine import SqliteEngine
from tests.contract.engine.making import make_file
from tests.contract.engine.site import CONFIG, SMALL, run
engine = SqliteEngine.open(Path(sys.argv[1]), CONFIG, 1, SMALL)
index = len(run(engine.list_directory(1, 0, 1000000)))
while True:
    run(make_file(engine, b"%d" % index))
    engine.commit_nowait()
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
    index += 1
"""


def test_sigkill_at_any_time_keeps_every_committed_name(tmp_path: Path) -> None:
    """Each child reports a name after its commit; the next must find them all."""
    state_dir = tmp_path / "state"
    count = 0
    for reports in (1, 3, 60, 250):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(state_dir)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as child:
            assert child.stdout is not None
            for _index in range(reports):
                count = int(child.stdout.readline()) + 1
            child.send_signal(signal.SIGKILL)
            count = max([count, *(int(line) + 1 for line in child.stdout if line.endswith(b"\n"))])
        engine = open_engine(state_dir)
        names = run(names_in_all(engine))
        assert len(names) >= count
        assert names == [b"%d" % number for number in range(len(names))]
        assert engine.check() == []
        engine.close()


async def names_in_all(engine: SqliteEngine) -> list[bytes]:
    return [entry.name for entry in await engine.list_directory(ROOT_INODE, 0, 1_000_000)]


UNDO_TABLES = ("head", "snapshot", "inode_was", "xattr_was", "dentry_was", "symlink_was")


def undo_rows(engine: SqliteEngine) -> list[list[tuple[Any, ...]]]:
    """Return all that is there for snapshots."""
    return [engine._rows(f"select * from {table}") for table in UNDO_TABLES]


def undo_triggers(engine: SqliteEngine) -> list[str]:
    """Return the triggers that write undo rows, as earlier versions had them."""
    names = {Made.by(text).name for text in UNDO_TRIGGERS}
    rows = engine._rows("select name from sqlite_schema where type = 'trigger'")
    return [name for (name,) in rows if name in names]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_undo_rows_are_those_of_then_when_they_are_redone(
    tmp_path: Path, *, checkpointed: bool
) -> None:
    """Each prefix of the journal has the undo rows that there were then."""
    engine = open_engine(tmp_path / "state")
    inode = run(make_file(engine, b"file"))
    gone = run(engine.create(ROOT_INODE, b"link", new_symlink(engine)))
    run(engine.set_xattr(gone.ino, b"trusted.a", b"of a symlink", 0, NOW_NS))
    steps = 0

    def step(change: Coroutine[Any, Any, object], expected: tuple[int, ...]) -> None:
        """Expect so many undo rows, by table."""
        nonlocal steps
        run(change)
        engine.commit_nowait()
        if checkpointed:
            engine.publish()
            engine.wait_for_checkpoint()
        there = undo_rows(engine)
        assert tuple(len(rows) for rows in there[2:]) == expected, steps
        copy = tmp_path / f"{steps}"
        shutil.copytree(tmp_path / "state", copy)
        survivor = open_engine(copy)
        assert survivor.check() == []
        assert undo_rows(survivor) == there
        assert undo_triggers(survivor) == []
        survivor.close()
        steps += 1

    for count in range(2):
        value = b"%d" % count
        step(engine.set_xattr(inode.ino, b"user.a", value, 0, NOW_NS + count), (0, 0, 0, 0))
        step(engine.create_snapshot("first", NOW_NS), (0, 0, 0, 0))
        step(engine.set_xattr(inode.ino, b"user.a", b"x", 0, NOW_NS + count), (1, 1, 0, 0))
        step(engine.set_xattr(inode.ino, b"user.a", b"y", 0, NOW_NS + count), (1, 1, 0, 0))
        second = run(engine.create_snapshot("second", NOW_NS))
        # The file and its directory.
        step(engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"other", 0, NOW_NS), (3, 1, 1, 0))
        if count:
            run(engine.unlink(ROOT_INODE, b"link", NOW_NS))
            step(engine.reap([gone.ino]), (4, 2, 2, 1))
        more = 1 if count else 0
        rows = (3 + more, 1 + more, 1 + more, more)
        step(engine.delete_snapshot(second.snap), rows)
        # What it leaves stands for the first one too, but for what it had not kept.
        step(engine.rename(ROOT_INODE, b"other", ROOT_INODE, b"again", 0, NOW_NS), rows)
        step(engine.set_xattr(inode.ino, b"user.b", b"x", 0, NOW_NS + count), _one_xattr_more(rows))
        first = run(engine.get_snapshot("first"))
        step(engine.delete_snapshot(first.snap), _one_xattr_more(rows))
        while run(engine.delete_snapshot_step(1)):
            engine.commit_nowait()
        step(engine.rename(ROOT_INODE, b"again", ROOT_INODE, b"file", 0, NOW_NS), (0, 0, 0, 0))
        run(engine.remove_xattr(inode.ino, b"user.b", NOW_NS))
    engine.close()


def _one_xattr_more(rows: tuple[int, ...]) -> tuple[int, ...]:
    return (rows[0], rows[1] + 1, *rows[2:])


def new_symlink(engine: SqliteEngine) -> NewInode:
    return NewInode(engine.reserve_ids()[0], stat.S_IFLNK | 0o777, 0, 0, NOW_NS, target=b"file")


def test_a_snapshot_that_fails_half_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change after it is kept for the snapshots that there are, and for no others."""
    engine = open_engine(tmp_path / "state")
    inode = run(make_file(engine, b"file")).ino
    engine.commit_nowait()
    for index in range(20):
        with monkeypatch.context() as patch:
            failing = FailingStatement(engine, patch, index)
            with suppress(MetadataError):
                run(engine.create_snapshot(f"{index}", NOW_NS))
        engine.commit_nowait()
        present = run(engine.list_snapshots())
        run(engine.set_xattr(inode, b"user.a", b"%d" % index, 0, NOW_NS + index))
        kept = engine._rows("select snap from inode_was where ino = ?", (inode,))
        assert kept == [(each.snap,) for each in present]
        engine.commit_nowait()
        if not failing.reached:
            break
        assert not present
    assert index > 2
    (snapshot,) = run(engine.list_snapshots())
    engine.commit_nowait()
    for index in range(20):
        with monkeypatch.context() as patch:
            failing = FailingStatement(engine, patch, index)
            with suppress(MetadataError):
                run(engine.delete_snapshot(snapshot.snap))
        engine.commit_nowait()
        assert engine.check() == []
        if not failing.reached:
            break
        assert run(engine.list_snapshots()) == [snapshot]
        value = b"after %d" % index
        run(engine.set_xattr(inode, value, value, 0, NOW_NS))
        kept = engine._rows("select snap from xattr_was where name = ?", (value,))
        assert kept == [(snapshot.snap,)]
        engine.commit_nowait()
    assert index > 2
    engine.close()


def test_tables_that_a_version_with_triggers_has_closed_lose_them(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "state")
    create_and_commit(engine, [b"file"])
    run(engine.create_snapshot("first", NOW_NS))
    engine.close()
    with sqlite3.connect(tmp_path / "state" / "metadata.db") as connection:
        make_undo_triggers(connection)
    connection.close()
    (tmp_path / "state" / "metadata.sums").unlink()
    engine = open_engine(tmp_path / "state")
    assert undo_triggers(engine) == []
    run(engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"other", 0, NOW_NS))
    assert [len(rows) for rows in undo_rows(engine)] == [1, 1, 2, 0, 1, 0]
    engine.close()


def test_second_process_is_refused_while_the_engine_is_open(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "state")
    with pytest.raises(UsageError, match="in use"):
        open_engine(tmp_path / "state")
    engine.close()
    open_engine(tmp_path / "state").close()


def test_journal_reads_back_what_was_appended(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal")
    assert list(first.entries()) == []
    first.start(7, 42)
    payloads = [b"", b"x", os.urandom(9000)]
    for payload in payloads:
        first.append(payload)
    first.close()
    second = Journal(tmp_path / "journal")
    assert (second.fingerprint, second.first_sequence) == (42, 7)
    assert list(enumerate(payloads, 8)) == list(second.entries())
    second.start(100, 42)
    assert list(second.entries()) == []
    second.close()


def test_journal_append_that_fails_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Journal(tmp_path / "journal")
    book.start(1, 42)
    book.append(b"kept")
    real = os.pwrite

    def short(fd: int, data: bytes, offset: int) -> int:
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return real(fd, data[:-5], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        with pytest.raises(OSError, match="No space"):
            book.append(b"lost" * 10)
    assert list(book.entries()) == [(2, b"kept")]
    book.append(b"next")
    assert list(book.entries()) == [(2, b"kept"), (3, b"next")]
    book.close()


class FailingStatement:
    """Lets a database fail once at the n-th statement from now on."""

    def __init__(self, engine: SqliteEngine, patch: pytest.MonkeyPatch, index: int) -> None:
        self._countdown = index
        self.reached = False
        self._real = engine._database._tables.execute
        patch.setattr(engine._database._tables, "execute", self.execute)

    def execute(self, text: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        self._countdown -= 1
        if self._countdown < 0 and not self.reached:
            self.reached = True
            raise sqlite3.OperationalError("disk I/O error")
        return self._real(text, parameters)


@pytest.mark.parametrize("index", range(3))
def test_failure_in_the_middle_of_a_change_undoes_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    engine = open_engine(tmp_path / "state")
    create_and_commit(engine, [b"before"])
    usage = run(engine.usage())
    with monkeypatch.context() as patch:
        failing = FailingStatement(engine, patch, index)
        with pytest.raises(MetadataError, match="disk I/O error"):
            # At another time than the last change, which the directory would not be told again.
            run(engine.create(ROOT_INODE, b"failed", new_file(engine, NOW_NS + 1)))
        assert failing.reached
    assert not engine.uncommitted
    assert run(names_in(engine)) == [b"before"]
    assert usage == run(engine.usage())
    create_and_commit(engine, [b"after"])
    assert engine.check() == []
    engine.close()


def test_earlier_changes_of_a_failed_batch_fail_at_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were accepted and are undone: their commit has to say so, exactly once."""
    engine = open_engine(tmp_path / "state")
    create_and_commit(engine, [b"before"])
    run(make_file(engine, b"accepted"))
    with monkeypatch.context() as patch:
        FailingStatement(engine, patch, 1)
        with pytest.raises(MetadataError):
            run(make_file(engine, b"failed"))
    with pytest.raises(MetadataError):
        run(make_file(engine, b"later in the batch"))
    assert engine.uncommitted
    with pytest.raises(MetadataError):
        engine.commit_nowait()
    assert not engine.uncommitted
    create_and_commit(engine, [b"after"])
    assert run(names_in(engine)) == [b"before", b"after"]
    assert engine.check() == []
    engine.close()
