"""Tree changes: what commands of memfs do to names, and no program has asked the kernel for.

A file gets a new inode without a name, with its attributes and its bytes, and then its names. All
of it is one change of the engine: each name leads to the former file or to the new one. A program
that has the former one open keeps it, as after rename(2).

Invariant: the kernel is told of each name and inode that was changed behind its back.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from memfs.content.invalidations import Aspect
from memfs.content.past import PastReader, PastState
from memfs.errors import (
    AlreadyExistsError,
    IsADirectoryInodeError,
    NotFoundError,
    NotKeptError,
    ObjectMissingError,
    StaleInodeError,
    StoreError,
)
from memfs.filesystem.xattrs import XattrRequests
from memfs.linux.times import storable_ns
from memfs.metadata.foreign import Conflict
from memfs.metadata.records import AttributeChanges, Inode, InodeFlags, NewInode
from memfs.moves.attempt import sources_of
from memfs.moves.copying import copied
from memfs.types import NO_RAW, NOW, Generation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from memfs.filesystem.shared import Parts
    from memfs.moves.copying import RawCopy
    from memfs.types import InodeNo, IntentId, SnapshotId

ATTEMPTS_MAX = 8
"""How often a file is looked at anew that changes while it is copied."""

FIRST_GENERATION = Generation(1)
"""That of a new inode."""

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # linux/fs.h


class Name(NamedTuple):
    """A name in a directory."""

    parent: InodeNo
    name: bytes


class Original(NamedTuple):
    """What an inode is made like."""

    inode: Inode
    """With its bytes: a blob, or else a raw file; with neither it is empty."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes = b""
    """That of a symlink."""
    is_fixed: bool = False
    """Nothing changes its bytes: a snapshot alone has them."""


class Times(NamedTuple):
    """Those that a directory is to have after a change of its names."""

    atime_ns: int
    mtime_ns: int


class _MovedOnError(Exception):
    """The bytes of an original are elsewhere by now."""


