"""Foreign changes: files that are made of objects, and follow them.

Invariant: a file whose object has changed gets another inode, which takes its names in one change
of the engine. What was written here is never replaced, and never removed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.content.invalidations import Aspect
from memfs.errors import (
    DirectoryNotEmptyError,
    FilesOpenError,
    MemfsError,
    NotKeptError,
    ObjectChangedError,
    ObjectMissingError,
    StaleInodeError,
    StoreError,
)
from memfs.filesystem.object_names import names_of_key
from memfs.filesystem.small_files import SmallFiles
from memfs.filesystem.tree_changes import FIRST_GENERATION, Name
from memfs.keyed_lock import KeyedLock
from memfs.metadata.foreign import AdoptedFile, Conflict, ForeignDirectory, ForeignObject
from memfs.metadata.records import AttributeChanges, InodeFlags, NewInode
from memfs.metrics.traffic import Level
from memfs.moves.attempt import sources_of
from memfs.namespace.xattrs import USER_PREFIX, XATTRS_BYTES_MAX, is_users
from memfs.stores.source import SourceObject
from memfs.types import (
    BLOCK_BYTES,
    NAME_BYTES_MAX,
    NO_INODE,
    NOW,
    ROOT_INODE,
    XATTR_VALUE_BYTES_MAX,
    Generation,
    InodeNo,
    Tier,
)
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.content.opening import Handle
    from memfs.filesystem.operations import Caller
    from memfs.filesystem.replies import Opened
    from memfs.filesystem.shared import Parts
    from memfs.metadata.foreign import Source
    from memfs.metadata.records import Inode
    from memfs.stores.source import LocalFile
    from memfs.types import SourceId

log = logging.getLogger(__name__)

OBJECT_SUFFIX = b".~object"
"""Behind the name of a file whose key is the name of a directory too."""

NO_GENERATION = Generation(0)


_CONFLICT_WORDS = {
    Conflict.CHANGED: "written here, and its object was changed too",
    Conflict.GONE: "its object is gone",
    Conflict.TAKEN: "it has the name of an object, which is no file therefore",
}


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class Likeness(NamedTuple):
    """What adopted files and directories look like."""

    mode: int
    """Permission bits of files; directories can be searched by who may read them."""
    uid: int
    gid: int
    keeps_own: bool = False
    """What the source tells of a file counts instead, where it tells it."""
    takes_metadata: bool = False
    """Content type and metadata of objects become xattrs."""

    def of(self, found: SourceObject) -> Likeness:
        """Return that of an object."""
        own = found.attributes if self.keeps_own else None
        if own is None:
            return self
        return self._replace(mode=stat.S_IMODE(own.mode), uid=own.uid, gid=own.gid)


HEAD_OPTION = "head"
"""Among the options of a source: objects are looked at for what a listing does not tell."""

CONTENT_TYPE_XATTR = b"user.mime_type"
"""As file managers and web servers know it (freedesktop.org, common extended attributes)."""

_OWN_METADATA = (b"user.memfs-token", b"user.memfs_token", b"user.is_directory")
"""The mark of published objects (`stores.publishing`), and what adlfs writes."""

_UNKNOWN_TYPES = ("application/octet-stream", "binary/octet-stream")
"""What stores tell of objects whose writer has said nothing."""

FILE_MODE = 0o644
"""That of adopted files by default."""


class NewObject(NamedTuple):
    """An object that is to become a file."""

    names: tuple[bytes, ...]
    """Those of its path below the root of the source, at least one."""
    found: SourceObject
    is_directory: bool = False
    """It stands for a directory, as consoles make them: `dir/`."""


class Adopted(NamedTuple):
    """What became of some objects."""

    file_count: int
    directory_count: int
    renamed: tuple[str, ...]
    """Keys whose file has another name, since a directory has theirs."""
    refused: tuple[str, ...]
    """Keys without a file: something of memfs's own has the name."""


class _InTheWayError(Exception):
    """A file of memfs's own has the name of a directory."""


