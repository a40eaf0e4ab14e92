"""Memory: pools and the heat of files, from one run of the daemon to the next.

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
    from memfs.policy.access_stats import Heat

log = logging.getLogger(__name__)

POOLS_SETTING = "policy.pools"
_WARM_SETTING = "policy.heat.warm"
_COLD_SETTING = "policy.heat.cold"

SAVE_INTERVAL_S = 300.0
"""A daemon that is killed forgets the use of so long. Guess."""


class HeatMemory:
    """Keeps `Heat` in the engine's settings.

    Args:
        engine: Where settings are.
        heat: What is kept.
    """

    def __init__(self, engine: Local, heat: Heat) -> None:
        self._engine = engine
        self._heat = heat
        self._loaded = False
        self._saved_s = 0.0

    async def step(self) -> None:
        """Load once, then save now and then."""
        if not self._loaded:
            self._loaded = True
            self._saved_s = trio.current_time()
            await self._load()
        elif trio.current_time() - self._saved_s >= SAVE_INTERVAL_S:
            await self.save()

    async def save(self) -> None:
        """Store the heat as it is now."""
        if not self._loaded:
            return
        self._saved_s = trio.current_time()
        async with self._engine.change():
            await self._engine.put_setting(_WARM_SETTING, self._heat.encode_warm())
            await self._engine.put_setting(_COLD_SETTING, self._heat.encode_cold())

    async def _load(self) -> None:
        heat = self._heat
        decoders = ((_WARM_SETTING, heat.decode_warm), (_COLD_SETTING, heat.decode_cold))
        for name, decode in decoders:
            try:
                stored = await self._engine.get_setting(name)
                if stored is not None:
                    decode(stored)
            except MemfsError as error:
                log.warning("%s: %s; files count as not used so far", name, error)


async def load_pools(engine: Local, heat: Heat, warm_bytes: int) -> None:
    """Take the pools of an earlier run, and whether any file has a mark at all.

    Args:
        engine: Where settings are.
        heat: Gets them.
        warm_bytes: Budget of the RAM tier, which the pools share.
    """
    heat.marked = heat.marked or await engine.get_setting(MARKED_SETTING) is not None
    stored = await engine.get_setting(POOLS_SETTING)
    if stored is None:
        return
    try:
        refusals = heat.shares.decode(stored, warm_bytes)
    except (ValueError, TypeError, AttributeError, InvalidValueError) as error:
        refusals = [f"the stored pools cannot be read: {error}"]
    for refusal in refusals:
        log.warning("a pool is left out: %s", refusal)
