"""Candidates: files as the policy sees them, each with the record that was read for that.

Invariant: reads only; what it returns is true until the next suspension.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from memfs.addresses import store_of
from memfs.content.residency import page_bytes
from memfs.errors import StaleInodeError
from memfs.metadata.records import Inode, InodeFlags
from memfs.moves.choosing import wanted_store
from memfs.policy import rules
from memfs.policy.ages import NO_AGES, Ages, parse_ages
from memfs.policy.marks import AGES_XATTR, POOL_XATTR, PRIORITY_XATTR, parse_priority
from memfs.policy.view import PRIORITY_DEFAULT, Candidate
from memfs.types import BLOCK_BYTES, FormKind, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.placement.context import Context
    from memfs.types import InodeNo

SMALL_BYTES = 1 << 20
"""Files up to this size are taken into RAM whole when a program uses them. Guess."""


class Observed(NamedTuple):
    """One file: what the engine had of it, and what the policy sees."""

    inode: Inode
    candidate: Candidate
    store: str = ""
    """Name of the store that has its object, or else that it belongs in; empty: the default one."""


class _Marks(NamedTuple):
    """Those in force on a file."""

    priority: int = PRIORITY_DEFAULT
    pool: str = ""
    ages: Ages = NO_AGES


async def observe(
    context: Context, ino: InodeNo, now_ns: int, *, fresh: bool = False
) -> Observed | None:
    """Return a file's state; None if it is gone, nameless, unsealed or not a regular file.

    Args:
        now_ns: Wall clock.
        fresh: It was written or used just now: whether that holds for its pages is looked up.
    """
    parts, engine = context.parts, context.engine
    try:
        inode = await engine.get_inode(ino)
    except StaleInodeError:
        return None
    if not stat.S_ISREG(inode.mode) or inode.flags & InodeFlags.UNSEALED or not inode.nlink:
        return None
    forms = await engine.list_all_forms(inode)
    stored_bytes = {form.kind: form.stored_bytes for form in forms}
    raw_bytes = inode.blocks * BLOCK_BYTES if inode.raw else 0
    pending = await engine.get_pending(ino)
    waits = pending is not None and pending.retry_ns > now_ns
    # Its local forms need not wait for the store: without that, RAM would stay full of such files.
    store_waits = (
        waits
        and context.uploads_sealed
        and pending is not None
        and pending.wanted == Tier.GLACIER
        and FormKind.REMOTE not in stored_bytes
    )
    held = parts.residency.holds(ino, inode.raw, inode.size)
    marks = await _marks(context, ino)
    pool = context.pools.pool(marks.pool)
    candidate = Candidate(
        ino=ino,
        accessed_ns=inode.accessed_ns,
        pin=(await engine.effective_pin(ino)).tier,
        raw=bool(inode.raw),
        packed=FormKind.PACKED in stored_bytes,
        remote=FormKind.REMOTE in stored_bytes,
        held=held,
        ram_bytes=page_bytes(inode.size),
        local_bytes=raw_bytes + stored_bytes.get(FormKind.PACKED, 0),
        packable=await _is_packable(context, inode),
        fresh=fresh and not held and _is_cached(context, inode),
        open=parts.open_table.is_open(ino),
        waiting=ino in context.queues or (waits and not store_waits),
        store_waits=store_waits,
        priority=marks.priority,
        ages=marks.ages,
        pool=pool.name,
        uses=pool.queue.uses(ino),
    )
    remote = next((form for form in forms if form.kind == FormKind.REMOTE), None)
    if remote is not None:
        return Observed(inode, candidate, store_of(remote.place.key))
    marked = context.access_stats.marked
    return Observed(inode, candidate, await wanted_store(engine, ino) if marked else "")


async def observe_all(
    context: Context, inos: Iterable[InodeNo], *, fresh: bool = False
) -> list[Observed]:
    """Return the files that can move; no watermark makes them leave a tier.

    Args:
        fresh: They were written or used just now.
    """
    now_ns = context.usage.now_ns
    found = [await observe(context, ino, now_ns, fresh=fresh) for ino in inos]
    # Only what the queues offer leaves by a watermark; see `observe_ranked`.
    return [
        file._replace(candidate=file.candidate._replace(leaves_ram=False, leaves_disk=False))
        for file in found
        if file is not None
    ]


async def observe_ranked(context: Context, inos: Iterable[InodeNo], tier: Tier) -> list[Observed]:
    """Return files in the order in which a queue lets them go.

    Args:
        inos: Files, the first to leave first.
        tier: Which they are to leave: warm or cold.
    """
    return [
        file._replace(
            candidate=file.candidate._replace(
                rank=rank, leaves_ram=tier == Tier.WARM, leaves_disk=tier == Tier.COLD
            )
        )
        for rank, file in enumerate(await observe_all(context, inos))
    ]


def unpackable_rule(inode: Inode, codec: str) -> str:
    """Return the rule by which a generation of a file that does not shrink is left raw."""
    return rules.qualified(rules.INCOMPRESSIBLE, inode.generation, codec)


async def _marks(context: Context, ino: InodeNo) -> _Marks:
    """Return the priority, the pool and the ages in force."""
    stats = context.access_stats
    if not stats.marked:
        return _Marks()
    priority = await context.engine.effective_xattr(ino, PRIORITY_XATTR)
    pool = await context.engine.effective_xattr(ino, POOL_XATTR)
    ages = None
    if stats.shortest_age_ns is not None:
        ages = await context.engine.effective_xattr(ino, AGES_XATTR)
    return _Marks(
        PRIORITY_DEFAULT if priority is None else parse_priority(priority.decode()),
        "" if pool is None else pool.decode(),
        NO_AGES if ages is None else parse_ages(ages.decode()),
    )


async def _is_packable(context: Context, inode: Inode) -> bool:
    """Return False if packing is known not to save a block of disk, or is not for this node."""
    engine = context.engine
    if not context.parts.writes:
        return False
    if inode.raw and inode.blocks * BLOCK_BYTES <= 4096:
        return False
    codec = await engine.effective_codec(inode.ino) or context.config.cold.codec
    if codec == "none":
        return False
    decision = await engine.get_decision(inode.ino)
    return decision is None or decision.rule != unpackable_rule(inode, codec)


def _is_cached(context: Context, inode: Inode) -> bool:
    """Return whether at least half of a file is in the page cache: locking it reads little."""
    if not inode.raw:
        return False
    if inode.size <= SMALL_BYTES:
        return True
    path = context.parts.raw_store.path(inode.raw)
    return context.residency.ram_bytes(path) * 2 >= inode.size
