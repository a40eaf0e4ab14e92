"""Gathering: all that a report tells, asked of a mount at one moment.

Invariant: what was gathered is plain data; nothing else of a report asks the mount.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from memfs.metrics.rings import BY_RESOLUTION
from memfs.metrics.rolling import fill
from memfs.report.trials import UNTRIED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.client.mount import Mount
    from memfs.control.methods.mount import EventReport, HeatReport
    from memfs.control.methods.snapshots import SnapshotReport, SnapshotSizesReport
    from memfs.control.report import PendingReport, StatusReport
    from memfs.metrics.rolling import Period
    from memfs.report.trials import Tried
    from memfs.types import PendingCode

SPANS = {"hour": 10, "day": 60, "month": 900, "years": 86_400}
"""Resolutions by the name of what their ring covers."""

PENDING_COUNT_MAX = 2000
HEAT_COUNT = 300
EVENT_COUNT = 50
HELD_COUNT_MAX = 100_000
"""Kept files that are looked at to tell what each snapshot holds: some seconds. Guess."""
POINT_COUNT_MAX = 720
"""Points of a chart over time: more cannot be told apart on a screen."""


class Gathered(NamedTuple):
    """What a report is made of."""

    status: StatusReport
    span: str
    """One of `SPANS`."""
    now_s: float
    periods: Sequence[Period]
    """Without gaps, in order of time; empty: nothing was measured yet."""
    heat: HeatReport
    events: Sequence[EventReport]
    """The latest first."""
    pending: Sequence[PendingReport]
    snapshots: Sequence[SnapshotReport]
    held: SnapshotSizesReport | None = None
    """What each snapshot holds; None: it was not looked at, since that may take minutes."""
    tried: Tried = UNTRIED
    """What a trace tells of other sizes."""

    @property
    def resolution_s(self) -> int:
        """What one period covers."""
        return SPANS[self.span]

    @property
    def span_s(self) -> float:
        """What all periods cover."""
        return len(self.periods) * float(self.resolution_s)

    def total(self, name: str) -> int:
        """Return what a number comes to over the span."""
        return sum(period.numbers.get(name, 0) for period in self.periods)

    def pending_by_code(self) -> dict[PendingCode, list[PendingReport]]:
        """Return the waiting moves by what they wait for, the largest group first."""
        groups: dict[PendingCode, list[PendingReport]] = {}
        for move in self.pending:
            groups.setdefault(move.code, []).append(move)
        return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def gather(mount: Mount, span: str, *, with_held: bool = False) -> Gathered:
    """Ask a mount for all that a report tells, but for what a trace tells of it.

    Args:
        mount: Served.
        span: One of `SPANS`.
        with_held: Also ask what each snapshot holds, unless they keep so much that it takes long.
    """
    resolution_s, now_s = SPANS[span], time.time()
    first_s = int(now_s) - BY_RESOLUTION[resolution_s].span_s
    periods = [each for each in mount.history(resolution_s) if each.at_s > first_s]
    status = mount.status()
    there = status.snapshots
    is_quick = there.snapshot_count > 0 and there.kept_count <= HELD_COUNT_MAX
    return Gathered(
        status,
        span,
        now_s,
        fill(periods, resolution_s=resolution_s, until_s=int(now_s)),
        mount.heat(HEAT_COUNT),
        mount.events(EVENT_COUNT),
        mount.pending(PENDING_COUNT_MAX),
        mount.snapshots.list(),
        mount.snapshots.sizes() if with_held and is_quick else None,
    )