class TreeChanges(XattrRequests):
    """Changes of the tree on behalf of commands; each is made whole or not at all, and committed.

    All raise `MemfsError`, and `StaleInodeError` where an inode has gone meanwhile.
    """

    is_planned = False
    """Nothing is changed in truth; see `planned_changes`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._past = PastReader(parts.engine, parts.raw_store, parts.sealer, parts.form_reader)

    async def put_file(
        self,
        original: Original,
        look: Callable[[], Awaitable[Original]],
        names: Sequence[Name],
        times: Mapping[InodeNo, Times],
        *,
        replace: bool = True,
    ) -> tuple[Inode, RawCopy | None]:
        """Make an inode of any type but a directory, and have names lead to it.

        It shares the blob of the original. Where that has no blob, its raw file is copied.

        Checkpoint: always. Cancel: safe.

        Args:
            original: What it is made like.
            look: Returns the original as it is by now: its bytes may have moved meanwhile.
            names: All of them new, or names of something that is no directory.
            times: What the directories of the names get; those left out get the present time.
            replace: The names may be taken.

        Returns:
            The inode, and the copy that was made of a raw file.

        Raises:
            IsADirectoryInodeError: A directory has one of the names.
            AlreadyExistsError: One of them is taken, and must not be.
            NoSpaceError: The disk is full.
        """
        for _ in range(ATTEMPTS_MAX):
            inode = original.inode
            try:
                if inode.raw and not inode.blob:
                    return await self._put_copy(look, original, names, times, replace=replace)
                async with self._engine.change():
                    made = await self._put(original, names, times, None, None, replace=replace)
                return self._put_down(made, names), None
            except _MovedOnError:
                original = await look()
            except ObjectMissingError:
                original = await look()
                if original.inode == inode:
                    raise
        raise StoreError(f"inode {inode.ino}: it changed again and again while it was copied")

    async def _put_copy(
        self,
        look: Callable[[], Awaitable[Original]],
        original: Original,
        names: Sequence[Name],
        times: Mapping[InodeNo, Times],
        *,
        replace: bool,
    ) -> tuple[Inode, RawCopy]:
        inode = original.inode
        async with copied(self._move_parts, inode) as (attempt, copy):
            may_change = not original.is_fixed and not inode.flags & InodeFlags.UNSEALED
            if may_change and not _has_same_bytes(inode, await look()):
                raise _MovedOnError

            async def publish(intent: IntentId) -> tuple[Inode, list[Inode]]:
                return await self._put(original, names, times, copy, intent, replace=replace)

            made = await attempt.publish(publish)
        return self._put_down(made, names), copy

    async def _put(
        self,
        original: Original,
        names: Sequence[Name],
        times: Mapping[InodeNo, Times],
        copy: RawCopy | None,
        intent: IntentId | None,
        *,
        replace: bool,
    ) -> tuple[Inode, list[Inode]]:
        """Make an inode and give it its names, within a change.

        Returns:
            The inode, and those that have lost a name to it.
        """
        engine, inode, now_ns = self._engine, original.inode, self._now_ns()
        ino = self._reserve_ino()
        await engine.create_orphan(
            NewInode(
                *(ino, inode.mode, inode.uid, inode.gid, now_ns, inode.rdev, NO_RAW),
                original.target,
                original.xattrs,
            )
        )
        size, blocks, mtime_ns = inode.size, inode.blocks, inode.mtime_ns
        if copy is not None:
            assert intent is not None
            size, blocks, mtime_ns = copy.size, copy.blocks, copy.mtime_ns
            await engine.publish_raw(ino, FIRST_GENERATION, copy.raw, blocks, intent)
        else:
            if inode.blob and not await engine.share_blob(ino, FIRST_GENERATION, inode.blob):
                raise _MovedOnError
            await self._share_object(inode, ino)
        changes = AttributeChanges(
            size=size, blocks=blocks, atime_ns=inode.atime_ns, mtime_ns=mtime_ns
        )
        await engine.set_attributes(ino, changes)
        replaced = await self._lead(names, ino, now_ns, replace=replace)
        if copy is not None and replaced:
            # As with rename(2): its bytes must not be later on the disk than its name.
            self._syncer.add(copy.raw)
        await self._set_times(names, times)
        return await engine.get_inode(ino), replaced

    async def _share_object(self, inode: Inode, ino: InodeNo) -> None:
        """Have a copy stand for the object that the original stands for; no listing follows it."""
        foreign = await self._engine.get_object(inode.ino)
        if foreign is not None and foreign.generation == inode.generation:
            shared = foreign._replace(ino=ino, generation=FIRST_GENERATION, ours=False)
            shared = shared._replace(current=False, conflict=Conflict.NONE)
            await self._engine.attach_object(shared)

    async def _lead(
        self, names: Sequence[Name], ino: InodeNo, now_ns: int, *, replace: bool = True
    ) -> list[Inode]:
        """Have names lead to an inode, within a change; return what they led to, after it."""
        replaced = []
        for name in names:
            found = await self._engine.find(*name)
            if found is not None:
                if found.ino == ino:
                    continue
                if stat.S_ISDIR(found.mode):
                    raise IsADirectoryInodeError(f"{os.fsdecode(name.name)} is a directory")
                if not replace:
                    raise AlreadyExistsError(f"{os.fsdecode(name.name)} exists")
                replaced.append(await self._engine.unlink(*name, now_ns))
            await self._engine.link(ino, *name, now_ns)
        return replaced

    async def _set_times(self, names: Sequence[Name], times: Mapping[InodeNo, Times]) -> None:
        for parent in {name.parent for name in names} & times.keys():
            changes = AttributeChanges(
                atime_ns=times[parent].atime_ns, mtime_ns=times[parent].mtime_ns
            )
            await self._engine.set_attributes(parent, changes)

    def _put_down(
        self, made: tuple[Inode, list[Inode]], names: Sequence[Name], *, is_new: bool = True
    ) -> Inode:
        """Tell everybody of an inode that has got names."""
        inode, replaced = made
        # The mover gives way as to a program, which would have made requests for it.
        self._activity.request_count += 1
        for name in names:
            if is_new:
                # As where a program makes a file: the mover sees it by its seal.
                self.invalidations.note_new(*name)
            else:
                self.invalidations.note_name(*name, inode.ino)
        for former in replaced:
            self._leave(former)
        if stat.S_ISREG(inode.mode):
            self._activity.note_sealed(inode.ino)
        return inode

    def _leave(self, former: Inode) -> None:
        """An inode has lost a name: it goes once nobody holds it, the kernel among others."""
        self._activity.changes.note(former.ino)
        if former.nlink and not stat.S_ISDIR(former.mode):
            self.invalidations.note_inode(former.ino, Aspect.ATTRIBUTES | Aspect.POLICY)
            return
        self.invalidations.note_inode(former.ino, Aspect.ATTRIBUTES)
        self._note_orphan(former, promptly=False)
        self._kernel_cache.forget_unknown(former.ino, lambda: self.forget([former.ino]))

    async def link_names(
        self, ino: InodeNo, names: Sequence[Name], times: Mapping[InodeNo, Times]
    ) -> Inode:
        """Have further names lead to an inode that is no directory; as `put_file`."""
        now_ns = self._now_ns()
        async with self._engine.change():
            replaced = await self._lead(names, ino, now_ns)
            await self._set_times(names, times)
            inode = await self._engine.get_inode(ino)
        self._orphans.pop(ino, None)
        return self._put_down((inode, replaced), names, is_new=False)

    async def put_directory(self, original: Original, name: Name, times: Times | None) -> Inode:
        """Make an empty directory; what has the name goes, if it is no directory.

        Args:
            original: Attributes and xattrs.
            name: That of the directory.
            times: Those of its parent; None: the present time.

        Raises:
            AlreadyExistsError: A directory has the name.
        """
        inode, now_ns = original.inode, self._now_ns()
        ino = self._reserve_ino()
        new = NewInode(ino, inode.mode, inode.uid, inode.gid, now_ns, xattrs=original.xattrs)
        replaced = None
        async with self._engine.change():
            found = await self._engine.find(*name)
            if found is not None:
                if stat.S_ISDIR(found.mode):
                    raise AlreadyExistsError(f"{os.fsdecode(name.name)} is a directory")
                replaced = await self._engine.unlink(*name, now_ns)
            await self._engine.create(*name, new)
            own = AttributeChanges(atime_ns=inode.atime_ns, mtime_ns=inode.mtime_ns)
            made = await self._engine.set_attributes(ino, own)
            if times is not None:
                await self._set_times([name], {name.parent: times})
        return self._put_down((made, [replaced] if replaced else []), [name])

    async def set_likeness(
        self, ino: InodeNo, original: Original, hidden: tuple[bytes, ...] = ()
    ) -> Inode:
        """Give an inode mode, owner, times and xattrs of another one; its bytes stay.

        Args:
            ino: The inode.
            original: What it is to be like.
            hidden: Xattrs that stay as they are.
        """
        inode = original.inode
        if stat.S_ISREG(inode.mode):
            await self._sound(ino)
        async with self._open_table.gates.hold(ino), self._engine.change():
            now = await self._engine.get_inode(ino)
            time_ns, mtime_ns = self._next_ctime_ns(self._live(now)), inode.mtime_ns
            if now.raw:
                stored = self._set_raw_times(now.raw, inode.atime_ns, mtime_ns)
                mtime_ns = storable_ns(stored.st_mtime_ns)
            self._atimes.pop(ino, None)
            present = dict(await self._engine.list_xattrs_at(NOW, ino))
            wanted = dict(original.xattrs)
            gone = present.keys() - wanted.keys() - set(hidden)
            xattrs: list[tuple[bytes, bytes | None]] = [(name, None) for name in gone]
            xattrs += [each for each in wanted.items() if present.get(each[0]) != each[1]]
            if xattrs:
                # At once: there is room for all of them, and not for what comes between.
                await self._engine.set_mode_and_xattrs(ino, None, xattrs, time_ns)
            after = await self._engine.set_attributes(
                ino,
                AttributeChanges(
                    mode=inode.mode & 0o7777,
                    uid=inode.uid,
                    gid=inode.gid,
                    atime_ns=inode.atime_ns,
                    mtime_ns=mtime_ns,
                    ctime_ns=time_ns,
                ),
            )
        self.invalidations.note_inode(ino, Aspect.ATTRIBUTES | Aspect.XATTRS | Aspect.POLICY)
        return after

    async def move_name(self, name: Name, place: Name, times: Mapping[InodeNo, Times]) -> None:
        """Give what has a name another one.

        Args:
            name: The former one.
            place: The new one.
            times: What the directories of both get; those left out get the present time.

        Raises:
            AlreadyExistsError: Something has that name.
        """
        async with self._engine.change():
            result = await self._engine.rename(*name, *place, RENAME_NOREPLACE, self._now_ns())
            await self._set_times([name, place], times)
        self.invalidations.note_removed(*name, result.moved.ino, last=False)
        self.invalidations.note_name(*place, result.moved.ino)

    async def set_times(self, directory: InodeNo, times: Times) -> None:
        """Give a directory times; that of its change is the present."""
        async with self._open_table.gates.hold(directory), self._engine.change():
            now = await self._engine.get_inode(directory)
            ctime_ns = self._next_ctime_ns(now)
            self._atimes.pop(directory, None)
            changes = AttributeChanges(
                atime_ns=times.atime_ns, mtime_ns=times.mtime_ns, ctime_ns=ctime_ns
            )
            await self._engine.set_attributes(directory, changes)
        self.invalidations.note_inode(directory, Aspect.ATTRIBUTES)

    async def remove_name(self, name: Name, times: Times | None = None) -> bool:
        """Remove a name of a file, or that of an empty directory.

        Args:
            name: What goes.
            times: Those of its directory; None: the present time.

        Returns:
            False if there is no such name.

        Raises:
            DirectoryNotEmptyError: It is a directory with names in it.
        """
        now_ns = self._now_ns()
        async with self._engine.change():
            found = await self._engine.find(*name)
            if found is None:
                return False
            is_directory = stat.S_ISDIR(found.mode)
            remove = self._engine.rmdir if is_directory else self._engine.unlink
            removed = await remove(*name, now_ns)
            if times is not None:
                await self._set_times([name], {name.parent: times})
        self.invalidations.note_removed(*name, removed.ino, last=not removed.nlink)
        self._leave(removed)
        return True

    async def move_into_place(
        self, name: Name, place: Name, mark: bytes, *, exchange: bool
    ) -> None:
        """Give what was built under one name another one, and take the mark of building from it.

        Args:
            name: What was built.
            place: The name that it gets.
            mark: An xattr of what was built.
            exchange: Something has that name: the names are exchanged, and the mark as well.

        Raises:
            AlreadyExistsError: Something has that name, and they are not to be exchanged.
            NotFoundError: Nothing has it, and they are.
        """
        now_ns = self._now_ns()
        flags = RENAME_EXCHANGE if exchange else RENAME_NOREPLACE
        async with self._engine.change():
            built = await self._engine.lookup(*name)
            value = await self._engine.get_xattr(built.ino, mark)
            result = await self._engine.rename(*name, *place, flags, now_ns)
            await self._engine.remove_xattr(built.ino, mark, now_ns)
            if result.replaced is not None:
                await self._engine.set_xattr(result.replaced.ino, mark, value, 0, now_ns)
        is_elsewhere = name.parent != place.parent
        self.invalidations.note_name(*place, built.ino, inherits=is_elsewhere)
        if result.replaced is not None:
            self.invalidations.note_name(*name, result.replaced.ino, inherits=is_elsewhere)
        else:
            self.invalidations.note_removed(*name, built.ino, last=False, inherits=is_elsewhere)
        await self._kernel_cache.wait_told()

    async def wait_told(self) -> None:
        """Return when the kernel knows of all changes so far."""
        await self._kernel_cache.wait_told()

    async def original_at(
        self, snap: SnapshotId, ino: InodeNo, left_out: frozenset[bytes] = frozenset()
    ) -> Original:
        """Return what an inode was like at an instant, or is like now.

        Args:
            snap: A snapshot, or `NOW`: then a file that nobody writes to is sealed first.
            ino: Its number.
            left_out: Names of xattrs that do not count.

        Raises:
            StaleInodeError: It did not exist.
            NotKeptError: Nothing has its bytes any longer.
            CorruptDataError: Its raw file was changed while it was not mounted.
            StoreError: The source that has its bytes does not answer.
        """
        engine = self._engine
        if snap == NOW:
            await self._sealer.seal(ino)
        inode = await engine.inode_at(snap, ino)
        is_fixed = False
        if stat.S_ISREG(inode.mode):
            content = await self._past.sound(await self._past.find_of(inode))
            inode, is_fixed = content.inode, not content.is_shared
            if content.state is PastState.OPEN:
                inode = inode._replace(flags=InodeFlags.UNSEALED)
            if snap != NOW and inode.size and not (inode.raw or inode.blob):
                await self._see_object(inode)
        xattrs = await engine.list_xattrs_at(snap, ino)
        target = await engine.read_link_at(snap, ino) if stat.S_ISLNK(inode.mode) else b""
        wanted = tuple((name, value) for name, value in xattrs if name not in left_out)
        return Original(inode, wanted, target, is_fixed)

    async def _see_object(self, inode: Inode) -> None:
        """See that a source still has the object whose bytes a file had as of a snapshot.

        The object of the file of now is not asked for: its readers find out what became of it.
        """
        known = await self._engine.get_object(inode.ino)
        if known is not None and known.current and known.generation == inode.generation:
            return
        for form in await self._engine.list_all_forms(inode):
            if not form.is_foreign:
                continue
            difference = await sources_of(self._move_parts).difference_of_form(form)
            if difference is not None:
                raise NotKeptError(
                    f"inode {inode.ino}: its bytes are gone from their source: {difference}"
                )

    async def list_on_demand(self, ino: InodeNo) -> None:
        """Have a directory listed that a source has, and that nobody has looked into yet.

        Raises:
            StoreError: The source does not answer.
        """

    async def find_inode(self, ino: InodeNo) -> Inode | None:
        """Return an inode as it is; None: it is gone."""
        try:
            return await self._engine.get_inode(ino)
        except StaleInodeError:
            return None

    async def find_name(self, name: Name) -> Inode | None:
        """Return what a name leads to; None: there is no such name, or no such directory."""
        try:
            return await self._engine.find(*name)
        except (NotFoundError, StaleInodeError):
            return None


def _has_same_bytes(inode: Inode, later: Original) -> bool:
    """Return whether a raw file had all the time what an inode had before it was copied."""
    now = later.inode
    is_open = now.flags & InodeFlags.UNSEALED
    return (now.raw, now.generation) == (inode.raw, inode.generation) and not is_open
