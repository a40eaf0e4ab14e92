"""SQLite's log starts over: whatever a kill or a power cut leaves of it, no change is lost."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.linux.memory import cachestat
from memfs.metadata.sqlite.engine import SqliteEngine
from tests.contract.engine.making import make_file, names_in
from tests.contract.engine.site import CONFIG, SMALL, run

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from memfs.metadata.sqlite.statements import Parameters
    from tests import scratch

ROLLED_BACK, CUT, BEGUN = "rollback", "pragma wal_checkpoint(truncate)", "begin immediate"
PAGE_BYTES = 4096


class Writer:
    """Makes files in a state whose log is soon too long, and tells of what SQLite is told."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.engine = SqliteEngine.open(state_dir, CONFIG, 1, SMALL)
        self.count = 0
        """Files that were made, committed and synced."""
        self.before: Callable[[str], None] = lambda _text: None
        self.after: Callable[[str], None] = lambda _text: None
        self._execute = self.engine._database._tables.execute
        self.engine._database._tables.execute = self._watched  # type: ignore[assignment]

    def _watched(self, text: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        self.before(text)
        cursor = self._execute(text, parameters)
        self.after(text)
        return cursor

    def work_until(self, is_done: Callable[[], bool]) -> None:
        """Make files until something was seen."""
        while not is_done():
            assert self.count < 2000
            run(make_file(self.engine, b"%d" % self.count))
            self.count += 1
            # The commit may begin a checkpoint, with the journal synced.
            self.engine.commit_nowait()
            self.engine.sync()
            self.engine.wait_for_checkpoint()


def count_names(state_dir: Path) -> int:
    """Open what was left, and return how many files there are."""
    engine = SqliteEngine.open(state_dir, CONFIG, 1, SMALL)
    assert engine.check() == []
    names = run(names_in(engine))
    engine.close()
    return len(names)


def test_a_kill_at_any_step_loses_no_change(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "state")
    copies: list[tuple[Path, int]] = []
    cuts = []

    def copy(text: str) -> None:
        if text == CUT:
            cuts.append(text)
        if 1 <= len(cuts) <= 3 and not text.lower().startswith(("select", "insert", "update")):
            copies.append((tmp_path / f"copy-{len(copies)}", writer.count))
            shutil.copytree(writer.state_dir, copies[-1][0])

    writer.before = writer.after = copy
    writer.work_until(lambda: len(cuts) > 6)
    writer.engine.close()
    assert len(copies) > 10
    for path, count in copies:
        # The last file may be in the journal before its maker was told.
        assert count <= count_names(path) <= count + 1
    assert count_names(writer.state_dir) == writer.count


def damaged_logs(former: bytes, log: bytes) -> dict[str, bytes]:
    """Return what a power cut may leave of a file that was cut and then written to."""
    logs = {"former": former, "empty": b"", "whole": log}
    for first in range(0, len(log), PAGE_BYTES):
        end = first + PAGE_BYTES
        logs[f"without {first}"] = log[:first] + bytes(len(log[first:end])) + log[end:]
        logs[f"until {first}"] = log[:first]
    return logs


@pytest.mark.parametrize("turn", [1, 4])
def test_a_power_cut_may_leave_any_part_of_the_new_log(tmp_path: Path, turn: int) -> None:
    """SQLite was told not to fsync its header: the former log must not count behind it."""
    writer = Writer(tmp_path / "state")
    log = tmp_path / "state/metadata.db-wal"
    former: list[bytes] = []
    copied = tmp_path / "copied"

    def note(text: str) -> None:
        if text == CUT:
            former.append(log.read_bytes())

    def copy(text: str) -> None:
        # The thread that makes the log durable is begun after it.
        if text == "commit" and len(former) == turn and not copied.exists():
            assert writer.engine._database._tables._is_log_cut
            shutil.copytree(writer.state_dir, copied)

    writer.before, writer.after = note, copy
    writer.work_until(copied.exists)
    count = writer.count
    writer.engine.close()
    assert former[-1]
    content = (copied / log.name).read_bytes()
    assert content[:PAGE_BYTES] != former[-1][:PAGE_BYTES]
    for name, left in damaged_logs(former[-1], content).items():
        state_dir = tmp_path / "left"
        shutil.copytree(copied, state_dir)
        (state_dir / log.name).write_bytes(left)
        assert count <= count_names(state_dir) <= count + 1, name
        shutil.rmtree(state_dir)


def test_what_is_closed_with_a_cut_log_is_made_durable_by_sqlite(tmp_path: Path) -> None:
    """The last connection copies the log into the file and removes it."""
    writer = Writer(tmp_path / "state")
    seen: list[str] = []
    writer.after = seen.append
    writer.work_until(lambda: CUT in seen)
    assert writer.engine._database._tables._is_log_cut
    seen.clear()
    writer.engine.close()
    assert "pragma synchronous = normal" in seen
    assert count_names(writer.state_dir) == writer.count


def test_the_log_has_left_memory_when_the_event_loop_cuts_it(
    disk_area: scratch.Scratch,
) -> None:
    """To give its pages back took most of the time for which all requests waited."""
    state_dir = disk_area.directory("log") / "state"
    writer = Writer(state_dir)
    log = state_dir / "metadata.db-wal"
    seen: list[tuple[int, int]] = []

    def look(text: str) -> None:
        if text == CUT:
            with log.open("rb") as file:
                seen.append((log.stat().st_size, cachestat(file.fileno()).resident_bytes))

    writer.before = look
    writer.work_until(lambda: len(seen) > 3)
    writer.engine.close()
    for size, resident_bytes in seen:
        assert resident_bytes < size / 4
