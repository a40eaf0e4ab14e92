"""Rounds: what programs did and what lies around, turned into decided moves.

Invariant: every part of a round is bounded, and a round with nothing to do costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.placement.decisions import Decider
from memfs.placement.pending import PendingFiles
from memfs.placement.pins import Pins
from memfs.placement.resident import ResidentFiles
from memfs.placement.unused import UnusedFiles
from memfs.placement.usage import TierUsage
from memfs.placement.uses import Uses

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.content.activity import Activity
    from memfs.moves.attempt import MoveParts
    from memfs.placement.observation import Observer
    from memfs.placement.placer import Placer
    from memfs.placement.queues import MoveQueues
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.plugins import GuardedPlanner


class Rounds:
    """Decides, round after round.

    Args:
        parts: The engine and the owners of state.
        activity: What programs did.
        queues: Take the decided moves.
        observer: Looks at files.
        placer: Records what waits.
        access_stats: What is known of the use of files.
        planner: The policy in charge.
        state_dir: On the disk of the cold tier.
    """

    def __init__(
        self,
        parts: MoveParts,
        activity: Activity,
        queues: MoveQueues,
        observer: Observer,
        placer: Placer,
        access_stats: AccessStats,
        planner: GuardedPlanner,
        state_dir: Path,
    ) -> None:
        engine = parts.engine
        self._activity = activity
        self._queues = queues
        self._placer = placer
        self._usage = usage = TierUsage(parts, queues, placer, access_stats, state_dir)
        decider = Decider(parts, usage, queues, observer, access_stats, planner)
        self._held = ResidentFiles(parts.residency, access_stats, queues, decider)
        self._pins = Pins(engine, activity, usage, queues, decider, self._held)
        self._uses = Uses(parts, activity, usage, queues, decider, placer, self._pins, access_stats)
        self._pending = PendingFiles(
            engine, activity, usage, queues, observer, decider, access_stats, placer
        )
        self._unused = UnusedFiles(engine, access_stats, usage, queues, decider)

    async def decide(self) -> bool:
        """Look at what has happened and decide; returns True if there is more to look at."""
        await self._usage.measure()
        if self._activity.rescan:
            self._activity.rescan = False
            self._pins.survey()
        await self._uses.take_uses()
        await self._pending.take_wanted()
        await self._pins.take_changed()
        if self._queues.has_room:
            await self._pins.look_at_changed()
            await self._pending.retry_due()
            await self._held.review()
            await self._unused.send_on()
            return not self._pins.done or self._unused.hurried
        # The queues are full: what leaves them makes room for more.
        return not self._pins.done

    def status(self) -> dict[str, object]:
        """Return capacities and what is under way, for `memfs status`."""
        return self._usage.status() | {
            "store_refusal": self._placer.breaker.reason,
            "surveying_pins": not self._pins.surveyed,
        }
