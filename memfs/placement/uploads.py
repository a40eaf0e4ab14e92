"""Uploads: files of a mount of many nodes get an object soon after they were sealed.

A node that reads has the bytes from the object store. So a file is uploaded once nobody has
written to it for `IDLE_S`, beside all else that is done with it: its local forms stay. It is looked
at again until it has its object, whatever other moves begin or give up meanwhile.

Invariant: a sealed file with bytes has an object, or is known here, or is found by a survey of all
files that is under way or will be. What is known is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.metadata.records import InodeFlags
from memfs.placement.candidate import Observed, observe
from memfs.placement.surveys import FileSurvey
from memfs.policy import rules
from memfs.policy.view import Goal, Move
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.metadata.records import Inode
    from memfs.placement.context import Context
    from memfs.types import InodeNo

IDLE_S = 2.0
"""A file is uploaded so long after its last seal: what is written again at once is uploaded once.
Guess."""

AGAIN_S = 30.0
"""A file whose upload waits or has begun is looked at again after so long."""

KNOWN_COUNT_MAX = 100_000
"""Files of each of two lists; some 15 MB together."""

LOOKS_A_ROUND = 512
"""Some 20 ms."""

IN_VAIN_A_ROUND = 16
"""So many files whose store has a full queue end the looks of a round."""

_DETAIL = "other nodes read its bytes from the object store; its local copy stays"


class Uploads:
    """The files of one mount that are to have an object.

    Args:
        context: Has the queues that moves wait in.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fresh: dict[InodeNo, float] = {}
        """Files that were sealed, and when each is due, by trio's clock; in order."""
        self._begun: dict[InodeNo, float] = {}
        """Files that may be without their object still, likewise."""
        self._survey = FileSurvey(context.engine)
        self._left_out = False
        """Not all files found room since the survey began."""
        self.hurried = False
        """There is more to do: the next round need not wait."""

    def survey(self) -> None:
        """Look at all files: not all that were sealed were told."""
        self._survey.begin()

    def note_sealed(self, inos: Iterable[InodeNo]) -> None:
        """Files were sealed just now."""
        if self._context.uploads_sealed:
            for ino in inos:
                self._note(self._fresh, ino, IDLE_S)

    def put(self, file: Observed) -> bool:
        """Queue the upload of a file; False if it has its object or needs no such one."""
        context, candidate = self._context, file.candidate
        has_bytes = file.inode.size and (candidate.raw or candidate.packed)
        if not context.uploads_sealed or candidate.remote or not has_bytes:
            return False
        move = Move(candidate.ino, Goal.STORED, rules.UPLOAD, _DETAIL, 0, candidate.priority)
        context.queues.put(move, file.store)
        return True

    async def take_due(self) -> None:
        """Queue the uploads of files whose time has come."""
        self.hurried = False
        context = self._context
        # While no store answers, those that are known wait here, and nobody looks at them.
        if not context.uploads_sealed or not context.store_ready:
            return
        await self._look_for_others()
        now_s = trio.current_time()
        put_count = in_vain_count = 0
        for _ in range(LOOKS_A_ROUND):
            ino = self._next_due(now_s)
            if ino is None:
                break
            if ino in context.queues:
                self._note(self._begun, ino, AGAIN_S)
                continue
            file = await observe(context, ino, context.usage.now_ns)
            if file is None:
                # It is gone, or is being written, and is sealed after that.
                continue
            if file.candidate.store_waits:
                self._note(self._begun, ino, AGAIN_S)
            elif not context.queues.takes_upload(file.store):
                self._note(self._begun, ino, AGAIN_S)
                in_vain_count += 1
                if in_vain_count == IN_VAIN_A_ROUND:
                    break
            elif self.put(file):
                self._note(self._begun, ino, AGAIN_S)
                put_count += 1
        self.hurried = put_count > 0 or not self._survey.done

    def _next_due(self, now_s: float) -> InodeNo | None:
        """Return a file whose time has come, and forget it."""
        for files in (self._fresh, self._begun):
            ino = next(iter(files), None)
            if ino is not None and files[ino] <= now_s:
                del files[ino]
                return ino
        return None

    async def _look_for_others(self) -> None:
        """Go on with the survey, if there is room for what it finds."""
        if len(self._fresh) > KNOWN_COUNT_MAX // 2:
            return
        if self._survey.done and self._left_out:
            self._left_out = False
            self._survey.begin()
        for inode in await self._survey.next_files(LOOKS_A_ROUND):
            if await self._lacks_object(inode) and inode.ino not in self._fresh:
                self._note(self._fresh, inode.ino, 0.0)

    async def _lacks_object(self, inode: Inode) -> bool:
        if not inode.size or inode.flags & InodeFlags.UNSEALED:
            return False
        forms = await self._context.engine.list_all_forms(inode)
        if not inode.raw and not forms:
            # The node that wrote before had its bytes alone.
            return False
        return all(form.kind != FormKind.REMOTE for form in forms)

    def _note(self, files: dict[InodeNo, float], ino: InodeNo, wait_s: float) -> None:
        # At the end of its list, whose files all wait for about as long.
        self._fresh.pop(ino, None)
        self._begun.pop(ino, None)
        if len(files) < KNOWN_COUNT_MAX:
            files[ino] = trio.current_time() + wait_s
        else:
            self._left_out = True
