"""Quotas: what a mount may spend, against its clock, kept from one daemon to the next.

Invariant: the mover begins nothing that a quota has no room for: a step's cost is never less than
what it takes when it succeeds at the first attempt. What programs make it spend is counted and not
refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from memfs.errors import MemfsError, QuotaSpentError
from memfs.linux.boot import boot_id
from memfs.policy.goals import Step, drops_last_copy
from memfs.policy.quotas import Cost, DailyQuotas, Moment, QuotaUse, Spent
from memfs.sizes import format_size
from memfs.stores.container import TAIL_BYTES
from memfs.stores.metered import transfer_request_count
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    from memfs.config import QuotasConfig
    from memfs.metadata.local import Local
    from memfs.moves.rekeying import KeyedForm
    from memfs.policy.quotas import Refusal
    from memfs.policy.view import Candidate

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

TABLE_BYTES = 1024
"""Header and footer of a container."""

FRAMES_PART = 64
"""A 64th of the content is more than what frames of 4 KiB add to it, the smallest ones: 12 bytes
each in the table, and 28 for encryption."""


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
        engine: Keeps what was spent.
        clock: Tells the time.
        keeps: False: what was spent is the mount's, and another node keeps it.
    """

    def __init__(
        self,
        config: QuotasConfig,
        engine: Local,
        clock: Clock | None = None,
        *,
        keeps: bool = True,
    ) -> None:
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
        self._keeps = keeps
        self._clock = clock or SystemClock()
        self._boot_id = self._clock.boot_id()
        self._begun = Moment(0.0, self._clock.wall_s(), self._clock.boot_s(), self._boot_id)
        self._changed = False
        self._saved_s = self._now_s()

    # --- spending --------------------------------------------------------------------------------
    def spend(self, spent: Spent, amount: int) -> None:
        """Count an amount, no matter who spent it."""
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
            QuotaSpentError: There is no room; says in which quota, and when there will be.
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
        is_kept = self._quotas and self._keeps
        stored = await self._engine.get_setting(SETTING) if is_kept else None
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
        if not self._changed or not self._keeps:
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


class BatchQuota:
    """Room for one batch, kept file by file.

    Args:
        batch_size_bytes: Content of a full batch; its first file pays the requests of one.
    """

    def __init__(self, quotas: Quotas, batch_size_bytes: int) -> None:
        self._quotas = quotas
        self._batch_size_bytes = batch_size_bytes
        self._costs: list[Cost] = []

    def add(self, size_bytes: int) -> None:
        """Keep room for one more file.

        Raises:
            QuotaSpentError: A quota has no room; it does not join the batch.
        """
        cost = cost_of_part(size_bytes)
        if not self._costs:
            requests = cost_of_upload(stored_bytes_max(self._batch_size_bytes), copied=True)
            cost[Spent.REQUESTS] = requests[Spent.REQUESTS]
        self._quotas.reserve(cost)
        self._costs.append(cost)

    def close(self, stored_bytes: int | None = 0) -> None:
        """Give back what was kept, and count what was written to the disk; idempotent.

        Args:
            stored_bytes: Bytes of the object; None: nobody knows how much of it was written.
        """
        costs, self._costs = self._costs, []
        for cost in costs:
            self._quotas.release(cost)
        if stored_bytes is None:
            written_bytes = sum(cost[Spent.DISK_WRITES] for cost in costs)
        else:
            # The object, and what was read back of it.
            written_bytes = 2 * stored_bytes
        if costs:
            self._quotas.spend(Spent.DISK_WRITES, written_bytes)


class ListingQuota:
    """Room for the requests of one listing, given back as they are made.

    Args:
        request_count: Requests that it will take, by what is known.

    Raises:
        QuotaSpentError: There is no room for them.
    """

    def __init__(self, quotas: Quotas, request_count: int) -> None:
        quotas.reserve({Spent.REQUESTS: request_count})
        self._quotas = quotas
        self._left_count = request_count
        self._coming_count = 0
        """Kept for requests that are being made."""

    def take(self, request_count: int) -> None:
        """Say that some requests come now, and that those told before are made, and counted.

        Raises:
            QuotaSpentError: They are more than was known, and there is no room for them.
        """
        self._quotas.release({Spent.REQUESTS: self._coming_count})
        self._coming_count = min(request_count, self._left_count)
        self._left_count -= self._coming_count
        if self._coming_count < request_count:
            self._quotas.reserve({Spent.REQUESTS: request_count - self._coming_count})
            self._coming_count = request_count

    def close(self) -> None:
        """Give back what is kept; idempotent."""
        self._quotas.release({Spent.REQUESTS: self._coming_count + self._left_count})
        self._coming_count = self._left_count = 0


