"""Work on trees: walks paths, has the daemon work on the files, shows how far it is, and reports.

Invariant: what is done stays done, and the daemon keeps nothing of a call: a command that was
stopped by Ctrl-C, or that gave up waiting, goes on from there when it is run again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.client.mount import WORK_S_MAX
from memfs.control.client import ControlUnavailableError
from memfs.errors import MemfsError, UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count, format_size
from memfs_tools.mounts import find_mount_above
from memfs_tools.terminal import complain, is_error_shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.trees import WorkReport

_FAILURES_SHOWN_MAX = 20
_FAILURES_KEPT_MAX = 10_000

_MOVES_ANSWER_S = 5.0

_UNFINISHED = "unfinished"
"""Sent to the daemon, which had not answered when the time was over."""

_UNDONE = ("failed", "busy", "superseded", "waiting", _UNFINISHED)
_TRANSIENT = ("busy", "superseded")

LEFT_WORDS = {
    "busy": "being written",
    "superseded": "changed meanwhile",
    "waiting": "waiting for the store or a quota",
    "failed": "failed",
}
"""How commands call outcomes that leave a file as it was; they add words of their own."""


class Work(NamedTuple):
    """What the daemon is asked to do."""

    call: Callable[[Mount, list[int], float], WorkReport]
    """Has the daemon of a mount work on some inode numbers, within so many seconds."""
    files_a_call: int = 256
    timeout_s: float | None = None
    """For all of it; None: as long as it takes."""
    is_done: Callable[[str], bool] | None = None
    """Whether a file is as it was asked to be, for those without an answer; None: nobody knows."""


@dataclass(frozen=True)
class PollTimes:
    """How often a daemon is asked."""

    busy_s: float = 1.0
    """How long a file that is being written is asked for again: the daemon hears of a close(2) a
    little later than the program that made it."""
    busy_poll_s: float = 0.05
    waiting_poll_s: float = 0.5
    moves_poll_s: float = 1.0
    """So often is asked how far the moves are that a call waits for."""


POLL_TIMES = PollTimes()


class Totals:
    """What all calls came to."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.before_bytes = 0
        self.after_bytes = 0
        self.moved_bytes = 0
        self.failures: list[str] = []
        self.failure_count = 0
        self.waits_for: str | None = None
        """Why files wait at present."""
        self.under_way = ""
        """What moves at present, for the progress bar."""
        self.timed_out = False

    @property
    def file_count(self) -> int:
        """Files that are dealt with."""
        return sum(self.outcomes.values())

    @property
    def complete(self) -> bool:
        """True if every file is as it was asked to be."""
        return not self.timed_out and not any(self.outcomes[outcome] for outcome in _UNDONE)

    def add(self, answer: WorkReport) -> None:
        """Add the answer to one call; a later answer on a file makes `retract` due."""
        self.outcomes.update(answer["outcomes"])
        self.before_bytes += answer["before_bytes"]
        self.after_bytes += answer["after_bytes"]
        self.moved_bytes += answer["moved_bytes"]

    def retract(self, outcome: str) -> None:
        """Forget what was said of a file: there is a later answer."""
        self.outcomes[outcome] -= 1

    def note_left(self, path: str, outcome: str, reason: str) -> None:
        """Keep why a file is not as it was asked to be."""
        self.failure_count += 1
        if len(self.failures) < _FAILURES_KEPT_MAX:
            self.failures.append(f"{path}: {outcome}: {reason}")

    def note_unseen(self, error: OSError) -> None:
        """Count what could not be looked at."""
        self.outcomes["failed"] += 1
        self.note_left(os.fspath(error.filename), "failed", error.strerror or str(error))

    def to_json(self) -> dict[str, Any]:
        """Return the totals for programs."""
        return {
            "files": self.file_count,
            "complete": self.complete,
            "timed_out": self.timed_out,
            "outcomes": dict(+self.outcomes),
            "before_bytes": self.before_bytes,
            "after_bytes": self.after_bytes,
            "moved_bytes": self.moved_bytes,
            "failures": self.failures,
        }

    def tell_failures(self) -> None:
        """Print the first reasons, and how many more there are, on standard error."""
        for failure in self.failures[:_FAILURES_SHOWN_MAX]:
            complain(str(failure))
        if self.failure_count > _FAILURES_SHOWN_MAX:
            complain(f"and {self.failure_count - _FAILURES_SHOWN_MAX} more")

    def count_done(self, *, dry_run: bool) -> str:
        """Return how many files are done, or are to be."""
        return f"{self.outcomes['due']} to be" if dry_run else str(self.outcomes["done"])

    def count(self, words: dict[str, str]) -> str:
        """Return the counts of outcomes in words, those of nothing left out."""
        counts = [f"{self.outcomes[name]} {word}" for name, word in words.items()]
        return ", ".join(count for count in counts if not count.startswith("0 ")) or "none"


