"""Stored statistics: pools and the use of files, from one run of the daemon to the next.

Invariant: what is stored is bounded; what cannot be read is left out with a word in the log, and
costs nothing but what it would have told.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from memfs.errors import InvalidValueError, MemfsError
from memfs.policy.marks import MARKED_SETTING

if TYPE_CHECKING:
    from memfs.metadata.engine import Local
    from memfs.policy.access_stats import AccessStats

log = logging.getLogger(__name__)

POOLS_SETTING = "policy.pools"
_WARM_SETTING = "policy.heat.warm"
_COLD_SETTING = "policy.heat.cold"

SAVE_INTERVAL_S = 300.0
"""A daemon that is killed forgets the use of so long. Guess."""


class StoredStats:
    """Keeps `AccessStats` in the engine's settings.

    Args:
        engine: Where settings are.
        access_stats: What is kept.
    """

    def __init__(self, engine: Local, access_stats: AccessStats) -> None:
        self._engine = engine
        self._access_stats = access_stats
        self._loaded = False
        self._saved_s = 0.0

    async def load_or_save(self) -> None:
        """Load once, then save now and then."""
        if not self._loaded:
            self._loaded = True
            self._saved_s = trio.current_time()
            await self._load()
        elif trio.current_time() - self._saved_s >= SAVE_INTERVAL_S:
            await self.save()

    async def save(self) -> None:
        """Store the statistics as they are now."""
        if not self._loaded:
            return
        self._saved_s = trio.current_time()
        async with self._engine.change():
            await self._engine.put_setting(_WARM_SETTING, self._access_stats.encode_warm())
            await self._engine.put_setting(_COLD_SETTING, self._access_stats.encode_cold())

    async def _load(self) -> None:
        access_stats = self._access_stats
        decoders = (
            (_WARM_SETTING, access_stats.decode_warm),
            (_COLD_SETTING, access_stats.decode_cold),
        )
        for name, decode in decoders:
            try:
                stored = await self._engine.get_setting(name)
                if stored is not None:
                    decode(stored)
            except MemfsError as error:
                log.warning("%s: %s; files count as not used so far", name, error)


async def load_pools(engine: Local, access_stats: AccessStats, warm_bytes: int) -> None:
    """Take the pools of an earlier run, and whether any file has a mark at all.

    Args:
        engine: Where settings are.
        access_stats: Gets them.
        warm_bytes: Capacity of the RAM tier, of which pools reserve parts.
    """
    access_stats.marked = (
        access_stats.marked or await engine.get_setting(MARKED_SETTING) is not None
    )
    stored = await engine.get_setting(POOLS_SETTING)
    if stored is None:
        return
    try:
        refusals = access_stats.pools.decode(stored, warm_bytes)
    except (ValueError, TypeError, AttributeError, InvalidValueError) as error:
        refusals = [f"the stored pools cannot be read: {error}"]
    for refusal in refusals:
        log.warning("a pool is left out: %s", refusal)
