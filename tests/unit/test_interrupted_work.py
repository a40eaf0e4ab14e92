"""Stopped commands report what was done, also of what had no answer yet."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.client.mount import Mount
from memfs.log_lines import SeldomLog
from memfs_tools.commands import prefetch
from memfs_tools.tree_work import Totals, TreeWork, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.control.methods.prefetching import PrefetchProgress
    from memfs.control.methods.trees import WorkReport

SERVED = Mount(Path("/mnt"), Path("/state"))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / f"file-{number}" for number in range(6)]
    for path in made:
        path.touch()
    return made


def answers(count: int) -> Iterator[WorkReport]:
    """One answer on `count` files, then Ctrl-C."""
    yield {
        "taken_count": count,
        "outcomes": {"done": count},
        "before_bytes": 0,
        "after_bytes": 0,
        "moved_bytes": 0,
        "left": {},
    }
    raise KeyboardInterrupt


def test_files_that_were_done_without_an_answer_are_counted(
    paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon was asked for thousands of files in one call, and most of them were done."""
    told = answers(2)
    safe = {str(path) for path in paths[2:5]}
    work = Work(lambda *_: next(told), 6, is_done=safe.__contains__)
    tree_work = TreeWork(work, Totals(), find_mount=lambda _: SERVED)
    with pytest.raises(KeyboardInterrupt):
        tree_work.run(tuple(paths), lambda _: "synced", hidden=True)
    assert "stopped; 5 files, synced" in capsys.readouterr().err


def test_a_stopped_prefetch_waits_for_what_is_under_way() -> None:
    """Files that the workers had begun are fetched to their end, and count."""
    far: PrefetchProgress = {
        "job": 1,
        "total_count": 4,
        "done_count": 1,
        "warm_count": 0,
        "failed_count": 0,
        "waiting_count": 0,
        "fetched_bytes": 1024,
        "error": None,
        "stalled": None,
        "ended": False,
    }
    ended: PrefetchProgress = {**far, "done_count": 4, "fetched_bytes": 4096, "ended": True}
    answers = iter([far, ended])

    class Fetching(Mount):
        def prefetch_cancel(self, job: int) -> PrefetchProgress:
            return far

        def prefetch_progress(self, job: int) -> PrefetchProgress:
            return next(answers)

    job = prefetch._Job(Fetching(*SERVED), "cold", poll_s=0.0)
    job._number = 1
    job.cancel()
    assert job.describe() == "4 of 4 files are near, 0 of them in RAM; 4.0 KiB were fetched"
    job.progress = far
    assert job.describe().endswith("; 3 more are under way")


def test_lines_that_many_files_cause_are_written_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """One of a kind in a while, and how many it stands for; the kinds are bounded."""
    caplog.set_level(logging.INFO)
    seldom = SeldomLog(logging.getLogger("memfs.test"))
    for number in range(5):
        seldom.info("used", f"inode {number}")
    seldom.info("other", "another")
    assert [record.getMessage() for record in caplog.records] == ["inode 0", "another"]
    at_once = SeldomLog(logging.getLogger("memfs.test"), period_s=0.0)
    for number in range(SeldomLog.KINDS_MAX + 5):
        at_once.info(str(number), "line")
    assert len(at_once._kinds) == SeldomLog.KINDS_MAX


def test_lines_that_were_left_out_are_told_with_the_next(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now_s = 0.0
    seldom = SeldomLog(logging.getLogger("memfs.test"), clock=lambda: now_s)
    for _ in range(3):
        seldom.info("used", "line")
    now_s = 61.0
    seldom.info("used", "line")
    assert [record.getMessage() for record in caplog.records] == [
        "line",
        "line (and 2 more like it)",
    ]