class TreeWork:
    """One command's work on the trees that it was given.

    Args:
        work: What the daemon is asked to do.
        totals: Filled while it runs.
        on_answer: Told each answer, for what only this command counts.
        find_mount: Finds the mount that a path lies in.
        poll_times: How often files are asked for again.
        clock: In seconds.
    """

    def __init__(
        self,
        work: Work,
        totals: Totals,
        on_answer: Callable[[WorkReport], None] = lambda _: None,
        *,
        find_mount: Callable[[Path], Mount | None] = find_mount_above,
        poll_times: PollTimes = POLL_TIMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._totals = totals
        self._on_answer = on_answer
        self._find_mount = find_mount
        self._poll_times = poll_times
        self._clock = clock
        self._told_waiting = False
        self._unanswered: dict[int, str] = {}
        """Files by inode number that the daemon was asked for and has not answered yet."""
        self._deadline_s = None if work.timeout_s is None else clock() + max(0.0, work.timeout_s)

    def run(
        self, paths: tuple[Path, ...], describe: Callable[[Totals], str], *, hidden: bool
    ) -> Mount:
        """Have it done to all files below some paths, or until the time is over.

        Args:
            paths: All in one mount.
            describe: Says for the progress bar what was done so far.
            hidden: Show no progress bar.

        Returns:
            The mount.

        Raises:
            UsageError: No mount, or several, or its daemon does not answer.
            ControlError: The daemon refuses this work.
        """
        served = self._mount_of(paths)
        self.run_on(served, _files(paths, self._totals), describe, hidden=hidden)
        return served

    def run_on(
        self,
        served: Mount,
        files: Iterator[tuple[int, str]],
        describe: Callable[[Totals], str],
        *,
        hidden: bool,
    ) -> None:
        """Do as `run` with what a mount knows by numbers.

        Args:
            served: The mount.
            files: Numbers, and what users call them.
            describe: As `run`.
            hidden: As `run`.
        """
        # Imported here: what draws bars takes 0.1 s.
        from memfs_tools.display import progress_bar

        totals = self._totals
        with progress_bar(hidden=hidden) as show:

            def show_progress() -> None:
                waiting = f", waiting: {totals.waits_for}" if totals.waits_for else ""
                show(f"{describe(totals)}{totals.under_way}{waiting}", totals.file_count, 0)

            try:
                with self._watched(served, show_progress, hidden=hidden):
                    for chunk in _chunks(files, self._work.files_a_call):
                        self._send(served, chunk, show_progress)
                        if totals.timed_out:
                            break
            except KeyboardInterrupt:
                found = sum(self._is_done(path) for path in self._unanswered.values())
                count = totals.file_count + found
                told = f"{format_count(count, 'file')}, {describe(totals)}"
                complain(f"stopped; {told}; run it again to go on")
                raise

    def _is_done(self, path: str) -> bool:
        return self._work.is_done is not None and self._work.is_done(path)

    @contextlib.contextmanager
    def _watched(self, served: Mount, show: Callable[[], None], *, hidden: bool) -> Iterator[None]:
        """Show in the block how far the moves are."""

        def moves(text: str) -> None:
            self._totals.under_way = text
            show()

        with moves_watched(served, moves, hidden=hidden, poll_s=self._poll_times.moves_poll_s):
            yield

    def _send(self, served: Mount, files: dict[int, str], show: Callable[[], None]) -> None:
        """Have all files of a chunk done, those that have to wait again and again."""
        busy_until_s: float | None = None
        inos = [*files]
        asked_again: dict[str, list[str]] = {}
        # Asked once even without files: a barrier brings names of directories to the disk as well.
        while True:
            left: dict[str, list[str]] = {}
            while True:
                self._unanswered = {ino: files[ino] for ino in inos if str(ino) not in asked_again}
                answer = self._call(served, inos)
                self._unanswered = {}
                if answer is None:
                    self._give_up(files, inos, asked_again | left)
                    return
                taken, inos = inos[: answer["taken_count"]], inos[answer["taken_count"] :]
                for ino in taken:
                    if (before := asked_again.pop(str(ino), None)) is not None:
                        self._totals.retract(before[0])
                self._totals.add(answer)
                self._on_answer(answer)
                left |= answer["left"]
                show()
                if not inos:
                    break
            if busy_until_s is None:
                # From the first answer on: it may have waited for a large upload.
                busy_until_s = self._clock() + self._poll_times.busy_s
            inos = self._retry(files, left, busy_until_s)
            # They count as they are until another answer comes: the time may be over before.
            asked_again = {str(ino): left[str(ino)] for ino in inos}
            show()
            if not inos:
                return

    def _retry(
        self, files: dict[int, str], left: dict[str, list[str]], busy_until_s: float
    ) -> list[int]:
        """Note what is left for good, and return after a pause what is asked for again."""
        now_s = self._clock()
        again: list[int] = []
        pause_s = self._poll_times.busy_poll_s
        self._totals.waits_for = None
        for number, (outcome, reason) in left.items():
            if (outcome in _TRANSIENT and now_s < busy_until_s) or (
                outcome == "waiting" and not self._is_over()
            ):
                again.append(int(number))
            else:
                self._totals.note_left(files[int(number)], outcome, reason)
            if outcome == "waiting":
                self._totals.waits_for, pause_s = reason, self._poll_times.waiting_poll_s
                self._totals.timed_out = self._is_over()
        if self._totals.waits_for and not self._told_waiting and not is_error_shown():
            # A bar shows it otherwise, with all reasons that follow.
            self._told_waiting = True
            complain(f"files wait: {self._totals.waits_for}")
        if again:
            time.sleep(pause_s if self._deadline_s is None else min(pause_s, self._left_s()))
        return again

    def _give_up(
        self, files: dict[int, str], unanswered: list[int], left: dict[str, list[str]]
    ) -> None:
        self._totals.timed_out = True
        for ino in unanswered:
            # What was asked again has an earlier answer that counts.
            if str(ino) not in left:
                self._totals.outcomes["done" if self._is_done(files[ino]) else _UNFINISHED] += 1
        for number, (outcome, reason) in left.items():
            self._totals.note_left(files[int(number)], outcome, reason)

    def _call(self, served: Mount, inos: list[int]) -> WorkReport | None:
        """Return the answer to one call; None if the time is over."""
        timeout_s = WORK_S_MAX if self._deadline_s is None else self._left_s()
        if timeout_s <= 0:
            return None
        try:
            return self._work.call(served, inos, timeout_s)
        except ControlUnavailableError:
            if self._is_over():
                return None
            raise

    def _is_over(self) -> bool:
        return self._deadline_s is not None and self._left_s() <= 0

    def _left_s(self) -> float:
        assert self._deadline_s is not None
        return max(0.0, self._deadline_s - self._clock())

    def _mount_of(self, paths: Iterable[Path]) -> Mount:
        """Return the mount that all paths lie in."""
        mounts = {path: self._find_mount(path) for path in paths}
        for path, served in mounts.items():
            if served is None:
                raise UsageError(f"{path} does not lie in a mount of memfs", ExitCode.NOT_MOUNTED)
        found = {served for served in mounts.values() if served is not None}
        if len(found) > 1:
            raise UsageError("the paths lie in several mounts; give one call for each")
        return found.pop()


def _files(paths: Iterable[Path], totals: Totals) -> Iterator[tuple[int, str]]:
    """Yield inode numbers and paths of regular files; hard links once."""
    linked: set[int] = set()
    for path in paths:
        for name in _walk(path, totals):
            try:
                status = os.lstat(name)
            except OSError as error:
                totals.note_unseen(error)
                continue
            if not stat.S_ISREG(status.st_mode) or status.st_ino in linked:
                continue
            if status.st_nlink > 1:
                linked.add(status.st_ino)
            yield status.st_ino, name


def _walk(path: Path, totals: Totals) -> Iterator[str]:
    if not path.is_dir() or path.is_symlink():
        yield os.fspath(path)
        return
    for directory, _, names in os.walk(path, onerror=totals.note_unseen):
        for name in names:
            yield os.path.join(directory, name)


def _chunks(files: Iterator[tuple[int, str]], files_a_call: int) -> Iterator[dict[int, str]]:
    """Yield files in dictionaries that fit into a call; at least one, if only an empty one.

    Names of directories without files are brought to stable storage so.
    """
    chunk: dict[int, str] = {}
    sent = False
    for ino, name in files:
        chunk[ino] = name
        if len(chunk) == files_a_call:
            yield chunk
            chunk, sent = {}, True
    if chunk or not sent:
        yield chunk


@contextlib.contextmanager
def moves_watched(
    served: Mount,
    show: Callable[[str], None],
    *,
    hidden: bool,
    poll_s: float = POLL_TIMES.moves_poll_s,
) -> Iterator[None]:
    """Show in the block how far the moves are: a call that waits for a large file is silent."""
    if hidden or not is_error_shown():
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(poll_s):
            try:
                moves = served.moves()
            except MemfsError:
                continue
            far = f"{format_size(moves['done_bytes'])} of {format_size(moves['total_bytes'])}"
            show(f", under way: {far}" if moves["count"] else "")

    watcher = threading.Thread(target=watch, name="moves", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join(_MOVES_ANSWER_S)
