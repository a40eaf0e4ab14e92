"""Compaction: batches of which most is dead are written anew, one after the other.

Invariant: one batch is compacted at a time, whoever asks; one that holds a damaged part is left
alone until the next daemon.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import MemfsError, QuotaSpentError, StoreUnavailableError
from memfs.moves.batching import compact
from memfs.placement.quotas import cost_of_compaction

if TYPE_CHECKING:
    from memfs.metadata.records import Batch
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas

log = logging.getLogger(__name__)

SPARSE_PERCENT = 50
"""A batch with less than this share alive is compacted: at most twice the bytes are stored."""

BATCHES_LOOKED_AT = 64


class Compacted(NamedTuple):
    """What came of one batch."""

    key: str
    freed_bytes: int
    failure: str | None = None
    """Why it is as it was; None: it was compacted."""
    wait_s: float = 0.0
    """Until a quota has room for it."""


class Compaction:
    """Compacts the batches of one mount.

    Args:
        parts: The engine among them.
        quotas: The quotas.
    """

    def __init__(self, parts: MoveParts, quotas: Quotas) -> None:
        self._parts = parts
        self._quotas = quotas
        self._lock = trio.Lock()
        self._uncompactable: set[str] = set()
        """Batches that hold a damaged or archived part; looked at again by the next daemon."""

    async def list_sparse(self) -> list[Batch]:
        """Return the first of the batches that are worth it, the sparsest first."""
        batches = await self._parts.engine.list_sparse_batches(SPARSE_PERCENT, BATCHES_LOOKED_AT)
        return [batch for batch in batches if batch.key not in self._uncompactable]

    async def compact_sparsest(self) -> Compacted | None:
        """Copy what is alive of the sparsest batch into a new object; None if none is sparse."""
        async with self._lock:
            batch = next(iter(await self.list_sparse()), None)
            if batch is None:
                return None
            try:
                cost = cost_of_compaction(batch.live_bytes, batch.live_count)
                with self._quotas.reserved(cost):
                    freed_bytes = await compact(self._parts, batch)
            except QuotaSpentError as error:
                log.info("%s is not compacted yet: %s", batch.key, error)
                return Compacted(batch.key, 0, str(error), error.wait_s)
            except (MemfsError, OSError) as error:
                log.info("%s is not compacted: %s", batch.key, error)
                if not isinstance(error, StoreUnavailableError):
                    self._uncompactable.add(batch.key)
                return Compacted(batch.key, 0, str(error))
            log.info("%s: compacted, %d bytes of the store are free", batch.key, freed_bytes)
            return Compacted(batch.key, freed_bytes)
