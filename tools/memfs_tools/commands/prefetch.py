"""`memfs prefetch`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_size
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.mounts import find_mount_above
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memfs.client.mount import Mount
    from memfs.control.methods.prefetching import PrefetchProgress

_PATHS_A_CALL = 2000
_BYTES_A_CALL = 128 << 10
"""Bytes of a call's paths. JSON writes a byte that is no text as six, and a request has 1 MiB at
most."""

_POLL_S = 0.2

Tier = Literal["hot", "warm", "cold"]

_NOTHING: PrefetchProgress = {
    "job": 0,
    "total_count": 0,
    "done_count": 0,
    "warm_count": 0,
    "failed_count": 0,
    "waiting_count": 0,
    "fetched_bytes": 0,
    "error": None,
    "stalled": None,
    "ended": True,
}
"""That of a job without a file, which the daemon is not told of."""

_STALLED_S_MAX = 15.0
"""The command gives up when nothing could be fetched for so long, for want of room or store."""

_ENDING_S_MAX = 5.0
"""A stopped command waits so long for the files that are under way, to count them."""


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...", type=GivenPath())
@click.option("--from-file", metavar="LIST", help="Read paths from a file, one a line; -: stdin.")
@click.option(
    "--tier",
    type=click.Choice(["hot", "warm", "cold"]),
    default="warm",
    show_default=True,
    help="warm: into RAM while it has room; cold: onto the local disk; hot: onto a device too.",
)
@click.option("--wait/--no-wait", default=True, help="Return when all is there, or at once.")
@AS_JSON
def prefetch(
    paths: tuple[Path, ...], from_file: str | None, tier: Tier, wait: bool, as_json: bool
) -> None:
    """Bring files near before they are used, in the order given.

    \b
    memfs prefetch /mnt/data/train
    memfs prefetch --from-file order.txt --no-wait
    find /mnt/data -name '*.npy' | memfs prefetch --tier cold --from-file -

    Trees are taken whole. Nothing is evicted for it: a file without room is left out, with exit
    status 1. Stopped by Ctrl-C, what was fetched stays, and running it again goes on from there.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if not paths and from_file is None:
        raise click.UsageError("name a path, or --from-file.")
    given = [*map(os.fspath, paths), *(_read_list(from_file) if from_file is not None else ())]
    if not given:
        raise UsageError(f"{from_file} names no file")
    served = _mount_of(given)
    job = _Job(served, tier)
    # Imported here: what draws bars takes 0.1 s, which programs that ask often need not pay.
    from memfs_tools.display import progress_bar

    with progress_bar(hidden=as_json) as show:
        try:
            for chunk in _chunks(_files(given, served)):
                job.send(chunk, show)
            if wait:
                job.wait(show)
        except KeyboardInterrupt:
            job.cancel()
            complain(f"stopped; {job.describe()}; run it again to go on")
            raise
    _report(job, wait=wait, as_json=as_json)


