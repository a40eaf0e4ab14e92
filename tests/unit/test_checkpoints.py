"""When the journal is moved into the tables, and when SQLite's log starts over."""

from __future__ import annotations

import random
import sqlite3
import stat
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memfs.config import KIB, MetadataConfig
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.limits import Limits
from memfs.types import ROOT_INODE
from tests.contract.engine.site import run
from tests.disk_calls import intercept, name_of

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from memfs.metadata.sqlite.statements import Parameters
    from memfs.types import InodeNo

LIMITS = Limits(
    checkpoint_bytes=64 * KIB,
    checkpoint_page_count=1024,
    journal_bytes=256 * KIB,
    reserve_bytes=64 * KIB,
)
FILE_COUNT = 2000


def make_files(
    engine: SqliteEngine, name: bytes = b"", count: int = FILE_COUNT
) -> list[tuple[InodeNo, bytes]]:
    files = []
    for number in range(count):
        ino, raw = engine.reserve_ids()
        new = NewInode(ino, stat.S_IFREG | 0o644, 0, 0, 1, raw=raw)
        run(engine.create(ROOT_INODE, b"%s%06d" % (name, number), new))
        engine.commit_nowait()
        engine.wait_for_checkpoint()
        files.append((ino, b"%s%06d" % (name, number)))
    return files


