"""Outlook: what would change a file's place, told to users.

Invariant: it tells what the queues and limits are at the moment, and changes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from memfs.policy.ages import NO_AGES, Ages
from memfs.sizes import format_size
from memfs.types import Tier

if TYPE_CHECKING:
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.view import Limits
    from memfs.types import InodeNo


class Facts(NamedTuple):
    """What is known of the file that is asked about."""

    ino: InodeNo
    tier: Tier
    pin: Tier | None
    """In force."""
    accessed_ns: int
    pool: str
    """In force; empty: no pool."""
    raw: bool
    """It has a raw form; on the disk without one, it is packed already."""
    ages: Ages = NO_AGES
    """In force for it."""
    packs: bool = True
    """This node packs files: one that reads what another one writes does not."""


def outlook(facts: Facts, access_stats: AccessStats) -> str:
    """Return what would change the place of a file, as one sentence."""
    if facts.pin is not None:
        until = "until its pin is removed or changed"
        if facts.tier == facts.pin:
            return f"it stays {facts.pin.label} {until}"
        return f"it is to be {facts.pin.label} and stays so {until}"
    limits = access_stats.limits
    if limits is None:
        return "the mover has not looked around yet"
    if facts.tier >= Tier.WARM:
        return _of_warm(facts, access_stats, limits)
    if facts.tier == Tier.COLD:
        return f"{_into_ram(facts, access_stats)}; {_off_disk(facts, access_stats, limits)}"
    return (
        f"it comes back to the disk when it is opened; a large one that is read where it is gets a "
        f"raw copy when it is opened {access_stats.promote_count} times within "
        f"{access_stats.promote_window_s:g} s "
        "or a quarter of it is read, if the disk tier has room or it is used again and again"
    )


def _of_warm(facts: Facts, access_stats: AccessStats, limits: Limits) -> str:
    pool = access_stats.pools.pool_of(facts.ino) or access_stats.pools.pool(facts.pool)
    where = f"pool {pool.name}" if pool.name else "the RAM tier"
    before_bytes = pool.queue.bytes_before(facts.ino)
    turn = "" if before_bytes is None else f" and {format_size(before_bytes)} before it have left"
    age_ns, key = limits.ages_of(facts.ages).warm_to_cold
    idle = _time(facts.accessed_ns + age_ns)
    return (
        f"it leaves RAM when not used until {idle} ({key}), or when {where} passes "
        f"{format_size(pool.capacity.high_bytes)}{turn} (it holds {format_size(pool.used_bytes)})"
    )


def _into_ram(facts: Facts, access_stats: AccessStats) -> str:
    queue = access_stats.pools.pool(facts.pool).queue
    if not queue.capacity_bytes:
        return "there is no RAM tier to come into"
    if queue.frozen:
        return (
            "a loop over more than the RAM tier holds is being read, so what is in RAM stays and "
            "it comes in when that ends"
        )
    return "it comes into RAM when it is used again while its pages are cached"


def _off_disk(facts: Facts, access_stats: AccessStats, limits: Limits) -> str:
    ages = limits.ages_of(facts.ages)
    goes, (age_ns, key) = "is packed", ages.pack_after
    if not facts.raw and not limits.glacier:
        return "it stays packed"
    is_first = ages.cold_to_glacier[0] <= age_ns
    if limits.glacier and (is_first or not facts.raw or not facts.packs):
        goes, (age_ns, key) = "goes to the object store", ages.cold_to_glacier
    before_bytes = access_stats.cold.bytes_before(facts.ino)
    turn = (
        "files not used for longer have left"
        if before_bytes is None
        else f"{format_size(before_bytes)} of used files and all unused ones have left"
    )
    return (
        f"it {goes} when not used until {_time(facts.accessed_ns + age_ns)} ({key}), or when the "
        f"disk tier passes {format_size(limits.cold.high_bytes)} and {turn}"
    )


def _time(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return moment.isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
