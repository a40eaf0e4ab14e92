"""Kept names: what a user calls bytes that only snapshots show.

Invariant: a name that is told leads to these very bytes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from memfs.errors import NotFoundError, StaleInodeError

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import KeptContent
    from memfs.types import BlobId


async def name_kept(engine: Engine, kept: KeptContent) -> str:
    """Return the path of an earlier generation in the oldest snapshot that shows it."""
    for snapshot in await engine.list_snapshots():
        with contextlib.suppress(StaleInodeError, NotFoundError):
            inode = await engine.inode_at(snapshot.snap, kept.ino)
            paths = await engine.list_paths_at(snapshot.snap, kept.ino)
            if inode.generation == kept.generation and paths:
                return f"{paths[0].decode('utf-8', 'backslashreplace')}@{snapshot.name}"
    return f"generation {kept.generation} of inode {kept.ino}"


async def name_keepers(engine: Engine, blob: BlobId, limit: int) -> list[str]:
    """Return the same for all that is kept by a blob, at most `limit`."""
    return [await name_kept(engine, kept) for kept in await engine.list_keepers(blob, limit)]