def test_a_checkpoint_is_begun_without_a_wait_for_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside other load a processor for the thread may take tens of milliseconds."""
    engine = SqliteEngine.open(tmp_path, MetadataConfig(), limits=LIMITS)
    checkpointer, seen = engine._database._checkpointer, []
    interval_s, real = sys.getswitchinterval(), checkpointer.run

    def run_seen(*arguments: Any) -> None:  # noqa: ANN401 - of the real one
        seen.append(threading.get_ident())
        real(*arguments)

    monkeypatch.setattr(checkpointer, "run", run_seen)
    # The thread runs once this one waits for something, and not before.
    sys.setswitchinterval(3600.0)
    try:
        checkpointer.begin(lambda: None, lambda: False)
        assert checkpointer.running
        assert seen == []
        engine.wait_for_checkpoint()
    finally:
        sys.setswitchinterval(interval_s)
    assert not checkpointer.running
    assert len(seen) == 1
    assert seen[0] != threading.get_ident()
    engine.close()


def checkpoints_of_removals(state_dir: Path, limits: Limits) -> int:
    """Remove files in random order; return how often the journals took turns."""
    engine = SqliteEngine.open(state_dir, MetadataConfig(), limits=limits)
    files = make_files(engine)
    random.Random(1).shuffle(files)
    first_sequences = set()
    for _, name in files:
        run(engine.unlink(ROOT_INODE, name, 2))
        engine.commit_nowait()
        engine.wait_for_checkpoint()
        first_sequences.add(engine._database._journals.current.first_sequence)
    assert engine.check() == []
    engine.close()
    return len(first_sequences)


def test_scattered_changes_are_moved_in_shorter_journals(tmp_path: Path) -> None:
    """Else the event loop stops for the longest where removals touch a page each."""
    shorter = replace(LIMITS, checkpoint_page_count=16)
    often = checkpoints_of_removals(tmp_path / "shorter", shorter)
    seldom = checkpoints_of_removals(tmp_path / "longer", LIMITS)
    assert often > 4 * seldom


def test_log_starts_over_while_changes_keep_coming(tmp_path: Path) -> None:
    """Else it grows without bound under a program that never rests."""
    log_bytes = {}
    for log_page_count in (64, 1_000_000):
        limits = replace(LIMITS, checkpoint_bytes=8 * KIB, log_page_count=log_page_count)
        state_dir = tmp_path / str(log_page_count)
        engine = SqliteEngine.open(state_dir, MetadataConfig(), limits=limits)
        make_files(engine)
        log_bytes[log_page_count] = (state_dir / "metadata.db-wal").stat().st_size
        engine.close()
    assert log_bytes[64] < 2 * 64 * 4 * KIB < log_bytes[1_000_000]


def test_the_event_loop_waits_for_no_disk_while_the_log_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy disk each fsync takes as long as requests may wait in all."""
    limits = replace(LIMITS, checkpoint_bytes=8 * KIB, log_page_count=64)
    engine = SqliteEngine.open(tmp_path / "state", MetadataConfig(), limits=limits)
    tables = engine._database._tables
    execute, cuts, synced = tables.execute, [], []

    def watch(text: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        if "wal_checkpoint" in text:
            # SQLite would fsync its log, the file and the next header.
            assert execute("pragma synchronous").fetchone() == (0,)
            cuts.append(text)
        return execute(text, parameters)

    def note(_call: str, fd: int) -> None:
        if threading.current_thread() is threading.main_thread():
            synced.append(name_of(fd))

    tables.execute = watch  # type: ignore[assignment]
    intercept(monkeypatch, "fsync", "fdatasync", before=note)
    make_files(engine)
    assert len(cuts) > 5
    assert synced == []
    make_files(engine, b"more", 500)
    while tables._is_log_cut:
        make_files(engine, b"%d" % engine.reserve_ids()[0], 1)
    assert execute("pragma synchronous").fetchone() == (1,)
    engine.close()


def test_a_log_starts_over_while_little_is_to_be_redone(tmp_path: Path) -> None:
    """Entries are redone in the event loop for it; a log four times as long waits no longer."""
    limits = replace(LIMITS, checkpoint_bytes=8 * KIB, log_page_count=64, redo_row_count=-1)
    engine = SqliteEngine.open(tmp_path / "state", MetadataConfig(), limits=limits)
    execute, lengths = engine._database._tables.execute, []

    def watch(text: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        if "wal_checkpoint" in text:
            lengths.append(engine._database._checkpointer.frame_count)
        return execute(text, parameters)

    engine._database._tables.execute = watch  # type: ignore[assignment]
    make_files(engine)
    assert lengths
    assert min(lengths) > 4 * 64
    engine.close()


def test_a_reader_that_stays_costs_few_attempts_to_start_over(tmp_path: Path) -> None:
    """The log grows while somebody reads, and starts over soon after the end of that."""
    limits = replace(LIMITS, checkpoint_bytes=8 * KIB, log_page_count=64)
    state_dir = tmp_path / "state"
    engine = SqliteEngine.open(state_dir, MetadataConfig(), limits=limits)
    log = state_dir / "metadata.db-wal"
    attempts = []
    execute = engine._database._tables.execute

    def watch(text: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        if "wal_checkpoint" in text:
            attempts.append(log.stat().st_size)
        cursor = execute(text, parameters)
        if text == "commit" and readers and log.stat().st_size > 66 * 4 * KIB:
            # It reads all of the log, which can be copied to its end.
            reader.execute(readers.pop())
            reader.execute("select count(*) from inode").fetchone()
        return cursor

    engine._database._tables.execute = watch  # type: ignore[assignment]
    reader = sqlite3.connect(state_dir / "metadata.db", isolation_level=None)
    readers: list[str] = []
    make_files(engine, b"before", 500)
    readers.append("begin")
    begun_bytes = log.stat().st_size
    attempts.clear()
    make_files(engine, b"meanwhile", 1500)
    grown_pages = (log.stat().st_size - begun_bytes) // (4 * KIB)
    assert grown_pages > 3 * 64
    assert 1 <= len(attempts) <= 2 + grown_pages // 64
    reader.close()
    attempts.clear()
    held_bytes = log.stat().st_size
    make_files(engine, b"after", 500)
    assert log.stat().st_size <= held_bytes + 2 * 64 * 4 * KIB
    assert engine._database._checkpointer.frame_count < 2 * 64
    assert engine._database._checkpointer.held_count == 0
    assert engine.check() == []
    engine.close()
