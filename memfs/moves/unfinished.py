"""Unfinished uploads: keys whose parts may lie in the bucket, although no object came of them.

Invariant: a key is noted in the change that gives its intent up, and forgotten only after the store
has said that nothing of it is left. An upload in parts that nobody ends is kept, and paid for, for
ever ("Aborting a multipart upload", S3 user guide).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from memfs.addresses import store_of
from memfs.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from memfs.metadata.local import Local
    from memfs.stores.store import RemoteStore

log = logging.getLogger(__name__)

SETTING = "moves.unfinished_uploads"

KEY_COUNT_MAX = 1000
"""Keys that are remembered, some 60 KB; `memfs gc --orphans` finds what is beyond."""


async def note_unfinished(engine: Local, keys: Iterable[str]) -> None:
    """Remember keys whose uploads were given up; within the caller's change."""
    known = await _load(engine)
    added = [key for key in keys if key not in known]
    if added:
        await _save(engine, [*known, *added][-KEY_COUNT_MAX:])


async def abort_unfinished(
    engine: Local, store: RemoteStore, stores: Collection[str]
) -> dict[str, StoreError]:
    """End the uploads that were given up.

    Args:
        engine: Has the list of them.
        store: All stores.
        stores: Names of those that are to be asked; the others are for later.

    Returns:
        Why a store has not answered for all of its own, by its name.
    """
    failures: dict[str, StoreError] = {}
    done: set[str] = set()
    ended_count = 0
    for key in await _load(engine):
        name = store_of(key)
        if name in failures or name not in stores:
            continue
        try:
            ended_count += await store.abort_uploads(key)
        except StoreError as error:
            log.info("an unfinished upload of %s is not removed yet: %s", key, error)
            if error.transient:
                failures[name] = error
                continue
            # Without the right to list uploads nothing can be done, now or later.
        done.add(key)
    if done:
        async with engine.change():
            await _save(engine, [key for key in await _load(engine) if key not in done])
    if ended_count:
        log.info("%d unfinished uploads were removed from the store", ended_count)
    return failures


async def _load(engine: Local) -> list[str]:
    saved = await engine.get_setting(SETTING)
    if saved is None:
        return []
    try:
        return [str(key) for key in json.loads(saved)]
    except (ValueError, TypeError):
        log.warning("the list of unfinished uploads is damaged: memfs gc --orphans finds them")
        return []


async def _save(engine: Local, keys: list[str]) -> None:
    await engine.put_setting(SETTING, json.dumps(keys).encode() if keys else None)
