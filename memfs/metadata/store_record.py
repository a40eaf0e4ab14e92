"""Which object store the objects of a state directory are in, as the last mount had it.

Invariant: kept as configured, so that a state directory that was moved with its own store is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfs.metadata.engine import Local

SETTING = "store"


async def recall_store(engine: Local) -> str | None:
    """Return `glacier.url` of the last mount with a store; empty: the default; None: unknown."""
    stored = await engine.get_setting(SETTING)
    return None if stored is None else stored.decode()


async def record_store(engine: Local, url: str | None) -> str | None:
    """Keep what a mount uses; returns what the former one used, if that was another one.

    Args:
        url: `glacier.url`; None: the default.
    """
    former = await recall_store(engine)
    now = url or ""
    if former == now:
        return None
    async with engine.change():
        await engine.put_setting(SETTING, now.encode())
    return former


def describe_store(url: str) -> str:
    """Return a recorded store in words."""
    return url or "the default, glacier/ in the state directory"
