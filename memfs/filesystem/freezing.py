"""Freezing: from one instant on nothing changes in a tree, and every node may rely on that.

Nodes that read skip the question to the database for what is in a frozen tree, as long as they have
heard of the writer within `FROZEN_S`. So a thaw is in two steps: `begin_thaw` is committed to the
database, and only when every node has heard of it, or relies on nothing any more, may anything
change (`thaw`). A daemon that dies in between leaves a tree that is frozen, and thawed again.

Invariant: when a tree is frozen, no file in it is open for writing, and all its directories have
been listed.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import trio

from memfs.content.sealing import RELEASE_S
from memfs.content.sources import count_rows
from memfs.errors import FilesOpenError, InvalidValueError, NotSupportedError, NoXattrError
from memfs.metadata.namespace import FROZEN_S
from memfs.types import ROOT_INODE, InodeNo
from memfs.waiting import leave

if TYPE_CHECKING:
    from memfs.content.sealing import Sealer
    from memfs.metadata.engine import Engine

ATTEMPT_COUNT = 5
"""With `RELEASE_S` between two."""

THAW_MARGIN_S = 0.5
"""Clocks of machines may run at rates that differ a little. Guess, and far above that."""

FILES_A_PAGE = 500

NAMED_MAX = 3
"""Open files that an error names."""


class Freezing:
    """Freezes and thaws trees.

    Args:
        engine: Knows them.
        sealer: Ends the writing of files.
        is_shared: Whether other nodes may read the mount.
    """

    def __init__(self, engine: Engine, sealer: Sealer, *, is_shared: bool) -> None:
        self._engine = engine
        self._sealer = sealer
        self._is_shared = is_shared

    async def freeze(self, ino: InodeNo) -> bool:
        """Freeze the tree of a directory, committed; False if it is frozen already.

        Checkpoint: unless it is frozen already.

        Raises:
            NotSupportedError: It is not a directory.
            InvalidValueError: A directory of a source was not listed yet; or too many are frozen.
            FilesOpenError: A file below it is open for writing, or mapped.
        """
        engine = self._engine
        if not stat.S_ISDIR((await engine.get_inode(ino)).mode):
            raise NotSupportedError("only a directory can be frozen")
        known = await engine.find_frozen(ino)
        if known is not None and known.ino == ino and not known.is_thawing:
            return False
        await leave()
        await self._require_listed(ino)
        for attempt in range(1, ATTEMPT_COUNT + 1):
            await self._seal_all()
            try:
                async with engine.change():
                    await engine.freeze(ino)
                    await self._require_sealed()
            except FilesOpenError:
                if attempt == ATTEMPT_COUNT:
                    raise
                await trio.sleep(RELEASE_S)
            else:
                break
        return True

    async def thaw(self, ino: InodeNo) -> None:
        """Thaw the tree of a directory, committed.

        Checkpoint: always, and for longer than `FROZEN_S` where other nodes may read.

        Raises:
            NoXattrError: It is not one that was frozen.
            UnconfirmedError: The database has not confirmed it in time; the tree stays frozen.
        """
        engine = self._engine
        tree = await engine.find_frozen(ino)
        if tree is None:
            raise NoXattrError("it is not frozen")
        if tree.ino != ino:
            path = os.fsdecode(await engine.get_path(tree.ino))
            raise NoXattrError(f"it is frozen with {path}: thaw that")
        await leave()
        if self._is_shared:
            async with engine.change():
                await engine.begin_thaw(ino)
            await engine.commit()
            await trio.sleep(FROZEN_S + THAW_MARGIN_S)
        async with engine.change():
            await engine.thaw(ino)

    async def _seal_all(self) -> None:
        after = InodeNo(0)
        while inodes := await self._engine.list_unsealed(after, FILES_A_PAGE):
            after = inodes[-1].ino
            for inode in inodes:
                await self._sealer.seal(inode.ino)
            await trio.lowlevel.checkpoint()

    async def _require_sealed(self) -> None:
        """See that no file in a frozen tree can be written to; within the change that froze it."""
        engine = self._engine
        paths: list[str] = []
        after = InodeNo(0)
        while inodes := await engine.list_unsealed(after, FILES_A_PAGE):
            after = inodes[-1].ino
            paths += [
                os.fsdecode(await engine.get_path(inode.ino))
                for inode in inodes
                if inode.nlink and await engine.find_frozen(inode.ino) is not None
            ]
        if paths:
            more = f" and {len(paths) - NAMED_MAX} more" if len(paths) > NAMED_MAX else ""
            raise FilesOpenError(
                f"open for writing, or mapped: {', '.join(paths[:NAMED_MAX])}{more}; close them"
            )

    async def _require_listed(self, ino: InodeNo) -> None:
        engine = self._engine
        for source in await engine.list_sources():
            root = source.root
            if not (await _is_in(engine, root, ino) or await _is_in(engine, ino, root)):
                continue
            if count := (await count_rows(engine, source.source)).unlisted_count:
                raise InvalidValueError(
                    f"{count} directories of {source.url} were not listed yet, and would have no "
                    "files for good: memfs adopt --refresh lists all"
                )


async def _is_in(engine: Engine, ino: InodeNo, directory: InodeNo) -> bool:
    """Return whether a directory is below another one, or is that."""
    while ino not in (directory, ROOT_INODE):
        ino = await engine.get_parent(ino)
    return ino == directory


async def find_frozen_part(engine: Engine, root: InodeNo) -> str | None:
    """Return the path of a frozen tree that a directory is in, or that is in it; None: neither."""
    if not engine.has_frozen:
        return None
    tree = await engine.find_frozen(root)
    trees = [] if tree is None else [tree.ino]
    trees += [
        each.ino for each in await engine.list_frozen() if await _is_in(engine, each.ino, root)
    ]
    return os.fsdecode(await engine.get_path(trees[0])) if trees else None