# --- costs --------------------------------------------------------------------------------------
def stored_bytes_max(size: int) -> int:
    """Return the largest container of `size` bytes of content."""
    return size + size // FRAMES_PART + TABLE_BYTES


def cost_of_step(step: Step, candidate: Candidate) -> Cost:
    """Return what a step takes for one file."""
    if step == Step.PACK:
        return {Spent.DISK_WRITES: candidate.ram_bytes}
    if step == Step.HYDRATE:
        written = {Spent.DISK_WRITES: candidate.ram_bytes}
        if candidate.packed:
            return written
        return written | cost_of_fetch(stored_bytes_max(candidate.ram_bytes))
    if step == Step.UPLOAD:
        packed_alone = candidate.packed and not candidate.raw
        size = candidate.local_bytes if packed_alone else candidate.ram_bytes
        return cost_of_upload(stored_bytes_max(size), copied=not packed_alone)
    # Files that leave together in a batch ask once: the others count for nothing here.
    return {Spent.REQUESTS: 1} if drops_last_copy(step, candidate) else {}


def cost_of_fetch(stored_bytes: int) -> Cost:
    """Return what it takes to read a whole object, or a part of one."""
    # Read before the rest of a large object.
    tail_bytes = TAIL_BYTES if stored_bytes > TAIL_BYTES else 0
    return {
        Spent.REQUESTS: transfer_request_count(stored_bytes),
        Spent.EGRESS: stored_bytes + tail_bytes,
    }


def cost_of_upload(stored_bytes: int, *, copied: bool) -> Cost:
    """Return what it takes to store an object and to read it back.

    Args:
        stored_bytes: Its size.
        copied: It is made on the local disk first.
    """
    cost = cost_of_fetch(stored_bytes)
    # One more moves it into its storage class.
    cost[Spent.REQUESTS] += transfer_request_count(stored_bytes) + 1
    cost[Spent.UPLOAD] = stored_bytes
    cost[Spent.DISK_WRITES] = stored_bytes if copied else 0
    return cost


def cost_of_part(size: int) -> Cost:
    """Return what one file of `size` bytes takes in a batch: the requests are those of the batch.

    The batch is on the disk, and what was read back of it as well.
    """
    stored_bytes = stored_bytes_max(size)
    return {
        Spent.UPLOAD: stored_bytes,
        Spent.EGRESS: stored_bytes,
        Spent.DISK_WRITES: 2 * stored_bytes,
    }


def cost_of_rekey(forms: Iterable[KeyedForm]) -> Cost:
    """Return what it takes to bring a file's forms under another key."""
    total: Counter[Spent] = Counter()
    for form in forms:
        if form.current:
            continue
        if form.kind == FormKind.REMOTE:
            total.update(cost_of_relocation(form.stored_bytes))
        else:
            total[Spent.DISK_WRITES] += stored_bytes_max(form.stored_bytes)
    return total


def cost_of_relocation(stored_bytes: int) -> Cost:
    """Return what it takes at most to copy an object of a file into another store."""
    total: Counter[Spent] = Counter()
    total.update(cost_of_fetch(stored_bytes))
    total.update(cost_of_upload(stored_bytes_max(stored_bytes), copied=True))
    return total


def cost_of_compaction(stored_bytes: int, part_count: int) -> Cost:
    """Return what it takes to copy the living parts of a batch into a new object."""
    cost = cost_of_upload(stored_bytes, copied=True)
    cost[Spent.REQUESTS] += part_count
    cost[Spent.EGRESS] += stored_bytes
    cost[Spent.DISK_WRITES] += stored_bytes
    return cost


def _decode(stored: bytes) -> tuple[Moment, dict[str, dict[str, int]]]:
    fields = json.loads(stored)
    if not isinstance(fields, dict) or not isinstance(fields.get("spent"), dict):
        raise ValueError("no amounts")
    return Moment.decode(fields.get("moment", "")), fields["spent"]


def _amount(spent: Spent, amount: int) -> str:
    return str(amount) if spent == Spent.REQUESTS else format_size(amount)
