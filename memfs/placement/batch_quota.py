"""Batch quota: what the small files of one object may take of the quotas of the day.

Invariant: room is kept for a file before it joins the batch; closed, nothing is kept any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.placement.costs import cost_of_part, cost_of_upload, stored_bytes_max
from memfs.policy.quotas import Spent

if TYPE_CHECKING:
    from memfs.placement.quotas import Quotas
    from memfs.policy.quotas import Cost


class BatchQuota:
    """Room for one batch, kept file by file.

    Args:
        quotas: The quotas.
        batch_size_bytes: Content of a full batch; its first file pays the requests of one.
    """

    def __init__(self, quotas: Quotas, batch_size_bytes: int) -> None:
        self._quotas = quotas
        self._batch_size_bytes = batch_size_bytes
        self._costs: list[Cost] = []

    def add(self, size_bytes: int) -> None:
        """Keep room for one more file.

        Raises:
            QuotaSpentError: A quota has none; it does not join the batch.
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
            stored_bytes: Of the object; None: nobody knows how much of it was written.
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
