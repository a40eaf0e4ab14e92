"""Releasing: a directory gets back what was adopted from it, and the mount lets go of it.

A file that was moved gets its name in the directory again, from the raw store, and then loses that
in the mount. One that was only referred to, or copied, is there already: its name in the mount
goes, unless it was written here.

Invariant: a file loses its name in the mount only after the directory has it, durably. What is cut
off goes on where it was.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import trio

from memfs.errors import InvalidValueError, MemfsError
from memfs.filesystem.foreign_changes import OBJECT_SUFFIX
from memfs.filesystem.object_names import names_of_key
from memfs.filesystem.tree_changes import FIRST_GENERATION, Name
from memfs.jobs.forgetting import forget_source
from memfs.jobs.taking import Take, give_back
from memfs.linux.times import storable_ns
from memfs.metadata.records import InodeFlags
from memfs.moves.hydrating import hydrate
from memfs.stores.disk import disk_errors
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from memfs.filesystem.foreign_changes import ForeignChanges
    from memfs.jobs.refreshing import RefreshTally
    from memfs.metadata.foreign import ForeignObject, Source
    from memfs.metadata.records import DirectoryEntry, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import InodeNo

ENTRIES_A_PAGE = 256


class Releasing:
    """The way back of one source.

    Args:
        changes: Makes the changes.
        parts: Engine, raw files, sources.
        source: A directory of this machine.
        top: That directory.
        how: What became of its files.
        tally: Filled while it runs.
    """

    def __init__(
        self,
        changes: ForeignChanges,
        parts: MoveParts,
        source: Source,
        top: Path,
        how: Take,
        tally: RefreshTally,
    ) -> None:
        self._changes = changes
        self._parts = parts
        self._engine = parts.engine
        self._source = source
        self._top = top
        self._how = how
        self._tally = tally
        tally.source = source.source

    async def run(self) -> AsyncGenerator[None, None]:
        """Do it, an entry a step; then the source is gone, unless something stays."""
        async for _ in self._empty(self._source.root, self._top):
            yield
        if self._tally.failed_count:
            self._tally.problem = "some files stay in the mount; see what is told of them"
            return
        await forget_source(self._parts, self._source)
        dentry = await self._engine.get_dentry(self._source.root)
        if self._source.root != ROOT_INODE and dentry is not None:
            await self._changes.remove_name(Name(*dentry))

    async def _empty(self, directory: InodeNo, target: Path) -> AsyncGenerator[None, None]:
        """Give back all below a directory."""
        cookie = 0
        while entries := await self._engine.list_directory(directory, cookie, ENTRIES_A_PAGE):
            for entry in entries:
                cookie = entry.cookie
                path = target / os.fsdecode(entry.name)
                try:
                    if stat.S_ISDIR(entry.inode.mode):
                        if self._how is Take.MOVE:
                            await self._make(entry.inode, path, None)
                        async for _ in self._empty(entry.inode.ino, path):
                            yield
                        if await self._engine.list_directory(entry.inode.ino, 0, 1):
                            continue
                        if self._how is not Take.MOVE:
                            await self._check_there(entry.inode, path)
                    else:
                        await self._give_back(entry, path)
                    await self._changes.remove_name(Name(directory, entry.name))
                    self._parts.faults.reach("release.removed")
                except (MemfsError, OSError) as error:
                    self._tally.note_failed(str(path.relative_to(self._top)), str(error))
                yield

    async def _give_back(self, entry: DirectoryEntry, path: Path) -> None:
        await self._parts.sealer.seal(entry.inode.ino)
        inode = await self._engine.get_inode(entry.inode.ino)
        row = await self._engine.get_object(inode.ino)
        is_here = row is not None and row.source == self._source.source
        if self._is_unwritten(inode, row if is_here else None):
            await self._check_there(inode, path if row is None else self._top / row.name)
            self._tally.note_taken(inode.size)
            return
        if self._how is not Take.MOVE:
            raise InvalidValueError("it was written here: copy it where it is to be, and remove it")
        if inode.flags & InodeFlags.UNSEALED:
            raise InvalidValueError("a program has it open for writing; close it")
        if is_here and row is not None and self._is_of_key(path, row):
            path = self._top / row.name
        if stat.S_ISREG(inode.mode):
            if inode.size:
                inode = await hydrate(self._parts, inode.ino)
            raw_path = self._parts.raw_store.path(inode.raw) if inode.raw else None
            await self._make(inode, path, raw_path)
        else:
            await self._make(inode, path, None)
        self._tally.note_taken(inode.size)

    def _is_of_key(self, path: Path, row: ForeignObject) -> bool:
        """Return whether an entry has the name that its key was given: else it was renamed here."""
        at_root = self._source.root == ROOT_INODE
        names, _, _ = names_of_key(row.key, at_mount_root=at_root)
        below = os.fsencode(path.relative_to(self._top))
        return below in (b"/".join(names), b"/".join(names) + OBJECT_SUFFIX)

    def _is_unwritten(self, inode: Inode, row: ForeignObject | None) -> bool:
        """Return whether an entry is as it was adopted, and the directory was to keep its own."""
        if stat.S_ISLNK(inode.mode):
            return self._how is not Take.MOVE
        if row is None:
            return False
        if row.generation == inode.generation:
            return True
        is_written = inode.generation != FIRST_GENERATION or inode.flags & InodeFlags.UNSEALED
        return self._how is Take.COPY and not is_written

    async def _check_there(self, inode: Inode, path: Path) -> None:
        """Return if the directory has an entry as it is here: else the one here is the last one.

        Raises:
            InvalidValueError: It has not.
        """
        link = b""
        if stat.S_ISLNK(inode.mode):
            link = await self._engine.read_link(inode.ino)
        if not await trio.to_thread.run_sync(_is_same, path, inode, link):
            raise InvalidValueError(
                "the directory no longer has it as it is here: copy it where it is to be, and "
                "remove it"
            )

    async def _make(self, inode: Inode, path: Path, raw_path: Path | None) -> None:
        link = b""
        if stat.S_ISLNK(inode.mode):
            link = await self._engine.read_link(inode.ino)
        await trio.to_thread.run_sync(give_back, raw_path, path, inode, link)
        self._parts.faults.reach("release.made")


def _is_same(path: Path, inode: Inode, link: bytes) -> bool:
    """Return whether a path leads to what an inode is. Blocks.

    Files are compared by size and time, symlinks by target, and directories not at all.
    """
    with disk_errors(str(path)):
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(inode.mode):
            return False
        if stat.S_ISDIR(status.st_mode):
            return True
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(os.fsencode(path)) == link
        return (status.st_size, storable_ns(status.st_mtime_ns)) == (inode.size, inode.mtime_ns)