class _Job:
    """One list of files in the daemon."""

    def __init__(self, served: Mount, tier: Tier, poll_s: float = _POLL_S) -> None:
        self._served = served
        self._tier = tier
        self._poll_s = poll_s
        self._number: int | None = None
        self.progress = _NOTHING
        self.skipped: list[str] = []
        self.skipped_count = 0
        self.gave_up: str | None = None
        """Why not all was fetched."""
        self._moved = (-1, time.monotonic())
        """Files ended, and when the last one did."""

    def send(self, paths: list[str], show: Callable[[str, int, int], None]) -> None:
        """Append files; waits while the daemon's list is full."""
        while paths and self.gave_up is None:
            answer = self._served.prefetch(paths, self._tier, self._number)
            self._number = answer["job"]
            self.progress = answer["progress"]
            self.skipped += answer["skipped"]
            self.skipped_count += answer["skipped_count"]
            paths = paths[answer["taken_count"] :]
            self._show(show)
            if paths:
                self._pause()

    def wait(self, show: Callable[[str, int, int], None]) -> None:
        """Return when all files are there, or nothing can be done for the rest."""
        while self._number is not None and not self.progress["ended"] and self.gave_up is None:
            self._pause()
            self._show(show)

    def cancel(self) -> None:
        """Have the daemon forget the rest, and wait a moment for what is under way."""
        if self._number is None:
            return
        self.progress = self._served.prefetch_cancel(self._number)
        end_s = time.monotonic() + _ENDING_S_MAX
        while not self.progress["ended"] and time.monotonic() < end_s:
            time.sleep(self._poll_s)
            self.progress = self._served.prefetch_progress(self._number)

    def describe(self) -> str:
        """Return in words how far it is."""
        done, warm = self.progress["done_count"], self.progress["warm_count"]
        fetched = format_size(self.progress["fetched_bytes"])
        total, waiting = self.progress["total_count"], self.progress["waiting_count"]
        near = f"{done} of {total} files are near"
        left = total - waiting - done - self.progress["failed_count"]
        under_way = f"; {left} more are under way" if left else ""
        return f"{near}, {warm} of them in RAM; {fetched} were fetched{under_way}"

    def _show(self, show: Callable[[str, int, int], None]) -> None:
        ended = self.progress["done_count"] + self.progress["failed_count"]
        stage = "waiting" if self.progress["stalled"] else "prefetching"
        show(stage, ended, self.progress["total_count"])

    def _pause(self) -> None:
        """Wait a little, ask how far it is, and give up if it has stood still for long."""
        time.sleep(self._poll_s)
        assert self._number is not None
        self.progress = self._served.prefetch_progress(self._number)
        ended = self.progress["done_count"] + self.progress["failed_count"]
        if self.progress["stalled"] is None or ended != self._moved[0]:
            self._moved = (ended, time.monotonic())
        elif time.monotonic() - self._moved[1] > _STALLED_S_MAX:
            self.gave_up = self.progress["stalled"]
            self.cancel()


def _read_list(name: str) -> Iterator[str]:
    """Yield the paths of a list."""
    if name == "-":
        lines = sys.stdin.buffer.read().split(b"\n")
    else:
        lines = Path(name).read_bytes().split(b"\n")
    yield from (os.fsdecode(line) for line in lines if line)


def _mount_of(paths: Iterable[str]) -> Mount:
    """Return the mount that the first of some paths lies in.

    Raises:
        UsageError: It lies in no mount.
    """
    first = os.path.realpath(next(iter(paths)))
    served = find_mount_above(Path(first))
    if served is None:
        raise UsageError(f"{first} does not lie in a mount of memfs", ExitCode.NOT_MOUNTED)
    return served


def _files(paths: Iterable[str], served: Mount) -> Iterator[str]:
    """Yield files by their path from the root of the mount; trees are walked.

    Raises:
        UsageError: A path does not lie in the mount.
    """
    root = os.fspath(served.mountpoint)
    for path in paths:
        real = os.path.realpath(path)
        if os.path.commonpath([root, real]) != root:
            message = f"{path} does not lie in the mount {root}, as the first path does"
            raise UsageError(message, ExitCode.USAGE)
        for file in _walk(real) if os.path.isdir(real) else (real,):
            yield os.path.relpath(file, root)


def _walk(directory: str) -> Iterator[str]:
    """Yield the regular files of a tree, each directory's own before those below it."""
    below = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path
    for path in below:
        yield from _walk(path)


def _chunks(paths: Iterable[str]) -> Iterator[list[str]]:
    """Yield paths in lists that fit into a call."""
    chunk: list[str] = []
    size = 0
    for path in paths:
        if len(chunk) >= _PATHS_A_CALL or size >= _BYTES_A_CALL:
            yield chunk
            chunk, size = [], 0
        chunk.append(path)
        size += len(path)
    if chunk:
        yield chunk


def _report(job: _Job, *, wait: bool, as_json: bool) -> None:
    """Say how it ended, and exit with 1 if not all is as asked."""
    progress = job.progress
    failed_count = progress["failed_count"]
    if as_json:
        content = {
            **progress,
            "gave_up": job.gave_up,
            "skipped_count": job.skipped_count,
            "skipped": job.skipped,
        }
        tell_json(content)
    else:
        for line in job.skipped:
            complain(f"skipped {line}")
        if failed_count:
            complain(f"{failed_count} failed, the last: {progress['error']}")
        if job.gave_up is not None:
            complain(f"given up: {job.gave_up}")
        files = f"{progress['total_count']} files are being fetched"
        tell(job.describe() if wait else files)
    if failed_count or job.skipped_count or job.gave_up is not None:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)
