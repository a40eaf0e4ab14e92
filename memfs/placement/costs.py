"""Costs: what the mover's steps take of the quotas, at most.

Invariant: never less than a step takes when it succeeds at the first attempt.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from memfs.policy.goals import Step, drops_last_copy
from memfs.policy.quotas import Cost, Spent
from memfs.stores.container import TAIL_BYTES
from memfs.stores.metered import transfer_request_count
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.moves.rekeying import KeyedForm
    from memfs.policy.view import Candidate

TABLE_BYTES = 1024
"""Header and footer of a container."""

FRAMES_PART = 64
"""A 64th of the content is more than what frames of 4 KiB add to it, the smallest ones: 12 bytes
each in the table, and 28 for encryption."""


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
    # Of those that leave together in a batch, all but the first ask nothing.
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
            total.update(cost_of_fetch(form.stored_bytes))
            total.update(cost_of_upload(stored_bytes_max(form.stored_bytes), copied=True))
        else:
            total[Spent.DISK_WRITES] += form.content_bytes
    return total


def cost_of_compaction(stored_bytes: int, part_count: int) -> Cost:
    """Return what it takes to copy the living parts of a batch into a new object."""
    cost = cost_of_upload(stored_bytes, copied=True)
    cost[Spent.REQUESTS] += part_count
    cost[Spent.EGRESS] += stored_bytes
    cost[Spent.DISK_WRITES] += stored_bytes
    return cost
