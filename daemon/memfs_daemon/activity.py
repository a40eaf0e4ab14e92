"""The answer of the control socket about what goes on: moves under way, and programs.

Invariant: an answer is bounded work, whatever is asked for.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import trio

from memfs.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.content.activity import Activity
    from memfs.content.programs import ProgramUse
    from memfs.control.methods.mount import ActivityReport, MoveReport, ProgramReport
    from memfs.control.server import Handler
    from memfs.metadata.engine import Engine
    from memfs.moves.progress import MoveProgress, ProgressTable
    from memfs.types import InodeNo

LISTED_MAX = 256
"""Entries of each list: the path of a move takes some 30 us."""


class ActivityMethods:
    """Answers `activity`.

    Args:
        engine: Knows the paths of files.
        activity: Counts what programs open.
        progress: The moves under way.
    """

    def __init__(self, engine: Engine, activity: Activity, progress: ProgressTable) -> None:
        self._engine = engine
        self._activity = activity
        self._progress = progress

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"activity": self.activity}

    async def activity(self, limit: int = 64) -> ActivityReport:
        """Return moves under way, and programs by the bytes of the files that they opened.

        Args:
            limit: Entries of each list; never more than `LISTED_MAX`.
        """
        await trio.lowlevel.checkpoint()
        limit = min(max(limit, 0), LISTED_MAX)
        moves = self._progress.under_way()
        now_ns = time.time_ns()
        programs = [_describe(each, now_ns) for each in self._activity.programs.most(limit)]
        return {
            "request_count": self._activity.request_count,
            "move_count": len(moves),
            "moves": [await self._describe(each) for each in moves[:limit]],
            "programs": programs,
        }

    async def _describe(self, move: MoveProgress) -> MoveReport:
        ino = move.ino
        wanted = None if ino is None else self._progress.wanted(ino)
        return {
            "kind": move.kind,
            "ino": None if ino is None else int(ino),
            "path": None if ino is None else await self._path(ino),
            "wanted": None if wanted is None else wanted.label,
            "done_bytes": move.done_bytes,
            "total_bytes": move.total_bytes,
        }

    async def _path(self, ino: InodeNo) -> str | None:
        try:
            return os.fsdecode(await self._engine.get_path(ino))
        except NotFoundError:
            return None


def _describe(program: ProgramUse, now_ns: int) -> ProgramReport:
    return {
        "name": program.name,
        "uid": program.uid,
        "pid": program.pid,
        "open_count": program.open_count,
        "write_count": program.write_count,
        "opened_bytes": program.opened_bytes,
        "idle_s": max(0.0, (now_ns - program.last_ns) / 1e9),
    }
