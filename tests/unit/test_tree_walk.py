"""The client's side of work on trees, with a daemon that answers as a test says."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memfs.client.mount import Mount
from memfs.control.client import ControlUnavailableError
from memfs.errors import UsageError
from memfs_tools import tree_work
from memfs_tools.tree_work import Totals, TreeWork, Work
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.control.methods import WorkReport

Answer = dict[str, Any]


class Daemon:
    """Answers `rekey` calls; `taken_max` files each, and what `judge` says of each file."""

    def __init__(self, taken_max: int = 1000) -> None:
        self.taken_max = taken_max
        self.calls: list[list[int]] = []
        self.judge: Callable[[int], str] = lambda _: "done"
        self.interrupt_at = -1

    def call(self, _: Path, method: str, parameters: Answer, *, timeout_s: float) -> Answer:
        assert (method, timeout_s > 0) == ("rekey", True)
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        taken = parameters["inos"][: self.taken_max]
        self.calls.append(taken)
        outcomes: dict[str, int] = {}
        left = {}
        for ino in taken:
            outcome = self.judge(ino)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if outcome not in ("done", "unneeded"):
                left[str(ino)] = [outcome, f"is {outcome}"]
        return {
            "taken_count": len(taken),
            "outcomes": outcomes,
            "left": left,
            **dict.fromkeys(("before_bytes", "after_bytes", "moved_bytes"), len(taken)),
        }


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Daemon:
    daemon = Daemon()
    monkeypatch.setattr("memfs.client.mount.call", daemon.call)
    monkeypatch.setattr(tree_work, "find_mount_above", lambda _: Mount(tmp_path, tmp_path))
    monkeypatch.setattr(tree_work, "_BUSY_POLL_S", 0.0)
    monkeypatch.setattr(tree_work, "_WAITING_POLL_S", 0.0)
    return daemon


def work_on(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
    return mount.rekey(inos, timeout_s=left_s)


def run(*paths: Path, files_a_call: int = 3, timeout_s: float | None = None) -> Totals:
    totals = Totals()
    work = Work(work_on, files_a_call, timeout_s)
    TreeWork(work, totals).run(paths, lambda done: f"{done.moved_bytes} moved", hidden=True)
    return totals


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
    totals = run(tmp_path)
    sent = [ino for call in daemon.calls for ino in call]
    assert (sorted(sent), totals.file_count) == (sorted(inos), 8)
    assert (totals.complete, totals.moved_bytes) == (True, 8)


def test_a_tree_without_files_is_still_asked_for(daemon: Daemon, tmp_path: Path) -> None:
    """Names of directories are brought to stable storage by it."""
    (tmp_path / "empty").mkdir()
    assert run(tmp_path).complete
    assert daemon.calls == [[]]


def test_files_that_wait_are_asked_for_until_they_are_done(daemon: Daemon, tmp_path: Path) -> None:
    """And are counted once."""
    plant(tmp_path, 5)
    asked: dict[int, int] = {}

    def judge(ino: int) -> str:
        asked[ino] = asked.get(ino, 0) + 1
        return "done" if asked[ino] > 3 else "waiting"

    daemon.judge = judge
    totals = run(tmp_path)
    assert (dict(+totals.outcomes), totals.complete, totals.failures) == ({"done": 5}, True, [])


def test_waiting_ends_with_the_time_given(daemon: Daemon, tmp_path: Path) -> None:
    plant(tmp_path, 2)
    daemon.judge = lambda _: "waiting"
    totals = run(tmp_path, timeout_s=0.05)
    assert (totals.timed_out, totals.complete, totals.file_count) == (True, False, 2)
    assert totals.failure_count == 2


def test_what_is_not_answered_in_time_is_unfinished(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The daemon may do it all the same, but nobody knows; earlier answers count as they were."""
    plant(tmp_path, 4)
    daemon.taken_max = 2
    over = False
    answer = daemon.call

    def answer_once(*args: Any, **options: Any) -> Answer:  # noqa: ANN401
        nonlocal over
        if daemon.calls:
            over = True
            raise ControlUnavailableError("no answer in time")
        return answer(*args, **options)

    monkeypatch.setattr("memfs.client.mount.call", answer_once)
    monkeypatch.setattr(TreeWork, "_is_over", lambda _: over)
    totals = Totals()
    TreeWork(Work(work_on, timeout_s=60.0), totals).run((tmp_path,), lambda _: "", hidden=True)
    assert totals.outcomes == {"done": 2, "unfinished": 2}
    assert totals.timed_out
    assert not totals.complete


