"""Quotas: what may be spent in a second and in a day, as plain arithmetic.

Invariant: nothing here knows a clock: the time is a number of seconds that only grows. What is
allowed by a daily quota never exceeds it in any 24 hours.
"""

from __future__ import annotations

import enum
import json
import math
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Mapping

SLOT_S = 3600
"""Amounts are added up by the hour: 25 numbers a quota, and room that comes back by the hour."""

SLOTS_KEPT = 24
"""Whole hours behind the one that runs; what was spent in them counts."""


class Spent(enum.StrEnum):
    """What is bounded by the day; the name is the key in `[quotas]`."""

    REQUESTS = "requests_per_day"
    """To the object store."""
    UPLOAD = "upload_per_day"
    """Bytes to the object store."""
    EGRESS = "egress_per_day"
    """Bytes from the object store."""
    DISK_WRITES = "disk_writes_per_day"
    """Bytes that the mover writes to the local disk."""


Cost = dict[Spent, int]
"""What something takes of each quota, at most; what is left out is 0."""


class SharedRate:
    """A rate that transfers share: each begins when those before it are paid for.

    In any window of w seconds, transfers of `rate * w` bytes and one more begin.

    Args:
        rate: Bytes a second, > 0.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._paid_s = float("-inf")

    def take(self, amount: int, now_s: float) -> float:
        """Charge a transfer of `amount` bytes; returns the seconds until it may begin."""
        begin_s = max(now_s, self._paid_s)
        self._paid_s = begin_s + amount / self._rate
        return begin_s - now_s

    def charge(self, amount: int, now_s: float) -> None:
        """Charge a transfer that has not waited: those after it wait the longer."""
        self.take(amount, now_s)


class RollingDay:
    """What was spent in the last 24 hours, by the hour.

    An hour counts until its last second is a day old, so up to 25 hours are added up: too much
    rather than too little.
    """

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}

    def add(self, amount: int, now_s: float) -> None:
        """Count an amount as spent now."""
        slot = int(now_s // SLOT_S)
        self._slots[slot] = self._slots.get(slot, 0) + amount

    def total(self, now_s: float) -> int:
        """Return what was spent in the last day."""
        self._forget(now_s)
        return sum(self._slots.values())

    def wait_s(self, target: int, now_s: float) -> float:
        """Return the seconds until the total is at most `target`, if nothing more is spent."""
        left = self.total(now_s)
        for slot in sorted(self._slots):
            if left <= target:
                break
            left -= self._slots[slot]
            end_s = (slot + 1 + SLOTS_KEPT) * SLOT_S
            if left <= target:
                return max(0.0, end_s - now_s)
        return 0.0

    def encode(self) -> dict[str, int]:
        """Return the amounts by hour, for JSON."""
        return {str(slot): amount for slot, amount in self._slots.items()}

    def decode(self, stored: Mapping[str, int], now_s: float) -> None:
        """Add what `encode` gave; ValueError or TypeError if it is something else."""
        for slot, amount in stored.items():
            # No hour lies ahead, unless what is stored is damaged: that would count for ever.
            self.add(int(amount), min(int(slot) * SLOT_S, now_s))

    def _forget(self, now_s: float) -> None:
        oldest = int(now_s // SLOT_S) - SLOTS_KEPT
        self._slots = {slot: amount for slot, amount in self._slots.items() if slot >= oldest}


class Refusal(NamedTuple):
    """Why something does not fit a quota now."""

    spent: Spent
    needed: int
    used: int
    """In the last day."""
    limit: int
    wait_s: float
    """Until there is room; 0: once what is under way has ended; infinite: a day allows less."""


class QuotaUse(NamedTuple):
    """One daily quota."""

    spent: Spent
    used: int
    limit: int
    reserved: int
    """For what is under way, not all of it spent yet."""
    frees_s: float
    """Seconds until some of it comes back; 0 if nothing is used."""


class DailyQuotas:
    """All daily quotas of a mount.

    Args:
        limits: Those that are configured; anything else is without limit and not counted.
    """

    def __init__(self, limits: Mapping[Spent, int]) -> None:
        self._limits = dict(limits)
        self._days = {spent: RollingDay() for spent in limits}
        self._reserved = dict.fromkeys(limits, 0)

    def __bool__(self) -> bool:
        """True if anything is limited."""
        return bool(self._limits)

    def spend(self, spent: Spent, amount: int, now_s: float) -> None:
        """Count what was spent, no matter who did."""
        if spent in self._days:
            self._days[spent].add(amount, now_s)

    def find_refusal(self, cost: Cost, now_s: float) -> Refusal | None:
        """Return the quota that leaves no room for something, the one that takes longest.

        Args:
            cost: What it takes at most.
            now_s: Seconds that only grow.
        """
        refusals = []
        for spent, needed in cost.items():
            limit = self._limits.get(spent)
            if not needed or limit is None:
                continue
            used = self._days[spent].total(now_s)
            if used + self._reserved[spent] + needed > limit:
                fits = needed <= limit
                wait_s = self._days[spent].wait_s(limit - needed, now_s) if fits else math.inf
                refusals.append(Refusal(spent, needed, used, limit, wait_s))
        return max(refusals, key=lambda refusal: refusal.wait_s, default=None)

    def reserve(self, cost: Cost) -> None:
        """Keep room for something that begins."""
        for spent, amount in cost.items():
            if spent in self._reserved:
                self._reserved[spent] += amount

    def release(self, cost: Cost) -> None:
        """Give back what `reserve` kept: what was spent of it is counted by now."""
        for spent, amount in cost.items():
            if spent in self._reserved:
                self._reserved[spent] -= amount

    def uses(self, now_s: float) -> list[QuotaUse]:
        """Return every quota as it is now."""
        found = []
        for spent, limit in self._limits.items():
            day = self._days[spent]
            used = day.total(now_s)
            frees_s = day.wait_s(used - 1, now_s) if used else 0.0
            found.append(QuotaUse(spent, used, limit, self._reserved[spent], frees_s))
        return found

    def encode(self) -> dict[str, dict[str, int]]:
        """Return what was spent, for JSON."""
        return {str(spent): day.encode() for spent, day in self._days.items()}

    def decode(self, stored: Mapping[str, Mapping[str, int]], now_s: float) -> None:
        """Add what an earlier run has spent of the quotas that are configured now.

        Args:
            stored: As `encode` gave it.
            now_s: Seconds that only grow, from one run to the next as well.

        Raises:
            InvalidValueError: It is not what `encode` gave.
        """
        try:
            for spent, day in self._days.items():
                day.decode(stored.get(str(spent), {}), now_s)
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidValueError(f"the stored quotas cannot be read: {error}") from None


class Moment(NamedTuple):
    """A time on the quotas' clock, with what tells the next daemon how long ago it was."""

    now_s: float
    """On the quotas' clock."""
    wall_s: float
    boot_s: float
    """Since the start of the machine, sleep included (`CLOCK_BOOTTIME`)."""
    boot_id: str

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(self._asdict())

    @classmethod
    def decode(cls, stored: str) -> Moment:
        """Take what `encode` gave.

        Raises:
            InvalidValueError: It is something else.
        """
        try:
            fields = json.loads(stored)
            return cls(
                float(fields["now_s"]),
                float(fields["wall_s"]),
                float(fields["boot_s"]),
                str(fields["boot_id"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidValueError(f"the stored time cannot be read: {error}") from None

    def at(self, wall_s: float, boot_s: float, boot_id: str) -> float:
        """Return the quotas' clock at a later moment.

        Within one run of the machine the wall clock may jump as it likes. From one run to the next
        nothing else tells the time; a wall clock that went back counts as no time at all, so that
        room comes later and not sooner.
        """
        elapsed_s = boot_s - self.boot_s if boot_id == self.boot_id else wall_s - self.wall_s
        return self.now_s + max(0.0, elapsed_s)
