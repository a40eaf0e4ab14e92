"""Planned changes: what a command would do to the tree, and does not.

Invariant: nothing is changed. Inodes that would be made have numbers below 0, and nothing in them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

from memfs.moves.copying import RawCopy
from memfs.types import NO_RAW, InodeNo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from memfs.filesystem.tree_changes import Name, Original, Times, TreeChanges
    from memfs.metadata.records import Inode


class PlannedChanges:
    """Stands for `TreeChanges`, whose methods it has that copies of trees call.

    Args:
        changes: Tells how the tree is.
    """

    is_planned = True

    def __init__(self, changes: TreeChanges) -> None:
        self._changes = changes
        self._numbers = itertools.count(1)
        self.original_at = changes.original_at
        self.wait_told = changes.wait_told

    @property
    def as_changes(self) -> TreeChanges:
        """This, as what it stands for."""
        return cast("TreeChanges", self)

    async def find_name(self, name: Name) -> Inode | None:
        """Return what a name leads to; None too where its directory is only planned."""
        return await self._changes.find_name(name) if name.parent > 0 else None

    async def find_inode(self, ino: InodeNo) -> Inode | None:
        """Return an inode as it is; None too where it is only planned."""
        return await self._changes.find_inode(ino) if ino > 0 else None

    async def put_file(
        self,
        original: Original,
        look: Callable[[], Awaitable[Original]],
        names: Sequence[Name],
        times: Mapping[InodeNo, Times],
        *,
        replace: bool = True,
    ) -> tuple[Inode, RawCopy | None]:
        """Return what would be made; that blocks of the disk are shared is not known before."""
        inode = original.inode
        copy = None
        if inode.raw and not inode.blob:
            copy = RawCopy(NO_RAW, inode.size, inode.blocks, inode.mtime_ns, is_shared=False)
        return self._made(inode), copy

    async def put_directory(self, original: Original, name: Name, times: Times | None) -> Inode:
        """Return what would be made."""
        return self._made(original.inode)

    def _made(self, inode: Inode) -> Inode:
        return inode._replace(ino=InodeNo(-next(self._numbers)))

    async def link_names(
        self, ino: InodeNo, names: Sequence[Name], times: Mapping[InodeNo, Times]
    ) -> None:
        """Do nothing."""

    async def move_name(self, name: Name, place: Name, times: Mapping[InodeNo, Times]) -> None:
        """Do nothing."""

    async def set_likeness(
        self, ino: InodeNo, original: Original, hidden: tuple[bytes, ...] = ()
    ) -> None:
        """Do nothing."""

    async def set_times(self, directory: InodeNo, times: Times) -> None:
        """Do nothing."""

    async def remove_name(self, name: Name, times: Times | None = None) -> None:
        """Do nothing."""
