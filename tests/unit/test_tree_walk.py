"""The client's side of work on trees, with a daemon that answers as a test says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memfs.control.client import ControlUnavailableError
from memfs.errors import UsageError
from memfs_tools import tree_work
from memfs_tools.mounts import ServedMount
from memfs_tools.tree_work import Totals, TreeWork, Work

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = dict[str, Any]


class Daemon:
    """Answers `work` calls; `taken_max` files each, and what `judge` says of each file."""

    def __init__(self, taken_max: int = 1000) -> None:
        self.taken_max = taken_max
        self.calls: list[list[int]] = []
        self.judge: Callable[[int], str] = lambda _: "done"
        self.interrupt_at = -1

    def call(self, _: Path, method: str, parameters: Answer, *, timeout_s: float) -> Answer:
        assert (method, timeout_s > 0) == ("work", True)
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
    monkeypatch.setattr(tree_work, "call", daemon.call)
    monkeypatch.setattr(tree_work, "find_mount_above", lambda _: ServedMount(tmp_path, tmp_path))
    monkeypatch.setattr(tree_work, "_BUSY_POLL_S", 0.0)
    monkeypatch.setattr(tree_work, "_WAITING_POLL_S", 0.0)
    return daemon


def run(*paths: Path, files_a_call: int = 3, timeout_s: float | None = None) -> Totals:
    totals = Totals()
    work = Work("work", {}, files_a_call, timeout_s)
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

    monkeypatch.setattr(tree_work, "call", refuse)
    with pytest.raises(UsageError, match="no daemon answers"):
        run(tmp_path)


def test_paths_of_several_mounts_are_refused(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_work, "find_mount_above", lambda path: ServedMount(path, path))
    with pytest.raises(UsageError, match="several mounts"):
        run(Path("/a"), Path("/b"))
