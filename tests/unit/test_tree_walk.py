"""The client's side of work on trees, with a daemon that answers as a test says."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.client.mount import Mount
from memfs.control.client import ControlUnavailableError
from memfs.errors import UsageError
from memfs_tools.tree_work import PollTimes, Totals, TreeWork, Work
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.control.methods.trees import MovesReport, WorkReport

AT_ONCE = PollTimes(busy_poll_s=0.0, waiting_poll_s=0.0)


class Daemon:
    """Works on files, `taken_max` a call, and says of each what `judge` says.

    Args:
        mount: What all paths lie in.
    """

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.taken_max = 1000
        self.work_on: Callable[[Mount, list[int], float], WorkReport] = self.answer
        self.calls: list[list[int]] = []
        self.judge: Callable[[int], str] = lambda _: "done"
        self.interrupt_at = -1

    def answer(self, _: Mount, inos: list[int], left_s: float) -> WorkReport:
        assert left_s > 0
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        taken = inos[: self.taken_max]
        self.calls.append(taken)
        outcomes: dict[str, int] = {}
        left: dict[str, list[str]] = {}
        for ino in taken:
            outcome = self.judge(ino)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if outcome not in ("done", "unneeded"):
                left[str(ino)] = [outcome, f"is {outcome}"]
        return {
            "taken_count": len(taken),
            "outcomes": outcomes,
            "left": left,
            "before_bytes": len(taken),
            "after_bytes": len(taken),
            "moved_bytes": len(taken),
        }

    def run(
        self,
        *paths: Path,
        files_a_call: int = 3,
        timeout_s: float | None = None,
        find_mount: Callable[[Path], Mount] | None = None,
        poll_times: PollTimes = AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
        hidden: bool = True,
    ) -> Totals:
        totals = Totals()
        work = Work(self.work_on, files_a_call, timeout_s)
        find_mount = find_mount or (lambda _: self.mount)
        tree_work = TreeWork(
            work, totals, find_mount=find_mount, poll_times=poll_times, clock=clock
        )
        tree_work.run(paths, lambda done: f"{done.moved_bytes} moved", hidden=hidden)
        return totals


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(Mount(tmp_path, tmp_path))


def plant(root: Path, count: int) -> set[int]:
    for number in range(count):
        path = root / f"d{number % 2}" / f"{number}"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return {path.stat().st_ino for path in root.rglob("*") if path.is_file()}


def test_every_file_of_a_tree_is_sent_once(daemon: Daemon, tmp_path: Path) -> None:
    """Hard links and symbolic links add nothing, and what a call did not take comes again."""
    inos = plant(tmp_path, 8)
    os.link(tmp_path / "d0" / "0", tmp_path / "again")
    os.symlink(tmp_path / "d0", tmp_path / "link")
    daemon.taken_max = 2
    totals = daemon.run(tmp_path)
    sent = [ino for call in daemon.calls for ino in call]
    assert (sorted(sent), totals.file_count) == (sorted(inos), 8)
    assert (totals.complete, totals.moved_bytes) == (True, 8)


def test_a_tree_without_files_is_still_asked_for(daemon: Daemon, tmp_path: Path) -> None:
    """Names of directories are brought to stable storage by it."""
    (tmp_path / "empty").mkdir()
    assert daemon.run(tmp_path).complete
    assert daemon.calls == [[]]


def test_files_that_wait_are_asked_for_until_they_are_done(daemon: Daemon, tmp_path: Path) -> None:
    """And are counted once."""
    plant(tmp_path, 5)
    asked: dict[int, int] = {}

    def judge(ino: int) -> str:
        asked[ino] = asked.get(ino, 0) + 1
        return "done" if asked[ino] > 3 else "waiting"

    daemon.judge = judge
    totals = daemon.run(tmp_path)
    assert (dict(+totals.outcomes), totals.complete, totals.failures) == ({"done": 5}, True, [])


def test_waiting_ends_with_the_time_given(daemon: Daemon, tmp_path: Path) -> None:
    plant(tmp_path, 2)
    daemon.judge = lambda _: "waiting"
    totals = daemon.run(tmp_path, timeout_s=0.05)
    assert (totals.timed_out, totals.complete, totals.file_count) == (True, False, 2)
    assert totals.failure_count == 2


def test_what_is_not_answered_in_time_is_unfinished(daemon: Daemon, tmp_path: Path) -> None:
    """The daemon may do it all the same, but nobody knows; earlier answers count as they were."""
    plant(tmp_path, 4)
    daemon.taken_max = 2
    now_s = 0.0

    def answer_once(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        nonlocal now_s
        if daemon.calls:
            now_s += left_s
            raise ControlUnavailableError("no answer in time")
        return daemon.answer(mount, inos, left_s)

    daemon.work_on = answer_once
    totals = daemon.run(tmp_path, files_a_call=256, timeout_s=60.0, clock=lambda: now_s)
    assert totals.outcomes == {"done": 2, "unfinished": 2}
    assert totals.timed_out
    assert not totals.complete


def test_a_pause_for_what_is_busy_begins_with_the_first_answer(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Which may come long after the question, and is out of date then."""
    plant(tmp_path, 1)
    now_s = 0.0

    def answer_late(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        nonlocal now_s
        now_s += 100.0 if not daemon.calls else 0.1
        daemon.judge = lambda _: "superseded" if len(daemon.calls) == 1 else "done"
        return daemon.answer(mount, inos, left_s)

    daemon.work_on = answer_late
    totals = daemon.run(tmp_path, clock=lambda: now_s)
    assert +totals.outcomes == {"done": 1}


class Terminal(io.StringIO):
    """One that a program writes to."""

    def isatty(self) -> bool:
        return True


def test_moves_under_way_are_shown_while_a_call_waits(daemon: Daemon, tmp_path: Path) -> None:
    """On a terminal."""
    plant(tmp_path, 1)
    asked = threading.Event()

    class Moving(Mount):
        def moves(self) -> MovesReport:
            asked.set()
            return {"count": 1, "done_bytes": 3 << 20, "total_bytes": 10 << 20}

    def answer(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        assert asked.wait(30)
        return daemon.answer(mount, inos, left_s)

    daemon.mount = Moving(tmp_path, tmp_path)
    daemon.work_on = answer
    with contextlib.redirect_stderr(Terminal()):
        totals = daemon.run(tmp_path, poll_times=PollTimes(moves_poll_s=0.01), hidden=False)
    wait_for(lambda: totals.under_way == ", under way: 3.0 MiB of 10.0 MiB", lambda: totals)


def test_files_that_stay_busy_are_reported(daemon: Daemon, tmp_path: Path) -> None:
    """After a moment: the daemon hears late of a close."""
    plant(tmp_path, 2)
    busy = (tmp_path / "d1" / "1").stat().st_ino
    daemon.judge = lambda ino: "busy" if ino == busy else "done"
    totals = daemon.run(tmp_path, poll_times=PollTimes(busy_s=0.05, busy_poll_s=0.0))
    assert totals.failures == [f"{tmp_path / 'd1' / '1'}: busy: is busy"]
    assert (totals.complete, totals.file_count) == (False, 2)
    assert len(daemon.calls) > 1


def test_an_interrupt_tells_how_far_it_came(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, 9)
    daemon.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        daemon.run(tmp_path)
    assert "stopped; 6 files, 6 moved; run it again to go on" in capsys.readouterr().err


def test_a_path_that_is_missing_is_a_failure(daemon: Daemon, tmp_path: Path) -> None:
    totals = daemon.run(tmp_path / "missing")
    assert totals.failures == [f"{tmp_path / 'missing'}: failed: No such file or directory"]
    assert not totals.complete


def test_a_daemon_that_does_not_answer_ends_it(daemon: Daemon, tmp_path: Path) -> None:
    def refuse(*_: object) -> WorkReport:
        raise ControlUnavailableError("no daemon answers")

    daemon.work_on = refuse
    with pytest.raises(UsageError, match="no daemon answers"):
        daemon.run(tmp_path)


def test_paths_of_several_mounts_are_refused(daemon: Daemon) -> None:
    with pytest.raises(UsageError, match="several mounts"):
        daemon.run(Path("/a"), Path("/b"), find_mount=lambda path: Mount(path, path))
