"""Samples of a mount, and what has changed from one to the next.

Invariant: a sample is whole: all of its parts were told by one daemon, within one call after the
other; a rate is never negative where a count began anew.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.control.client import ControlUnavailableError
from memfs.control.typed import encode
from memfs.errors import UsageError
from memfs_tools.mounts import require_mount

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.mount import ActivityReport, MoveReport, ProgramReport
    from memfs.control.report import PendingReport, StatusReport

LISTED_MAX = 200
"""Moves and programs of a sample; more than a terminal or a page shows at once."""


class Sample(NamedTuple):
    """A mount at one moment."""

    taken_s: float
    """Monotonic clock."""
    status: StatusReport
    activity: ActivityReport
    pending: list[PendingReport]
    """The first of the moves that wait."""


class Rates(NamedTuple):
    """What changes a second."""

    requests: float
    tiers: dict[str, float]
    """Bytes by tier; below 0: it empties."""
    moves: dict[tuple[str, int | None, str | None], float]
    """Bytes by `move_key`."""
    programs: dict[tuple[str, int], float]
    """Opened bytes by name and user."""


NO_RATES = Rates(0.0, {}, {}, {})
"""As long as there is one sample."""


GONE_S_MAX = 5.0
"""A mount that is made anew, after its daemon has died, is not there for a moment."""


class Watched:
    """A mountpoint, and the mount that is there now.

    Args:
        mountpoint: Something is mounted there.
    """

    def __init__(self, mountpoint: Path) -> None:
        self.mountpoint = mountpoint
        self._seen_s = time.monotonic()

    def mount(self) -> Mount:
        """Return the mount.

        Raises:
            ControlUnavailableError: There has been no mount for a moment.
            UsageError: There has been no mount for longer.
        """
        now_s = time.monotonic()
        try:
            mount = require_mount(self.mountpoint)
        except UsageError:
            if now_s - self._seen_s > GONE_S_MAX:
                raise
            raise ControlUnavailableError(f"{self.mountpoint} is not mounted") from None
        self._seen_s = now_s
        return mount


def take_sample(mount: Mount) -> Sample:
    """Ask a mount how it is.

    Raises:
        ControlError: As of `Mount`.
    """
    status, activity = mount.status(), mount.activity(LISTED_MAX)
    pending = mount.pending(LISTED_MAX) if status.work.pending_count else []
    return Sample(time.monotonic(), status, activity, pending)


def move_key(move: MoveReport) -> tuple[str, int | None, str | None]:
    """Return what tells one move from the others."""
    return move["kind"], move["ino"], move["path"]


def program_key(program: ProgramReport) -> tuple[str, int]:
    """Return what tells one program from the others."""
    return program["name"], program["uid"]


def rates(before: Sample | None, now: Sample) -> Rates:
    """Return what changed between two samples, a second."""
    if before is None or before.status.pid != now.status.pid or now.taken_s <= before.taken_s:
        return NO_RATES
    passed_s = now.taken_s - before.taken_s
    used = {tier.tier: tier.used_bytes for tier in before.status.tiers}
    moved = {move_key(move): move["done_bytes"] for move in before.activity["moves"]}
    opened = {program_key(each): each["opened_bytes"] for each in before.activity["programs"]}
    requests = now.activity["request_count"] - before.activity["request_count"]
    return Rates(
        requests=max(0, requests) / passed_s,
        tiers={
            tier.tier: (tier.used_bytes - used.get(tier.tier, tier.used_bytes)) / passed_s
            for tier in now.status.tiers
        },
        # What was not there before has begun since.
        moves={
            move_key(move): max(0, move["done_bytes"] - moved.get(move_key(move), 0)) / passed_s
            for move in now.activity["moves"]
        },
        programs={
            program_key(each): max(0, each["opened_bytes"] - opened.get(program_key(each), 0))
            / passed_s
            for each in now.activity["programs"]
        },
    )


def as_json(now: Sample, changes: Rates) -> dict[str, Any]:
    """Return a sample with its rates, for programs."""
    tiers = [
        {**encode(tier), "bytes_per_s": changes.tiers.get(tier.tier, 0.0)}
        for tier in now.status.tiers
    ]
    moves = [
        {**move, "bytes_per_s": changes.moves.get(move_key(move), 0.0)}
        for move in now.activity["moves"]
    ]
    programs = [
        {**each, "opened_bytes_per_s": changes.programs.get(program_key(each), 0.0)}
        for each in now.activity["programs"]
    ]
    return {
        "status": {**encode(now.status), "tiers": tiers},
        "requests_per_s": changes.requests,
        "move_count": now.activity["move_count"],
        "moves": moves,
        "programs": programs,
        "pending": encode(now.pending),
    }
