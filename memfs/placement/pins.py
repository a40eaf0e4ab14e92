"""Pins: the files that a changed pin, codec or mark concerns, and after a start all pinned ones.

Invariant: a change is acted on by every file that it concerns, also by one that was being moved by
the former pin; each step is bounded.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from memfs.errors import StaleInodeError
from memfs.placement.subtrees import SubtreeWalk
from memfs.placement.surveys import PinSurvey
from memfs.policy.goals import goal_of_pin

if TYPE_CHECKING:
    from memfs.content.activity import Activity
    from memfs.metadata.engine import Engine
    from memfs.placement.decisions import Decider
    from memfs.placement.queues import MoveQueues
    from memfs.placement.resident import ResidentFiles
    from memfs.placement.usage import TierUsage
    from memfs.types import InodeNo

FILES_A_STEP = 512


class Pins:
    """Looks at files whose pin may have changed.

    Args:
        engine: Has the pins.
        activity: Knows what was changed.
        usage: The limits that goals depend on.
        queues: What is being moved.
        decider: Looks at files and decides.
        held: Charges files in RAM anew.
    """

    def __init__(
        self,
        engine: Engine,
        activity: Activity,
        usage: TierUsage,
        queues: MoveQueues,
        decider: Decider,
        held: ResidentFiles,
    ) -> None:
        self._engine = engine
        self._activity = activity
        self._usage = usage
        self._queues = queues
        self._decider = decider
        self._held = held
        self._walk = SubtreeWalk(engine)
        self._moved_elsewhere: dict[InodeNo, None] = {}
        """Files whose pin changed while they were being moved by the former one."""
        # All pins once: what was pinned warm is not in RAM after a start.
        self._survey = PinSurvey(engine)

    @property
    def done(self) -> bool:
        """True if nothing is left to look at."""
        return self._walk.done and self.surveyed

    @property
    def surveyed(self) -> bool:
        """True if all files were seen since the start, or since `survey`."""
        return self._survey.done

    def survey(self) -> None:
        """Look for pins at all files: changes were lost."""
        self._survey.begin()

    async def take_changed(self) -> None:
        """Note what a changed pin, codec or mark concerns."""
        for ino in self._activity.take_pinned():
            try:
                # The user has spoken: what failed under the former pin is tried at once.
                async with self._engine.change():
                    await self._engine.clear_pending(ino)
            except StaleInodeError:
                continue
            self._walk.add(ino)

    async def look_at_changed(self) -> None:
        """Look at more of the files that changes concern, and at more of all files."""
        left = [ino for ino in self._moved_elsewhere if ino not in self._queues]
        for ino in left:
            del self._moved_elsewhere[ino]
        found = left + await self._walk.next_files(FILES_A_STEP)
        async with self._engine.change():
            for ino in found:
                with contextlib.suppress(StaleInodeError):
                    if ino not in self._queues:
                        await self._engine.clear_pending(ino)
                    elif await self._is_moved_elsewhere(ino):
                        self._moved_elsewhere[ino] = None
        candidates = await self._decider.observe(found)
        for candidate in candidates:
            if candidate.held:
                self._held.charge(candidate)
        await self._decider.decide(candidates)
        surveyed = await self._survey.next_pinned(FILES_A_STEP)
        await self._decider.decide(await self._decider.observe(surveyed))

    async def _is_moved_elsewhere(self, ino: InodeNo) -> bool:
        """Return whether a file is in a queue to another goal than its pin asks for."""
        pin = (await self._engine.effective_pin(ino)).tier
        return pin is not None and self._queues.goal(ino) != goal_of_pin(pin, self._usage.limits)
