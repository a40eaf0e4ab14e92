"""Uploads of published objects under way: what would be left there if the daemon ended now.

Invariant: an upload is recorded, on stable storage, before bytes are sent, and forgotten only after
it has ended or the place has said that nothing is left of it.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memfs.metadata.local import Local

log = logging.getLogger(__name__)

SETTING = "publish.uploads"

TRIAL = "trial"
"""Name of an upload whose object is to go with it."""


class PublishUpload(NamedTuple):
    """One upload."""

    url: str
    """That of the object, without secrets."""
    target: str
    """What it is published with."""
    upload: str
    """As `PublicStore.abort` takes it."""


async def note_upload(engine: Local, upload: PublishUpload) -> None:
    """Record an upload; within a change."""
    known = await list_uploads(engine)
    if upload not in known:
        await _save(engine, [*known, upload])


async def forget_upload(engine: Local, url: str) -> None:
    """Forget the uploads of an object; within a change."""
    known = await list_uploads(engine)
    if any(each.url == url for each in known):
        await _save(engine, [each for each in known if each.url != url])


async def list_uploads(engine: Local) -> list[PublishUpload]:
    """Return all uploads that are under way, or were when a daemon ended."""
    saved = await engine.get_setting(SETTING)
    if saved is None:
        return []
    try:
        return [PublishUpload(*map(str, each)) for each in json.loads(saved)]
    except (ValueError, TypeError):
        log.warning("the list of unfinished uploads of published objects is damaged: forgotten")
        return []


async def _save(engine: Local, uploads: list[PublishUpload]) -> None:
    await engine.put_setting(SETTING, json.dumps(uploads).encode() if uploads else None)
