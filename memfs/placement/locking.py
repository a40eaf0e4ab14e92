"""Locking: files come into RAM within the pool that they are charged to, and leave it.

Invariant: a file is charged before it is locked, and none is locked beyond its pool: neither a pin
nor a policy takes what another pool has reserved.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from memfs.content.residency import LockOutcome
from memfs.errors import RamFullError
from memfs.policy.plan import make_room
from memfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Container

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.placement.observation import Observer
    from memfs.policy.pools import Pool, Pools
    from memfs.policy.view import Candidate
    from memfs.types import InodeNo

VICTIMS_LOOKED_AT_MAX = 4096
"""Held files among which room is looked for."""


class Locker:
    """Holds files in RAM.

    Args:
        parts: The engine and the RAM tier among them.
        observer: Looks at files that may have to leave.
        pools: Of the RAM tier.
    """

    def __init__(self, parts: MoveParts, observer: Observer, pools: Pools) -> None:
        self._engine = parts.engine
        self._residency = parts.residency
        self._observer = observer
        self._pools = pools

    async def lock(self, candidate: Candidate) -> bool:
        """Hold a file in RAM; a pinned one may push unpinned ones out.

        Returns:
            False if it is not held: it has changed, or it is not pinned and has no room.

        Raises:
            StaleInodeError: The file is gone.
            RamFullError: It is pinned, and has no room beside other pinned ones.
        """
        inode = await self._engine.get_inode(candidate.ino)
        if not self._residency.holds(inode.ino, inode.raw, inode.size):
            # What it was before it was rewritten takes room no more.
            self._residency.release(inode.ino, drop_pages=False)
            self._pools.leave(inode.ino)
        outcome = await self._try(candidate, inode)
        if outcome == LockOutcome.NO_ROOM and candidate.pin is not None:
            await self._make_room(candidate)
            outcome = await self._try(candidate, inode)
            if outcome == LockOutcome.NO_ROOM:
                raise RamFullError(_refusal(self._pools.pool(candidate.pool)))
        return outcome in (LockOutcome.LOCKED, LockOutcome.CACHED)

    async def unlock(self, ino: InodeNo, *, drop_pages: bool) -> int:
        """Give a file's pages back; returns their bytes. See `Residency.unlock`."""
        freed_bytes = await self._residency.unlock(ino, drop_pages=drop_pages)
        self._pools.leave(ino)
        return freed_bytes

    async def _try(self, candidate: Candidate, inode: Inode) -> LockOutcome:
        if self._excess_bytes(candidate) > 0:
            return LockOutcome.NO_ROOM
        # Before the pages are read in, so that two files do not take the same room.
        self._pools.hold(
            candidate.ino,
            candidate.ram_bytes,
            candidate.priority,
            candidate.pool,
            pinned=candidate.pin is not None,
        )
        outcome = await self._residency.lock(inode.ino, inode.raw, inode.size)
        if outcome not in (LockOutcome.LOCKED, LockOutcome.CACHED):
            self._pools.leave(candidate.ino)
        return outcome

    async def _make_room(self, candidate: Candidate) -> None:
        """Have unpinned files leave: those of its pool, then those that no pool protects."""
        name = self._pools.pool(candidate.pool).name
        await self._push_out(self._excess_bytes(candidate), {name})
        if self._excess_bytes(candidate) > 0:
            return
        residency = self._residency
        needed_bytes = residency.used_bytes + candidate.ram_bytes - residency.capacity_bytes
        await self._push_out(needed_bytes, {name, ""})

    async def _push_out(self, needed_bytes: int, pools: Container[str]) -> None:
        if needed_bytes <= 0:
            return
        now_ns = time.time_ns()
        held = []
        for ino in self._residency.coldest(VICTIMS_LOOKED_AT_MAX):
            candidate = await self._observer.observe(ino, now_ns)
            if candidate is not None:
                held.append(candidate)
        for victim in make_room(held, needed_bytes, pools):
            await self.unlock(victim.ino, drop_pages=False)

    def _excess_bytes(self, candidate: Candidate) -> int:
        """Return by how much a file would make its pool too large."""
        pool = self._pools.pool(candidate.pool)
        return pool.used_bytes + candidate.ram_bytes - pool.capacity.size_bytes


def _refusal(pool: Pool) -> str:
    size = format_size(pool.capacity.size_bytes)
    if pool.name:
        return (
            f"pool {pool.name} ({size}) is full of pinned files, or smaller than this one; unpin "
            f"others, or give it more by `memfs pool create {pool.name} --size`"
        )
    return (
        f"the RAM tier ({size} without pools) is full of pinned files, or smaller than this one; "
        "unpin others or raise warm.size"
    )
