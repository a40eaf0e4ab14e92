"""Quotas: what a mount may spend, against its clock, kept from one daemon to the next.

Invariant: the mover begins nothing that a quota has no room for; what programs make it spend is
counted and not refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from datetime import datetime
from typing import TYPE_CHECKING

from memfs.errors import MemfsError, QuotaSpentError
from memfs.linux.boot import boot_id
from memfs.policy.quotas import Cost, DailyQuotas, Moment, QuotaUse, Spent
from memfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from memfs.config import QuotasConfig
    from memfs.metadata.engine import Local
    from memfs.policy.quotas import Refusal

    class Clock(Protocol):
        """Tells the time; replaced by tests."""

        def wall_s(self) -> float:
            """Return the wall clock."""
            ...

        def boot_s(self) -> float:
            """Return the seconds since the start of the machine, sleep included."""
            ...

        def boot_id(self) -> str:
            """Return the name of this run of the machine."""
            ...


log = logging.getLogger(__name__)

SETTING = "budgets"  # Their former name: states have it.
"""Holds what was spent, and when that was, as JSON."""

SAVE_S = 10.0
"""A daemon that is killed forgets what was spent for so long. Guess."""


class SystemClock:
    """The machine's clocks."""

    def wall_s(self) -> float:
        """Return the wall clock."""
        return time.time()

    def boot_s(self) -> float:
        """Return the seconds since the start of the machine, sleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        """Return the name of this run of the machine."""
        return boot_id().decode()


class Quotas:
    """What is spent, and what may be.

    Args:
        config: The `[quotas]` section.
        engine: Keeps what was spent.
        clock: Tells the time.
    """

    def __init__(self, config: QuotasConfig, engine: Local, clock: Clock | None = None) -> None:
        limits = {
            Spent.REQUESTS: config.requests_per_day,
            Spent.UPLOAD: config.upload_bytes_per_day,
            Spent.EGRESS: config.egress_bytes_per_day,
            Spent.DISK_WRITES: config.disk_writes_bytes_per_day,
        }
        self._quotas = DailyQuotas(
            {spent: limit for spent, limit in limits.items() if limit is not None}
        )
        self._engine = engine
        self._clock = clock or SystemClock()
        self._boot_id = self._clock.boot_id()
        self._begun = Moment(0.0, self._clock.wall_s(), self._clock.boot_s(), self._boot_id)
        self._changed = False
        self._saved_s = self._now_s()

    # --- spending --------------------------------------------------------------------------------
    def spend(self, spent: Spent, amount: int) -> None:
        """Count an amount, whoever spent it."""
        if self._quotas and amount:
            self._quotas.spend(spent, amount, self._now_s())
            self._changed = True

    def check(self, cost: Cost) -> None:
        """Raise `QuotaSpentError` if something does not fit the quotas now."""
        if self._quotas and (refusal := self._quotas.find_refusal(cost, self._now_s())):
            raise QuotaSpentError(self._describe(refusal), refusal.wait_s)

    def reserve(self, cost: Cost) -> None:
        """Keep room for something that begins, until `release`.

        Raises:
            QuotaSpentError: There is none; says in which quota, and when there will be.
        """
        self.check(cost)
        self._quotas.reserve(cost)

    def release(self, cost: Cost) -> None:
        """Give back what `reserve` kept; what was spent of it is counted by then."""
        self._quotas.release(cost)

    def store_refusal(self) -> QuotaSpentError | None:
        """Return why nothing at all may go to the object store and be read back; None if it may."""
        try:
            self.check({Spent.REQUESTS: 1, Spent.UPLOAD: 1, Spent.EGRESS: 1})
        except QuotaSpentError as error:
            return error
        return None

    @contextlib.contextmanager
    def reserved(self, cost: Cost) -> Iterator[Cost]:
        """Keep room for the block.

        The store counts what it is asked; the disk counts nothing, so what the block's cost has of
        `DISK_WRITES` at its end is counted then: what is written at most, or less if it knows.

        Raises:
            QuotaSpentError: There is no room.
        """
        self.reserve(cost)
        actual = dict(cost)
        try:
            yield actual
        finally:
            self.release(cost)
            self.spend(Spent.DISK_WRITES, actual.get(Spent.DISK_WRITES, 0))

    # --- reports ---------------------------------------------------------------------------------
    def uses(self) -> list[QuotaUse]:
        """Return every quota that is configured, as it is now."""
        return self._quotas.uses(self._now_s())

    def _describe(self, refusal: Refusal) -> str:
        spent, limit = refusal.spent, _amount(refusal.spent, refusal.limit)
        needed = _amount(spent, refusal.needed)
        if math.isinf(refusal.wait_s):
            return f"it takes up to {needed}, and quotas.{spent} allows {limit} in a day; raise it"
        used = _amount(spent, refusal.used)
        text = f"waits for the quota quotas.{spent}: {used} of {limit} used, {needed} needed"
        if not refusal.wait_s:
            return f"{text}; the rest is kept for what is under way"
        again = datetime.fromtimestamp(self._clock.wall_s() + refusal.wait_s)
        return f"{text}; more at {again:%Y-%m-%d %H:%M}"

    # --- life ------------------------------------------------------------------------------------
    async def load(self) -> None:
        """Take what an earlier daemon has spent; once, before anything is spent."""
        stored = await self._engine.get_setting(SETTING) if self._quotas else None
        if stored is None:
            return
        try:
            moment, spent = _decode(stored)
            now_s = moment.at(self._begun.wall_s, self._begun.boot_s, self._boot_id)
            self._quotas.decode(spent, now_s)
        except (MemfsError, ValueError) as error:
            log.warning("what was spent of the quotas is not known, they begin anew: %s", error)
            return
        self._begun = self._begun._replace(now_s=now_s)
        self._saved_s = self._now_s()

    async def save_if_due(self) -> None:
        """Save now and then."""
        if self._changed and self._now_s() - self._saved_s >= SAVE_S:
            await self.save()

    async def save(self) -> None:
        """Store what was spent."""
        if not self._changed:
            return
        self._saved_s = now_s = self._now_s()
        self._changed = False
        moment = Moment(now_s, self._clock.wall_s(), self._clock.boot_s(), self._boot_id)
        stored = json.dumps({"moment": moment.encode(), "spent": self._quotas.encode()})
        async with self._engine.change():
            await self._engine.put_setting(SETTING, stored.encode())

    def _now_s(self) -> float:
        begun = self._begun
        return begun.at(begun.wall_s, self._clock.boot_s(), begun.boot_id)


def _decode(stored: bytes) -> tuple[Moment, dict[str, dict[str, int]]]:
    fields = json.loads(stored)
    if not isinstance(fields, dict) or not isinstance(fields.get("spent"), dict):
        raise ValueError("no amounts")
    return Moment.decode(fields.get("moment", "")), fields["spent"]


def _amount(spent: Spent, amount: int) -> str:
    return str(amount) if spent == Spent.REQUESTS else format_size(amount)
