"""Which object stores the objects of a state directory are in, as the last mount had them.

Invariant: kept as configured, so that a state directory that was moved with its own store is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfs.metadata.local import Local

SETTING = "store"


async def recall_store(engine: Local, name: str = "") -> str | None:
    """Return `glacier.url` of the last mount with a store; empty: the default; None: unknown.

    Args:
        engine: That of the state directory.
        name: That of a named store, whose `url` is told instead.
    """
    stored = await engine.get_setting(store_setting(name))
    return None if stored is None else stored.decode()


async def record_store(engine: Local, url: str | None, name: str = "") -> str | None:
    """Keep what a mount uses; returns what the former one used, if that was another one.

    Args:
        engine: That of the state directory.
        url: `glacier.url`; None: the default.
        name: That of a named store, whose `url` it is.
    """
    former = await recall_store(engine, name)
    now = url or ""
    if former == now:
        return None
    async with engine.change():
        await engine.put_setting(store_setting(name), now.encode())
    return former


def store_setting(name: str) -> str:
    """Return the setting that has the URL of a store; the name of the default one is empty."""
    return f"{SETTING}.{name}" if name else SETTING


def describe_store(url: str) -> str:
    """Return a recorded store in words."""
    return url or "the default, glacier/ in the state directory"