def test_a_pause_for_what_is_busy_begins_with_the_first_answer(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which may come long after the question, and is out of date then."""
    plant(tmp_path, 1)
    now_s = [0.0]

    def answer_late(*args: Any, **options: Any) -> Answer:  # noqa: ANN401
        now_s[0] += 100.0 if not daemon.calls else 0.1
        daemon.judge = lambda _: "superseded" if len(daemon.calls) == 1 else "done"
        return daemon.call(*args, **options)

    monkeypatch.setattr("memfs.client.mount.call", answer_late)
    monkeypatch.setattr("memfs_tools.tree_work.time.monotonic", lambda: now_s[0])
    totals = Totals()
    TreeWork(Work(work_on), totals).run((tmp_path,), lambda _: "", hidden=True)
    assert +totals.outcomes == {"done": 1}


def test_moves_under_way_are_shown_while_a_call_waits(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a terminal."""
    plant(tmp_path, 1)
    asked = threading.Event()

    def answer(*args: Any, **options: Any) -> Answer:  # noqa: ANN401
        if args[1] == "moves":
            asked.set()
            return {"count": 1, "done_bytes": 3 << 20, "total_bytes": 10 << 20}
        assert asked.wait(30)
        return daemon.call(*args, **options)

    monkeypatch.setattr("memfs.client.mount.call", answer)
    monkeypatch.setattr(tree_work, "_MOVES_POLL_S", 0.01)
    monkeypatch.setattr("memfs_tools.tree_work.sys.stderr.isatty", lambda: True, raising=False)
    totals = Totals()
    TreeWork(Work(work_on), totals).run((tmp_path,), lambda _: "", hidden=False)
    wait_for(lambda: totals.under_way == ", under way: 3.0 MiB of 10.0 MiB", lambda: totals)


def test_files_that_stay_busy_are_reported(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment: the daemon hears late of a close."""
    monkeypatch.setattr(tree_work, "_BUSY_S", 0.05)
    plant(tmp_path, 2)
    busy = (tmp_path / "d1" / "1").stat().st_ino
    daemon.judge = lambda ino: "busy" if ino == busy else "done"
    totals = run(tmp_path)
    assert totals.failures == [f"{tmp_path / 'd1' / '1'}: busy: is busy"]
    assert (totals.complete, totals.file_count) == (False, 2)
    assert len(daemon.calls) > 1


def test_an_interrupt_tells_how_far_it_came(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, 9)
    daemon.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert "stopped; 6 files, 6 moved; run it again to go on" in capsys.readouterr().err


def test_a_path_that_is_missing_is_a_failure(daemon: Daemon, tmp_path: Path) -> None:
    totals = run(tmp_path / "missing")
    assert totals.failures == [f"{tmp_path / 'missing'}: failed: No such file or directory"]
    assert not totals.complete


def test_a_daemon_that_does_not_answer_ends_it(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Answer:
        raise ControlUnavailableError("no daemon answers")

    monkeypatch.setattr("memfs.client.mount.call", refuse)
    with pytest.raises(UsageError, match="no daemon answers"):
        run(tmp_path)


def test_paths_of_several_mounts_are_refused(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_work, "find_mount_above", lambda path: Mount(path, path))
    with pytest.raises(UsageError, match="several mounts"):
        run(Path("/a"), Path("/b"))
