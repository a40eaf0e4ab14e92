"""Waiting until pinned files are where they were sent.

Invariant: it ends: every file is there, or what keeps each of the others has been tried and told.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.client.placement import read as read_placement
from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memfs.client.placement import Placement

_POLL_S = 0.2


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


def wait_until_there(paths: Iterable[Path], tier: str, show: Callable[[Waited], None]) -> Waited:
    """Return when all files below some paths are in a tier, or cannot get there for now.

    Args:
        paths: Files and directories; a file below that has a pin of its own elsewhere is left out.
        tier: Where they are pinned to.
        show: Told after each look.
    """
    waiting, there_count = list(files_below(paths)), 0
    total_count = len(waiting)
    while True:
        left, refusals = [], {}
        for file in waiting:
            try:
                placement = read_placement(file)
            except UsageError:
                # Removed meanwhile.
                total_count -= 1
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
        for file in _walk(path) if path.is_dir() else (path,):
            status = file.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size:
                yield file


def _walk(directory: Path) -> Iterator[Path]:
    for below, _, names in os.walk(directory):
        yield from (Path(below, name) for name in names)
