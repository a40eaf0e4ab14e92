"""Waiting until pinned files are where they were sent.

Invariant: it ends: every file is there, or what keeps each of the others has been tried and told.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.client.placement import PlacementError
from memfs.client.placement import read as read_placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memfs.client.placement import Placement

_POLL_S = 0.2

_REMOVED = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
"""What is met with where a file was removed or moved meanwhile."""


class Waited(NamedTuple):
    """How far files are."""

    there_count: int
    total_count: int
    refusals: dict[str, str]
    """Files that were tried in vain, and why, by path."""

    @property
    def ended(self) -> bool:
        """True if nothing is to be waited for any more."""
        return self.there_count + len(self.refusals) >= self.total_count


def wait_until_there(
    paths: Iterable[Path],
    tier: str,
    show: Callable[[Waited], None],
    read: Callable[[Path], Placement] = read_placement,
) -> Waited:
    """Return when all files below some paths are in a tier, or cannot get there for now.

    Args:
        paths: Files and directories; a file below that has a pin of its own elsewhere is left out.
        tier: Where they are pinned to.
        show: Told after each look.
        read: Tells where a file is.
    """
    waiting, there_count = list(files_below(paths)), 0
    total_count = len(waiting)
    while True:
        left, refusals = [], {}
        for file in waiting:
            try:
                placement = read(file)
            except PlacementError as error:
                if error.errno in _REMOVED:
                    total_count -= 1
                else:
                    left.append(file)
                    refusals[os.fspath(file)] = os.strerror(error.errno)
                continue
            if placement.pin != tier:
                total_count -= 1
            elif placement.tier == tier:
                there_count += 1
            else:
                left.append(file)
                if (reason := _refusal(placement)) is not None:
                    refusals[os.fspath(file)] = reason
        waiting = left
        waited = Waited(there_count, total_count, refusals)
        show(waited)
        if waited.ended:
            return waited
        time.sleep(_POLL_S)


def _refusal(placement: Placement) -> str | None:
    """Return why an attempt to move a file failed; None if no attempt has."""
    if placement.pin == "hot" and "hot" in placement.why:
        return str(placement.why["hot"])
    pending = placement.why.get("pending")
    if not isinstance(pending, dict) or not pending["attempts"]:
        return None
    return str(pending["reason"])


def files_below(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the regular files that have bytes to move."""
    for path in paths:
        walked = path.is_dir()
        for file in _walk(path) if walked else (path,):
            try:
                status = file.lstat()
            except FileNotFoundError:
                if not walked:
                    raise
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size:
                yield file


def _walk(directory: Path) -> Iterator[Path]:
    for below, _, names in os.walk(directory):
        yield from (Path(below, name) for name in names)
