"""Observation: one file's state, gathered for the policy.

Invariant: reads only; what it returns is true until the next suspension.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from memfs.content.residency import page_bytes
from memfs.errors import StaleInodeError
from memfs.metadata.records import InodeFlags
from memfs.policy import rules
from memfs.policy.marks import POOL_XATTR, PRIORITY_XATTR, parse_priority
from memfs.policy.view import PRIORITY_DEFAULT, Candidate
from memfs.types import BLOCK_BYTES, FormKind

if TYPE_CHECKING:
    from collections.abc import Container

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.policy.access_stats import AccessStats
    from memfs.types import InodeNo

SMALL_BYTES = 1 << 20
"""Files up to this size are taken into RAM whole when a program uses them. Guess."""


def unpackable_rule(inode: Inode, codec: str) -> str:
    """Return the rule by which a generation of a file that does not shrink is left raw."""
    return rules.qualified(rules.INCOMPRESSIBLE, inode.generation, codec)


class Observer:
    """Gathers candidates.

    Args:
        parts: The engine and the owners of state among them.
        moving: Files that are being moved.
        access_stats: What is known of their use.
    """

    def __init__(
        self, parts: MoveParts, moving: Container[InodeNo], access_stats: AccessStats
    ) -> None:
        self._parts = parts
        self._access_stats = access_stats
        self._moving = moving

    async def observe(self, ino: InodeNo, now_ns: int, fresh: bool = False) -> Candidate | None:
        """Return a file's state; None if it is gone, nameless, unsealed or not a regular file.

        Args:
            ino: The file.
            now_ns: Wall clock.
            fresh: It was written or used just now: whether that holds for its pages is looked up.
        """
        parts = self._parts
        try:
            inode = await parts.engine.get_inode(ino)
        except StaleInodeError:
            return None
        if not stat.S_ISREG(inode.mode) or inode.flags & InodeFlags.UNSEALED or not inode.nlink:
            return None
        forms = await parts.engine.list_forms(inode.blob) if inode.blob else []
        stored_bytes = {form.kind: form.stored_bytes for form in forms}
        raw_bytes = inode.blocks * BLOCK_BYTES if inode.raw else 0
        pending = await parts.engine.get_pending(ino)
        held = parts.residency.holds(ino, inode.raw, inode.size)
        priority, pool_name = await self._marks(ino)
        pool = self._access_stats.pools.pool(pool_name)
        return Candidate(
            ino=ino,
            accessed_ns=inode.accessed_ns,
            pin=(await parts.engine.effective_pin(ino)).tier,
            raw=bool(inode.raw),
            packed=FormKind.PACKED in stored_bytes,
            remote=FormKind.REMOTE in stored_bytes,
            held=held,
            ram_bytes=page_bytes(inode.size),
            local_bytes=raw_bytes + stored_bytes.get(FormKind.PACKED, 0),
            packable=await self._is_packable(inode),
            fresh=fresh and not held and self._is_cached(inode),
            open=parts.open_table.is_open(ino),
            waiting=ino in self._moving or (pending is not None and pending.retry_ns > now_ns),
            priority=priority,
            pool=pool.name,
            uses=pool.queue.uses(ino),
        )

    async def _marks(self, ino: InodeNo) -> tuple[int, str]:
        """Return the priority and the pool in force."""
        if not self._access_stats.marked:
            return PRIORITY_DEFAULT, ""
        engine = self._parts.engine
        priority = await engine.effective_xattr(ino, PRIORITY_XATTR)
        pool = await engine.effective_xattr(ino, POOL_XATTR)
        return (
            PRIORITY_DEFAULT if priority is None else parse_priority(priority.decode()),
            "" if pool is None else pool.decode(),
        )

    async def _is_packable(self, inode: Inode) -> bool:
        """Return False if packing is known not to save a block of disk."""
        engine = self._parts.engine
        if inode.raw and inode.blocks * BLOCK_BYTES <= 4096:
            return False
        codec = await engine.effective_codec(inode.ino) or self._parts.config.cold.codec
        if codec == "none":
            return False
        decision = await engine.get_decision(inode.ino)
        return decision is None or decision.rule != unpackable_rule(inode, codec)

    def _is_cached(self, inode: Inode) -> bool:
        """Return whether at least half of a file is in the page cache: locking it reads little."""
        if not inode.raw:
            return False
        if inode.size <= SMALL_BYTES:
            return True
        path = self._parts.raw_store.path(inode.raw)
        return self._parts.residency.ram_bytes(path) * 2 >= inode.size
