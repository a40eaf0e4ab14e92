"""Tree copying: a directory is made equal to one of another instant, or place, entry by entry.

Invariant: what is equal is left alone, so that a copy that was cut off goes on where it was when it
is made again. Each file is as it was before, or equal to its original.
"""

from __future__ import annotations

import stat
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from memfs.defects import as_failure
from memfs.errors import (
    DirectoryNotEmptyError,
    IsADirectoryInodeError,
    NoSpaceError,
    NotFoundError,
    ObjectMissingError,
)
from memfs.filesystem.tree_changes import Name, Original, Times
from memfs.metadata.records import InodeFlags
from memfs.stores.disk import equal_files
from memfs.types import NOW

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from memfs.control.methods.copies import CopyReport
    from memfs.filesystem.tree_changes import TreeChanges
    from memfs.metadata.records import DirectoryEntry, Inode
    from memfs.metadata.snapshots import Snapshots
    from memfs.moves.attempt import MoveParts
    from memfs.types import InodeNo, SnapshotId

ENTRIES_A_PAGE = 256
FAILURES_SHOWN_MAX = 100


@dataclass(slots=True)
class CopyTally:
    """What was done so far."""

    file_count: int = 0
    """Made anew: regular files, symlinks and others that are no directories."""
    directory_count: int = 0
    changed_count: int = 0
    """Attributes or names of what was there."""
    equal_count: int = 0
    """Left alone."""
    removed_count: int = 0
    shared_bytes: int = 0
    """That of files that share compressed or remote forms with their original."""
    cloned_bytes: int = 0
    """That of files that share blocks of the disk with it."""
    copied_bytes: int = 0
    failed_count: int = 0
    failures: list[str] = field(default_factory=list)
    """The first ones, with their paths."""
    actions: list[tuple[str, str]] | None = None
    """What is done to which path, as long as nobody has taken it; None: nobody asks."""

    def act(self, action: str, path: bytes) -> None:
        """Note what is done to a path: `make`, `change` or `remove`."""
        if self.actions is not None:
            self.actions.append((action, path.decode("utf-8", "backslashreplace")))

    def fail(self, path: bytes, error: Exception) -> None:
        """Note what could not be done."""
        shown = path.decode("utf-8", "backslashreplace")
        reason = as_failure(error, f"{shown}, on its way into a copy")
        self.failed_count += 1
        if len(self.failures) < FAILURES_SHOWN_MAX:
            self.failures.append(f"{shown}: {reason}")

    def report(self, *, ended: bool) -> CopyReport:
        """Return it for the control socket."""
        return {
            "ended": ended,
            "file_count": self.file_count,
            "directory_count": self.directory_count,
            "changed_count": self.changed_count,
            "equal_count": self.equal_count,
            "removed_count": self.removed_count,
            "shared_bytes": self.shared_bytes,
            "cloned_bytes": self.cloned_bytes,
            "copied_bytes": self.copied_bytes,
            "failed_count": self.failed_count,
            "failures": self.failures,
        }


