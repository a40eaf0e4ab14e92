"""Damage: raw files that were changed while no daemon ran, after it had ended in order.

Invariant: what such a raw file holds is never served, moved or taken for the file's content; it is
never removed either. Another form takes its place, or the file is unreadable and says why.

1. The raw file is moved aside, durably. *Killed from here on*: its row names a missing file, which
   is damage as well, and the next look goes on with 2.
2. Its row is dropped, committed. *Power lost*: the row is back, as after 1.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

import trio

from memfs.errors import CorruptDataError, ObjectMissingError, StaleInodeError
from memfs.metadata.records import Decision
from memfs.policy import rules

if TYPE_CHECKING:
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import InodeNo

log = logging.getLogger(__name__)


async def replace_damaged(parts: MoveParts, ino: InodeNo) -> Inode:
    """Return an inode whose raw file is not known to be damaged: where it is, it is set aside.

    Checkpoint: only if it is damaged.

    Args:
        ino: The file; any kind of it.

    Raises:
        StaleInodeError: The file is gone.
        CorruptDataError: Its raw file is damaged, and it has no other form; `why` tells.
    """
    inode = await parts.engine.get_inode(ino)
    reason = parts.sealer.damage_of(inode)
    if reason is None:
        return inode
    if not await parts.engine.list_all_forms(inode):
        await record_damage(parts, ino, reason)
        raise CorruptDataError(reason)
    # Its pages must go before its name does; they are nobody's, for no handle was ever given.
    await parts.residency.unlock(ino, drop_pages=False)
    kept = await trio.to_thread.run_sync(_set_aside, parts, inode)
    parts.faults.reach("damage.set_aside")
    async with parts.open_table.gates.hold(ino):
        now = await parts.engine.get_inode(ino)
        if (now.raw, now.generation) != (inode.raw, inode.generation):
            # Somebody else did the same meanwhile.
            return now
        parts.open_table.forget_raw(ino)
        async with parts.engine.change():
            dropped = await parts.engine.drop_raw(ino, inode.generation, inode.raw)
    parts.faults.reach("damage.detached")
    if dropped:
        path = os.fsdecode(await parts.engine.get_path(ino))
        log.warning("%s: %s; it is kept as %s, another form is read", path, reason, kept)
    return await parts.engine.get_inode(ino)


async def record_damage(
    parts: MoveParts, ino: InodeNo, reason: str, *, logged: bool = True
) -> None:
    """Have `why` say that a file cannot be read, and the log, once.

    Args:
        reason: For users.
        logged: False: the caller's caller logs it.
    """
    former = await parts.engine.get_decision(ino)
    if former is not None and (former.rule, former.detail) == (rules.DAMAGED, reason):
        return
    try:
        path = os.fsdecode(await parts.engine.get_path(ino))
        decision = Decision(rules.DAMAGED, reason, 0, time.time_ns())
        async with parts.engine.change():
            await parts.engine.record_decision(ino, decision)
    except StaleInodeError:
        return
    if logged:
        log.error("%s: %s", path, reason)


def _set_aside(parts: MoveParts, inode: Inode) -> str:
    try:
        name = f"inode-{inode.ino}-{inode.generation}"
        return str(parts.raw_store.move_aside(inode.raw, name))
    except ObjectMissingError:
        return "nothing"