def foreign_of(
    source: SourceId, found: SourceObject, ino: InodeNo = NO_INODE, *, now_ns: int
) -> ForeignObject:
    """Return the row of an object that was listed just now."""
    return ForeignObject(
        ino=ino,
        generation=FIRST_GENERATION,
        source=source,
        key=found.order,
        etag=found.etag,
        version=found.version,
        size=found.size,
        mtime_ns=found.mtime_ns,
        digest=None,
        checked_ns=now_ns,
        ours=False,
        current=True,
        conflict=Conflict.NONE,
    )


def is_same(known: ForeignObject, found: SourceObject) -> bool:
    """Return whether an object is the one that a file was made of."""
    return (known.etag, known.version, known.size) == (found.etag, found.version, found.size)


def xattrs_of(found: SourceObject) -> tuple[tuple[bytes, bytes], ...]:
    """Return the xattrs that stand for content type and metadata of an object.

    Left out is what no file can have, names of memfs's own and what is too long, what memfs and the
    libraries of stores keep there for themselves, and what there is no room for.
    """
    told = [(CONTENT_TYPE_XATTR, found.content_type.encode())] if found.content_type else []
    told += [
        (b"user." + name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "replace"))
        for name, value in found.metadata
    ]
    kept: list[tuple[bytes, bytes]] = []
    left_bytes = XATTRS_BYTES_MAX
    for name, value in dict(told).items():
        if (
            name != USER_PREFIX
            and len(name) <= NAME_BYTES_MAX
            and b"\0" not in name
            and len(value) <= XATTR_VALUE_BYTES_MAX
            and is_users(name)
            and name not in _OWN_METADATA
            and len(name) + len(value) <= left_bytes
        ):
            kept.append((name, value))
            left_bytes -= len(name) + len(value)
    return tuple(kept)


def object_of(known: ForeignObject) -> SourceObject:
    """Return the object that a file was made of, as it was listed."""
    return SourceObject(known.name, known.size, known.etag, known.mtime_ns, known.version)