class TreeCopying:
    """Makes directories equal to others.

    Args:
        changes: Makes the changes.
        parts: Engine and raw files.
        tally: Filled while it runs.
        snap: Instant of the originals.
        left_out: Names of xattrs that are not carried.
        hidden: Names of xattrs of copies that stay.
        delete: Remove what the originals do not have.
    """

    def __init__(
        self,
        changes: TreeChanges,
        parts: MoveParts,
        tally: CopyTally,
        snap: SnapshotId = NOW,
        *,
        left_out: frozenset[bytes] = frozenset(),
        hidden: tuple[bytes, ...] = (),
        delete: bool = False,
    ) -> None:
        self._changes = changes
        self._parts = parts
        self._engine = parts.engine
        self.tally = tally
        """What was done so far."""
        self._snap = snap
        self._left_out = left_out
        self._hidden = hidden
        self.delete = delete
        """Remove what the originals do not have."""
        self._linked: dict[InodeNo, InodeNo] = {}
        """Copies of originals that have several names."""
        self._taken: set[InodeNo] = set()
        """Those copies."""

    async def original(self, ino: InodeNo) -> Original:
        """Return an inode of the instant, as its copy is to be."""
        return await self._changes.original_at(self._snap, ino, self._left_out)

    async def copy_below(
        self, source: InodeNo, target: InodeNo, path: bytes
    ) -> AsyncGenerator[None, None]:
        """Make all below a directory equal to what is, or was, below another one.

        Args:
            source: A directory at the instant.
            target: A directory now.
            path: That of the target, for messages.
        """
        stack = [(source, target, path)]
        while stack:
            source, target, path = stack.pop()
            try:
                if self._snap == NOW:
                    await self._changes.list_on_demand(source)
                inode = (await self.original(source)).inode
                times = Times(inode.atime_ns, inode.mtime_ns)
                if self.delete and target > 0:
                    async with aclosing(self._remove_others(source, target, path, times)) as steps:
                        async for _ in steps:
                            yield
            except NoSpaceError:
                raise
            except Exception as error:
                self.tally.fail(path, error)
                continue
            async with aclosing(self._entries(source)) as entries:
                async for entry in entries:
                    where = b"%s/%s" % (path, entry.name)
                    try:
                        name = Name(target, entry.name)
                        if stat.S_ISDIR(entry.inode.mode):
                            made = await self._copy_directory(entry.inode.ino, name, times, where)
                            stack.append((entry.inode.ino, made, where))
                        else:
                            await self._copy_file(entry.inode.ino, name, times, where)
                    except NoSpaceError:
                        raise
                    except Exception as error:
                        self.tally.fail(where, error)
                    yield
            await self._set_times(target, times)

    async def _entries(self, directory: InodeNo) -> AsyncGenerator[DirectoryEntry, None]:
        cookie = 0
        while entries := await self._engine.list_directory_at(
            self._snap, directory, cookie, ENTRIES_A_PAGE
        ):
            for entry in entries:
                yield entry
            cookie = entries[-1].cookie

    async def _copy_directory(self, ino: InodeNo, name: Name, times: Times, path: bytes) -> InodeNo:
        original = await self.original(ino)
        found = await self._changes.find_name(name)
        if found is not None and stat.S_ISDIR(found.mode):
            await self.make_like(found, original, path)
            return found.ino
        return (await self.put_directory(original, name, times, path)).ino

    async def put_directory(
        self, original: Original, name: Name, times: Times | None, path: bytes
    ) -> Inode:
        """Make an empty directory in the place of what is no directory."""
        made = await self._changes.put_directory(original, name, times)
        self.tally.directory_count += 1
        self.tally.act("make", path)
        return made

    async def make_like(self, found: Inode, original: Original, path: bytes) -> None:
        """Give an inode the attributes of another one where they differ."""
        if await self.is_like(found, original):
            self.tally.equal_count += 1
            return
        await self._changes.set_likeness(found.ino, original, self._hidden)
        self.tally.changed_count += 1
        self.tally.act("change", path)

    async def link(
        self, ino: InodeNo, names: list[Name], times: dict[InodeNo, Times], path: bytes
    ) -> None:
        """Have names lead to an inode."""
        await self._changes.link_names(ino, names, times)
        self.tally.changed_count += 1
        self.tally.act("change", path)

    async def _copy_file(self, ino: InodeNo, name: Name, times: Times, path: bytes) -> None:
        original = await self.original(ino)
        found = await self._changes.find_name(name)
        by_parent = {name.parent: times}
        if (base := self._linked.get(ino)) is not None:
            if found is not None and found.ino == base:
                self.tally.equal_count += 1
                return
            await self.make_way(found, name, path)
            await self.link(base, [name], by_parent, path)
            return
        if (
            found is not None
            and self.may_stay(found, original)
            and await self.has_same_bytes(found, original)
        ):
            await self.make_like(found, original, path)
            self.note_linked(original, found.ino)
            return
        await self.make_way(found, name, path)
        await self.put(original, [name], by_parent, path)

    async def put(
        self,
        original: Original,
        names: list[Name],
        times: dict[InodeNo, Times],
        path: bytes,
        *,
        replace: bool = True,
    ) -> None:
        """Make a copy of what is no directory, under some names; as `TreeChanges.put_file`."""
        look = partial(self.original, original.inode.ino)
        made, copy = await self._changes.put_file(original, look, names, times, replace=replace)
        tally = self.tally
        tally.file_count += 1
        tally.act("make", path)
        if copy is None:
            tally.shared_bytes += made.size if stat.S_ISREG(made.mode) else 0
        elif copy.is_shared:
            tally.cloned_bytes += copy.size
        else:
            tally.copied_bytes += copy.size
        self.note_linked(original, made.ino)

    def may_stay(self, found: Inode, original: Original) -> bool:
        """Return whether what is there may become the copy, if its bytes are the same."""
        if found.ino == original.inode.ino:
            return True
        return found.ino not in self._taken and (found.nlink > 1) <= (original.inode.nlink > 1)

    def note_linked(self, original: Original, copy: InodeNo) -> None:
        """An original that may have other names has got its copy."""
        if original.inode.nlink > 1:
            self._linked[original.inode.ino] = copy
            self._taken.add(copy)

    async def make_way(self, found: Inode | None, name: Name, path: bytes) -> None:
        """See that no directory has a name; with `delete` one goes, with all below it."""
        if found is None or not stat.S_ISDIR(found.mode):
            return
        if not self.delete:
            raise IsADirectoryInodeError("a directory stands there; --delete removes it")
        async with aclosing(self.remove(name, path)) as steps:
            async for _ in steps:
                pass

    async def _set_times(self, directory: InodeNo, times: Times) -> None:
        """Bring back the time of a directory that was changed by something else."""
        found = await self._changes.find_inode(directory)
        if found is not None and found.mtime_ns != times.mtime_ns:
            await self._changes.set_times(directory, times)

    # --- comparing -------------------------------------------------------------------------------
    async def is_like(self, found: Inode, original: Original) -> bool:
        """Return whether an inode has the attributes and xattrs of another one."""
        if _looks(found) != _looks(original.inode):
            return False
        skipped = self._left_out.union(self._hidden)
        xattrs = await self._engine.list_xattrs_at(NOW, found.ino)
        return tuple(each for each in xattrs if each[0] not in skipped) == original.xattrs

    async def has_same_bytes(self, found: Inode, original: Original) -> bool:
        """Return whether an inode is of the type of another one, and holds the same.

        Where nothing else tells, files of the same size and time are read and compared.
        """
        inode = original.inode
        if stat.S_IFMT(found.mode) != stat.S_IFMT(inode.mode) or found.rdev != inode.rdev:
            return False
        if stat.S_ISLNK(inode.mode):
            return await self._engine.read_link(found.ino) == original.target
        if not stat.S_ISREG(inode.mode):
            return True
        if (found.flags | inode.flags) & InodeFlags.UNSEALED:
            return False
        if (found.ino, found.generation) == (inode.ino, inode.generation):
            return True
        if found.size != inode.size:
            return False
        if not inode.size or (inode.blob and found.blob == inode.blob):
            return True
        if found.mtime_ns != inode.mtime_ns or not (found.raw and inode.raw):
            return False
        store = self._parts.raw_store
        paths = (store.path(found.raw), store.path(inode.raw))
        try:
            same = await trio.to_thread.run_sync(
                equal_files,
                *paths,
                trio.from_thread.check_cancelled,
                limiter=self._parts.prompt_threads,
            )
        except ObjectMissingError:
            return False
        return same and await self._changes.find_inode(found.ino) == found

    # --- removing --------------------------------------------------------------------------------
    async def _remove_others(
        self, source: InodeNo, target: InodeNo, path: bytes, times: Times
    ) -> AsyncGenerator[None, None]:
        """Remove the names in a directory that the original has not."""
        cookie = 0
        while entries := await self._engine.list_directory(target, cookie, ENTRIES_A_PAGE):
            cookie = entries[-1].cookie
            for entry in entries:
                if await self.find_original(source, entry.name) is None:
                    where = b"%s/%s" % (path, entry.name)
                    removal = self.remove(Name(target, entry.name), where, times)
                    async with aclosing(removal) as steps:
                        async for _ in steps:
                            yield

    async def find_original(self, directory: InodeNo, name: bytes) -> Inode | None:
        """Return what a name led to at the instant; None: there was no such name."""
        return await find_at(self._engine, self._snap, directory, name)

    async def remove(
        self, name: Name, path: bytes, times: Times | None = None
    ) -> AsyncGenerator[None, None]:
        """Remove a name, and all below it.

        Args:
            name: That of a file or directory.
            path: Its path.
            times: Those of its directory afterwards.
        """
        stack = [name]
        self.tally.act("remove", path)
        if self._changes.is_planned:
            self.tally.removed_count += 1
            return
        while stack:
            top = stack[-1]
            found = await self._changes.find_name(top)
            entries = []
            if found is not None and stat.S_ISDIR(found.mode):
                entries = await self._engine.list_directory(found.ino, 0, ENTRIES_A_PAGE)
            if not entries:
                stack.pop()
                if found is not None:
                    try:
                        await self._changes.remove_name(top, None if stack else times)
                    except DirectoryNotEmptyError:
                        # Something was put there meanwhile.
                        stack.append(top)
                        continue
                    self.tally.removed_count += 1
                yield
            for entry in entries:
                assert found is not None
                stack.append(Name(found.ino, entry.name))


async def find_at(
    engine: Snapshots, snap: SnapshotId, directory: InodeNo, name: bytes
) -> Inode | None:
    """Return what a name led to at an instant; None: there was no such name."""
    try:
        return await engine.lookup_at(snap, directory, name)
    except NotFoundError:
        return None


def _looks(inode: Inode) -> tuple[int, ...]:
    return (inode.mode, inode.uid, inode.gid, inode.rdev, inode.mtime_ns)