class ForeignChanges(SmallFiles):
    """Changes on behalf of sources, and requests that meet an object which has changed."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._looking: KeyedLock[InodeNo] = KeyedLock()

    # --- requests --------------------------------------------------------------------------------
    async def open(
        self,
        caller: Caller,
        ino: InodeNo,
        flags: int,
        kill_suidgid: bool = False,
        node: InodeNo | None = None,
    ) -> Opened:
        """OPEN; ESTALE has the kernel look the name up again, which leads to what is there now."""
        known = await self._engine.get_object(ino)
        if known is not None and known.conflict and not known.current:
            # The kernel has not heard yet that the name leads elsewhere.
            raise ObjectChangedError(f"inode {ino}: {known.name} has another file by now")
        try:
            opened = await super().open(caller, ino, flags, kill_suidgid, node)
        except (ObjectChangedError, ObjectMissingError) as error:
            await self._look_for_names(ino, error)
            raise
        await self.take_told()
        return opened

    async def _level_of(self, inode: Inode) -> Level:
        """Return where a regular file is read from now: what lies on this machine is cold."""
        level, sources = await super()._level_of(inode), self._move_parts.sources
        if level is not Level.GLACIER or sources is None:
            return level
        known = await self._engine.get_object(inode.ino)
        if known is None or known.generation != inode.generation:
            return level
        return Level.COLD if await sources.is_here(known.source) else level

    async def _open_reference(self, inode: Inode) -> LocalFile | None:
        """Open the file of this machine that an inode refers to, if the kernel is to read it.

        Raises:
            ObjectChangedError, ObjectMissingError: It is another one by now.
        """
        known = await self._engine.get_object(inode.ino)
        if known is None or not known.current or known.generation != inode.generation:
            return None
        if not self._open_table.passthrough:
            return None
        await leave()
        store = await sources_of(self._move_parts).store_of(known.source)
        if store.local_path(known.name) is None:
            return None
        return await store.open_local(object_of(known))

    async def _part_from_readers(self, ino: InodeNo) -> None:
        """Give the names of a file to another inode: its readers never see what is written.

        Raises:
            ObjectChangedError: That was done.
            FilesOpenError: It is memfs's own by now, and its readers have what it was made of open.
        """
        known = await self._engine.get_object(ino)
        if known is None or not await self.replace_object(known, object_of(known)):
            raise FilesOpenError(
                f"inode {ino}: programs have the file open that it was made of; once they close "
                "it, it can be written"
            )
        raise ObjectChangedError(
            f"inode {ino}: its readers keep the file that it refers to; its name leads to another "
            "one, which can be written"
        )

    async def read(self, ino: InodeNo, handle: Handle, offset: int, size: int) -> bytes | bytearray:
        """READ; the name leads to what is there now before this is answered with ESTALE."""
        try:
            data = await super().read(ino, handle, offset, size)
        except (ObjectChangedError, ObjectMissingError) as error:
            await self._look_for_names(ino, error)
            raise
        await self.take_told()
        return data

    async def take_told(self) -> None:
        """Have files get what their objects have told with their first bytes, as xattrs.

        What a file has of these names stays. A failure is no failure of the request.
        """
        sources = self._move_parts.sources
        if sources is None or not sources.has_told:
            return
        for source, told in sources.take_told():
            try:
                async with self._engine.change(deferred=True):
                    await self._set_told(source, told)
            except (MemfsError, OSError) as error:
                log.info("%s: its content type is not kept: %s", told.key, error)

    async def _set_told(self, source: SourceId, told: SourceObject) -> None:
        engine = self._engine
        known = await engine.find_object(source, told.order)
        if known is None or not is_same(known, told):
            return
        inode = await engine.get_inode(known.ino)
        if inode.generation != known.generation or inode.flags & InodeFlags.UNSEALED:
            return
        if await engine.find_frozen(known.ino) is not None:
            return
        if told.content_type in _UNKNOWN_TYPES:
            told = told._replace(content_type="")
        there = await engine.list_xattrs(known.ino)
        for name, value in xattrs_of(told):
            if name not in there:
                time_ns = self._next_ctime_ns(self._live(inode))
                await engine.set_xattr(known.ino, name, value, os.XATTR_CREATE, time_ns)

    async def _look_for_names(self, ino: InodeNo, error: MemfsError) -> None:
        """Have the names of a file lead to the object that is there, if it was made of one.

        Raises:
            NotKeptError: It was not: a clone, or a restored file, shares the bytes of an object.
                ESTALE would have programs look up the same file again.
        """
        known = await self._engine.get_object(ino)
        has_key = known is not None and bool(known.current or known.conflict)
        if isinstance(error, ObjectChangedError) and not has_key:
            told = f"inode {ino}: its bytes are gone from their source: {error}"
            raise NotKeptError(told) from error
        await self.look_again(ino, error)

    async def look_again(self, ino: InodeNo, error: Exception) -> None:
        """An object is not what a file was made of: have the names lead to the one that is there.

        Args:
            ino: The file.
            error: What was found; it is not raised here.
        """
        async with self._looking.hold(ino):
            known = await self._engine.get_object(ino)
            if known is None or not known.current:
                return
            if (tree := await self._engine.find_frozen(ino)) is not None:
                path = os.fsdecode(await self._engine.get_path(tree.ino))
                raise StoreError(
                    f"inode {ino}: its object was changed in its source, and {path} is frozen: "
                    "what is there now is taken after `memfs thaw` and `memfs adopt --refresh`"
                ) from error
            store = await sources_of(self._move_parts).store_of(known.source)
            try:
                found = await store.look_at(known.name)
            except ObjectMissingError:
                await self.note_conflict(known, Conflict.GONE)
                return
            if not is_same(known, found) and isinstance(error, ObjectChangedError):
                await self.replace_object(known, found)

    # --- new objects -----------------------------------------------------------------------------
    async def likeness_of(self, source: Source) -> Likeness:
        """Return what new files of a source look like; `StaleInodeError` if its root is gone."""
        told: dict[str, Any] = json.loads(source.options)
        root = await self._engine.get_inode(source.root)
        return Likeness(
            told.get("mode", FILE_MODE),
            told.get("uid", root.uid),
            told.get("gid", root.gid),
            keeps_own=not told.keys() & {"mode", "uid", "gid"},
            takes_metadata=bool(told.get(HEAD_OPTION)),
        )

    async def adopt_objects(
        self,
        source: SourceId,
        root: InodeNo,
        objects: Sequence[NewObject],
        like: Likeness,
        directories: dict[tuple[bytes, ...], InodeNo],
        unlisted: ForeignDirectory | None = None,
        *,
        unseen: bool = False,
    ) -> Adopted:
        """Make files of objects in one change, and the directories on their way.

        Args:
            source: Theirs.
            root: The directory that they are below.
            objects: Not known yet.
            like: How what is made looks.
            directories: Inodes by path that earlier calls have found; filled.
            unlisted: What `root` stands for, if these are the objects in it alone: those that
                stand for directories do so for what was not listed yet.
            unseen: No program has been told so far what is in `root`.

        Raises:
            StaleInodeError, NotFoundError: A directory was removed meanwhile: `directories` is to
                be begun anew.
        """
        now_ns = self._now_ns()
        told: list[tuple[InodeNo, bytes]] = []
        renamed: list[str] = []
        refused: list[str] = []
        made_count = directory_count = 0
        fresh: set[InodeNo] = set()
        if unseen:
            fresh.add(root)
        async with self._engine.change():
            files: list[AdoptedFile] = []
            for each in objects:
                above = each.names if each.is_directory else each.names[:-1]
                before = len(told)
                try:
                    key = b"" if unlisted is not None else each.found.order
                    parent = await self._directory(
                        source, root, above, key, like, directories, told, fresh
                    )
                    if each.is_directory and len(told) > before:
                        await self._set_directory_mode(parent, each, like)
                    if each.is_directory and unlisted is not None:
                        await self._engine.add_directory(
                            ForeignDirectory(parent, source, each.found.order, 0)
                        )
                except _InTheWayError:
                    refused.append(each.found.key)
                    continue
                directory_count += len(told) - before
                if each.found.attributes is not None and each.found.attributes.target:
                    made_count += await self._make_symlink(parent, each, like, told)
                elif not each.is_directory:
                    files.append(self._file_of(source, parent, each, like, now_ns))
            made = await self._engine.adopt_files(files)
            for file, was_made in zip(files, made, strict=True):
                if was_made:
                    made_count += 1
                    told.append((file.parent, file.name))
                elif name := await self._adopt_beside(file):
                    renamed.append(file.foreign.name)
                    made_count += 1
                    told.append((file.parent, name))
                elif await self._engine.find_object(source, file.foreign.key) is None:
                    refused.append(file.foreign.name)
                    await self._note_taken(file)
        self._activity.request_count += 1
        # Nobody has looked into a directory that was made by this change.
        for parent, name in told:
            if parent not in fresh:
                self._kernel_cache.forget_name(parent, name)
        for parent in {parent for parent, _ in told} - (fresh - {root}):
            self.invalidations.note_inode(parent, Aspect.ATTRIBUTES)
        return Adopted(made_count, directory_count, tuple(renamed), tuple(refused))

    def _file_of(
        self, source: SourceId, parent: InodeNo, each: NewObject, like: Likeness, now_ns: int
    ) -> AdoptedFile:
        ino, like = self._reserve_ino(), like.of(each.found)
        xattrs = xattrs_of(each.found) if like.takes_metadata else ()
        mode = stat.S_IFREG | like.mode
        new = NewInode(ino, mode, like.uid, like.gid, now_ns, xattrs=xattrs)
        foreign = foreign_of(source, each.found, ino, now_ns=now_ns)
        return AdoptedFile(parent, each.names[-1], new, foreign)

    async def _set_directory_mode(self, ino: InodeNo, each: NewObject, like: Likeness) -> None:
        own = each.found.attributes
        if own is not None and like.keeps_own:
            changes = AttributeChanges(mode=stat.S_IMODE(own.mode), uid=own.uid, gid=own.gid)
            await self._engine.set_attributes(ino, changes)

    async def _make_symlink(
        self, parent: InodeNo, each: NewObject, like: Likeness, told: list[tuple[InodeNo, bytes]]
    ) -> int:
        """Make a symlink; 0: its name is taken, by itself as a rule."""
        own, name = each.found.attributes, each.names[-1]
        assert own is not None
        if await self._engine.find(parent, name) is not None:
            return 0
        uid, gid = (own.uid, own.gid) if like.keeps_own else (like.uid, like.gid)
        mode, ino, now_ns = stat.S_IFLNK | 0o777, self._reserve_ino(), self._now_ns()
        new = NewInode(ino, mode, uid, gid, now_ns, target=own.target)
        await self._engine.create(parent, name, new)
        told.append((parent, name))
        return 1

    async def _directory(
        self,
        source: SourceId,
        root: InodeNo,
        names: tuple[bytes, ...],
        key: bytes,
        like: Likeness,
        known: dict[tuple[bytes, ...], InodeNo],
        told: list[tuple[InodeNo, bytes]],
        fresh: set[InodeNo],
    ) -> InodeNo:
        """Return the directory of a path, made with those above it where they are missing."""
        if not names:
            return root
        if (ino := known.get(names)) is not None:
            return ino
        if key:
            # It may have another name here, and nobody may have looked into it yet.
            prefix = b"/".join(key.split(b"/")[: len(names)]) + b"/"
            if (stands := await self._engine.find_directory(source, prefix)) is not None:
                known[names] = stands.ino
                return stands.ino
        parent = await self._directory(source, root, names[:-1], key, like, known, told, fresh)
        name = names[-1]
        found = await self._engine.find(parent, name)
        if found is not None and not stat.S_ISDIR(found.mode):
            foreign = await self._engine.get_object(found.ino)
            if foreign is None or foreign.source != source or not foreign.current:
                raise _InTheWayError
            if await self._engine.find(parent, name + OBJECT_SUFFIX) is not None:
                raise _InTheWayError
            now_ns = self._now_ns()
            await self._engine.rename(parent, name, parent, name + OBJECT_SUFFIX, 1, now_ns)
            told.append((parent, name + OBJECT_SUFFIX))
            found = None
        if found is None:
            mode = stat.S_IFDIR | like.mode | (like.mode & 0o444) >> 2
            new = NewInode(self._reserve_ino(), mode, like.uid, like.gid, self._now_ns())
            found = await self._engine.create(parent, name, new)
            told.append((parent, name))
            fresh.add(found.ino)
        known[names] = found.ino
        return found.ino

    async def _adopt_beside(self, file: AdoptedFile) -> bytes:
        """Make a file whose name a directory has, under another one; empty: no directory has it."""
        there = await self._engine.find(file.parent, file.name)
        if there is None or not stat.S_ISDIR(there.mode):
            return b""
        name = file.name + OBJECT_SUFFIX
        [was_made] = await self._engine.adopt_files([file._replace(name=name)])
        return name if was_made else b""

    async def _note_taken(self, file: AdoptedFile) -> None:
        """A file of memfs's own has the name of an object: have it, and later listings, know."""
        there = await self._engine.find(file.parent, file.name)
        if there is None or not stat.S_ISREG(there.mode):
            return
        if await self._engine.get_object(there.ino) is not None:
            return
        taken = file.foreign._replace(
            ino=there.ino, generation=NO_GENERATION, conflict=Conflict.TAKEN
        )
        if await self._engine.attach_object(taken):
            await self._tell_conflict(taken._replace(conflict=Conflict.NONE), Conflict.TAKEN)

    # --- objects that have changed ---------------------------------------------------------------
    async def replace_object(self, known: ForeignObject, found: SourceObject) -> bool:
        """Have another inode, made of the object that is there now, take a file's names.

        Args:
            known: The file's, current.
            found: Another object under its key.

        Returns:
            False, and the conflict is noted, if the file was written here; or it is gone.
        """
        engine, now_ns = self._engine, self._now_ns()
        async with engine.change():
            inode = await self._untouched(known)
            if inode is None:
                conflict = Conflict.CHANGED
                if known.conflict is not Conflict.TAKEN and await self._is_current(known):
                    await engine.put_object(known._replace(conflict=conflict))
                    await self._tell_conflict(known, conflict)
                return False
            names = await self._names_of(inode.ino)
            xattrs = tuple(await engine.list_xattrs_at(NOW, inode.ino))
            await engine.put_object(known._replace(current=False, conflict=Conflict.CHANGED))
            ino = self._reserve_ino()
            new = NewInode(ino, inode.mode, inode.uid, inode.gid, now_ns, xattrs=xattrs)
            await engine.create_orphan(new)
            await engine.attach_object(foreign_of(known.source, found, ino, now_ns=now_ns))
            times = found.mtime_ns
            await engine.set_attributes(
                ino,
                AttributeChanges(
                    size=found.size,
                    blocks=-(-found.size // BLOCK_BYTES),
                    atime_ns=times,
                    mtime_ns=times,
                ),
            )
            if inode.pin:
                await engine.set_pin(ino, Tier(inode.pin))
            if inode.codec is not None:
                await engine.set_codec(ino, inode.codec)
            replaced = await self._lead(names, ino, now_ns)
            made = await engine.get_inode(ino)
        self._move_parts.faults.reach("adopt.replaced")
        self._put_down((made, replaced), names)
        return True

    async def remove_object(self, known: ForeignObject, root: InodeNo) -> bool:
        """Remove the names of a file whose object is gone, and directories that this empties.

        Args:
            known: The file's, current.
            root: That of the source; directories go only below it, on the path of the key.

        Returns:
            False, and the conflict is noted, if the file was written here; or it is gone.
        """
        engine, now_ns = self._engine, self._now_ns()
        removed: list[tuple[Name, Inode]] = []
        async with engine.change():
            inode = await self._untouched(known)
            if inode is None:
                if await self._is_current(known):
                    await engine.put_object(known._replace(conflict=Conflict.GONE))
                    await self._tell_conflict(known, Conflict.GONE)
                return False
            await engine.put_object(known._replace(current=False, conflict=Conflict.GONE))
            for name in await self._names_of(inode.ino):
                removed.append((name, await engine.unlink(*name, now_ns)))
                removed += await self._remove_empty(
                    name.parent, known.source, root, known.key, now_ns
                )
        self._move_parts.faults.reach("adopt.removed")
        for name, former in removed:
            self.invalidations.note_removed(*name, former.ino, last=not former.nlink)
            self._leave(former)
        return True

    async def remove_directory_of(self, directory: ForeignDirectory, root: InodeNo) -> None:
        """Remove a directory that nothing of its source is in any more, if nothing else is.

        Args:
            directory: As it was listed.
            root: That of the source; what is elsewhere stays.
        """
        async with self._engine.change():
            removed = await self._remove_empty(
                directory.ino, directory.source, root, directory.prefix, self._now_ns()
            )
        for name, former in removed:
            self.invalidations.note_removed(*name, former.ino, last=True)
            self._leave(former)

    async def _remove_empty(
        self, directory: InodeNo, source: SourceId, root: InodeNo, key: bytes, now_ns: int
    ) -> list[tuple[Name, Inode]]:
        """Remove a directory, and those above below the root, that nothing is left in.

        Users move files, so that what is above one may be theirs, or another source's. A directory
        is of the source where it has the path of a beginning of the key, or stands for one.
        """
        engine = self._engine
        if await engine.list_directory(directory, 0, 1):
            return []
        way = await self._way_from(root, directory)
        if not way:
            return []
        names, is_directory, _ = names_of_key(key, at_mount_root=root == ROOT_INODE)
        above = names if is_directory else names[:-1]
        roots = {each.root for each in await engine.list_sources()}
        removed: list[tuple[Name, Inode]] = []
        for depth in range(len(way), 0, -1):
            name, stands = way[depth - 1], await engine.get_directory(directory)
            is_its = tuple(each.name for each in way[:depth]) == above[:depth] or (
                stands is not None and stands.source == source and key.startswith(stands.prefix)
            )
            # Somebody has made something of one with xattrs.
            if not is_its or directory in roots or await engine.list_xattrs(directory):
                break
            try:
                removed.append((name, await engine.rmdir(*name, now_ns)))
            except DirectoryNotEmptyError:
                break
            if stands is not None:
                # It is made anew once there are objects again.
                await engine.clear_gone(stands.source, [stands.prefix])
            directory = name.parent
        return removed

    async def _way_from(self, root: InodeNo, directory: InodeNo) -> list[Name]:
        """Return the names that lead from a root to a directory; empty: it is not below."""
        way: list[Name] = []
        while directory != root:
            dentry = await self._engine.get_dentry(directory)
            if dentry is None:
                return []
            way.append(Name(*dentry))
            directory = dentry[0]
        return way[::-1]

    async def note_conflict(self, known: ForeignObject, conflict: Conflict) -> None:
        """Store in what a file and its object differ, if that has changed."""
        if known.conflict is conflict:
            return
        async with self._engine.change():
            if await self._is_current(known):
                await self._engine.put_object(known._replace(conflict=conflict))
                await self._tell_conflict(known, conflict)

    async def _tell_conflict(self, known: ForeignObject, conflict: Conflict) -> None:
        """Tell of a file that has come to differ from its object, once."""
        if known.conflict is conflict or not conflict:
            return
        parts = self._move_parts
        parts.source_counts.conflicts[conflict] += 1
        with contextlib.suppress(StaleInodeError):
            path = (await self._engine.get_path(known.ino)).decode("utf-8", "backslashreplace")
            parts.events.note("source", path, f"{_CONFLICT_WORDS[conflict]}: {_shown(known.name)}")

    async def own_object(self, ino: InodeNo) -> bool:
        """Have a file with local bytes stand for itself: nothing of its object is read any more.

        Returns:
            False if no object stands for it, or it has no raw file.
        """
        engine = self._engine
        async with engine.change():
            inode = await engine.get_inode(ino)
            known = await engine.get_object(ino)
            if known is None or known.generation != inode.generation:
                return False
            if not inode.raw and inode.size:
                return False
            await engine.put_object(known._replace(generation=NO_GENERATION))
        self.note_owned(ino)
        return True

    def note_owned(self, ino: InodeNo) -> None:
        """A file stands for itself now: its bytes are here alone, as if they were just written."""
        self.invalidations.note_inode(ino, Aspect.POLICY)
        self._activity.note_pin(ino)
        self._activity.note_sealed(ino)

    async def _untouched(self, known: ForeignObject) -> Inode | None:
        """Return the inode of an object if it has its bytes; None if it was written, or is gone."""
        try:
            inode = await self._engine.get_inode(known.ino)
        except StaleInodeError:
            return None
        if inode.generation != known.generation or inode.flags & InodeFlags.UNSEALED:
            return None
        return inode if inode.nlink and await self._is_current(known) else None

    async def _is_current(self, known: ForeignObject) -> bool:
        now = await self._engine.get_object(known.ino)
        return now is not None and now.current and now.etag == known.etag

    async def _names_of(self, ino: InodeNo) -> list[Name]:
        """Return all names of a file."""
        dentry = await self._engine.get_dentry(ino)
        inode = await self._engine.get_inode(ino)
        if inode.nlink == 1:
            return [Name(*dentry)] if dentry else []
        names = []
        for path in await self._engine.list_paths_at(NOW, ino):
            *above, name = [part for part in path.split(b"/") if part]
            parent = InodeNo(1)
            for each in above:
                parent = (await self._engine.lookup(parent, each)).ino
            names.append(Name(parent, name))
        return names
