"""The file system of a node that reads: another one writes the same mount.

Names and attributes are answered from this node's own tables. A program that opens a file, lists a
directory, or looks a name up in vain, waits for what was changed until then (`recency`). Bytes come
from the object store, into raw files that are this node's cache.

Invariant: nothing that nodes share is changed here. An open file goes on: its program reads the
bytes that were there when it was opened, or newer ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, NamedTuple, Never

import trio

from memfs.bounded import BoundedDict
from memfs.content.invalidations import Aspect
from memfs.content.opening import OpenMode
from memfs.errors import (
    CorruptDataError,
    NotFoundError,
    StaleInodeError,
    StoreError,
    WrittenElsewhereError,
)
from memfs.filesystem.filesystem import Filesystem
from memfs.filesystem.nodes import nodes_of, number_of
from memfs.filesystem.recency import WRITTEN_WAIT_S
from memfs.filesystem.validity import UNSEALED_VALID_S
from memfs.signals import Signal
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memfs.content.opening import Handle
    from memfs.filesystem.operations import AttributeRequest, Caller
    from memfs.filesystem.recency import Recency
    from memfs.filesystem.replies import Attributes, Entry, Opened
    from memfs.filesystem.shared import Parts
    from memfs.filesystem.small_files import Client, SmallContent
    from memfs.metadata.records import Blob, DirectoryEntry, Form, Inode
    from memfs.stores.source import LocalFile
    from memfs.types import InodeNo

OPENINGS_MAX = 8
"""An open begins anew so often while the file is rewritten elsewhere. Guess."""


DIRECTORIES_MAX = 4096
"""Opened directories remembered: opendir(3) asks for the attributes right after it. Guess."""


ALIASED_MAX = 4096
"""Files remembered that have further nodes."""


class _Kept(NamedTuple):
    """Where the bytes of an open file are."""

    size: int
    blob: Blob | None
    """None: its object is one of a source."""
    forms: Sequence[Form]


class ReadingFilesystem(Filesystem):
    """Answers requests of a mount that another node writes.

    Args:
        parts: Those of the mount.
        recency: Waits for what the other node has changed.
    """

    opens_directories = True
    has_aliases = True

    def __init__(self, parts: Parts, recency: Recency) -> None:
        super().__init__(parts)
        self._recency = recency
        self._outdated: set[InodeNo] = set()
        """Open files that have other bytes by now, or are gone."""
        self._known: dict[InodeNo, Inode] = {}
        """Open files, as they were when they were opened last."""
        self._kept: dict[InodeNo, _Kept] = {}
        """Open files that have been read from their objects since they were opened."""
        self._nodes: BoundedDict[InodeNo, InodeNo] = BoundedDict(ALIASED_MAX)
        """By which node a file is found whose own has former bytes open."""
        self._aliases: BoundedDict[InodeNo, set[InodeNo]] = BoundedDict(ALIASED_MAX)
        """All such nodes of a file so far."""
        self._directories: BoundedDict[InodeNo, Inode] = BoundedDict(DIRECTORIES_MAX)
        """Directories that were opened lately, as they were then."""
        self._released = Signal()
        """Set when a handle of an open file goes that is outdated."""
        register = self.invalidations.register
        # At once: pages are forgotten by a thread that may have to wait.
        register(Aspect.CONTENT, self._kernel_cache.forget_attributes, lambda: None)
        register(Aspect.CONTENT, self._note_outdated, lambda: None)
        every = Aspect.ATTRIBUTES | Aspect.CONTENT | Aspect.XATTRS
        register(every, self._forget_aliases, lambda: None)
        # A file that is pinned is fetched anew.
        register(Aspect.CONTENT, self._activity.note_pin, lambda: None)

    def _note_outdated(self, ino: InodeNo) -> None:
        if self._is_open(ino):
            self._outdated.add(ino)

    def _is_open(self, ino: InodeNo) -> bool:
        """Return whether a file is open by any of its nodes."""
        is_open = self._open_table.is_open
        return is_open(ino) or any(map(is_open, self._aliases.get(ino, ())))

    def _forget_aliases(self, ino: InodeNo) -> None:
        for node in self._aliases.get(ino, ()):
            self._kernel_cache.forget_attributes(node)

    def _choose_node(self, inode: Inode) -> InodeNo:
        """Return the node by which a file is found as it is now.

        The kernel takes one backing file of a node at a time.
        """
        ino, raw, table = inode.ino, inode.raw, self._open_table
        former = self._nodes.get(ino, ino)
        if not table.is_passed_elsewhere(former, raw):
            return former
        free = (node for node in nodes_of(ino) if not table.is_passed_elsewhere(node, raw))
        node = next(free, former)
        if node == ino:
            self._nodes.pop(ino, None)
        else:
            self._nodes[ino] = node
            self._aliases[ino] = self._aliases.get(ino, set()) | {node}
        return node

    # --- life ------------------------------------------------------------------------------------
    async def recover(self) -> None:
        """Nothing was left by an earlier daemon but raw files, which are a cache."""
        await self._file_syncs.load_refusals()

    async def finish_requests(self) -> bool:
        """Nothing follows from reading; what objects tell is stored by who writes."""
        await self.take_told()
        return False

    async def take_told(self) -> None:
        """Forget what objects told with their first bytes."""
        if (sources := self._move_parts.sources) is not None:
            sources.take_told()

    async def look_again(self, ino: InodeNo, error: Exception) -> None:
        """An object is not what a file was made of: who writes may know that by now.

        Raises:
            StoreError: It does not.
            BehindError: As `Recency.see`.
        """
        await self._recency.see()
        known = await self._engine.get_object(ino)
        if known is not None and known.current:
            raise StoreError(
                f"inode {ino}: {error}; node {self._recency.writer} has to find out: read the file "
                "there, or run memfs adopt --refresh"
            )

    async def reap_left_over(self) -> None:
        """The node that writes removes files without a name."""

    # --- names -----------------------------------------------------------------------------------
    async def lookup(
        self, parent: InodeNo, name: bytes, caller: Caller | None = None
    ) -> Entry | None:
        """LOOKUP."""
        if caller is None:
            entry = await super().lookup(parent, name)
            if entry is None:
                await self._recency.see_in(parent)
                entry = await super().lookup(parent, name)
        else:
            entry = await self._lookup_walked(parent, name, caller)
        if entry is not None and entry.inode.ino in self._outdated:
            node = self._choose_node(entry.inode)
            if node != entry.inode.ino:
                valid_s = min(entry.attributes_valid_s, UNSEALED_VALID_S)
                entry = entry._replace(attributes_valid_s=valid_s, node=node)
        return entry

    async def _lookup_walked(self, parent: InodeNo, name: bytes, caller: Caller) -> Entry | None:
        """LOOKUP of a thread that walks a path.

        Raises:
            StaleInodeError: A name is missing in a directory that the path leads to no longer.
            BehindError: As `Recency.see`.
        """
        recency = self._recency
        entry: Entry | None = None
        is_over = True
        try:
            entry = await super().lookup(parent, name, caller)
            if entry is None:
                try:
                    await recency.see_below(parent, caller)
                except StaleInodeError:
                    is_over = False
                    raise
                entry = await super().lookup(parent, name, caller)
        finally:
            if entry is not None:
                recency.note_found(entry.inode.ino, caller)
            elif is_over:
                recency.note_missed(caller)
        return entry

    async def open_directory(self, caller: Caller, ino: InodeNo) -> None:
        """OPENDIR."""
        await self._recency.see_named(ino, caller)
        self._directories[ino] = await self._engine.get_inode(ino)

    async def list_directory(
        self, ino: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """READDIR, READDIRPLUS; from its beginning a directory is listed as it is now.

        Raises:
            NotFoundError: It was removed since it was opened (getdents(2)).
        """
        if not after_cookie:
            await self._recency.see_in(ino)
        with _removed(ino):
            return await super().list_directory(ino, after_cookie, limit)

    async def get_parent(self, ino: InodeNo) -> InodeNo:
        """The directory of a directory; raises as `list_directory`."""
        with _removed(ino):
            return await super().get_parent(ino)

    async def list_on_demand(self, ino: InodeNo) -> None:
        """See that a directory of a source was listed by who writes.

        Raises:
            StoreError: It was not.
            BehindError: As `Recency.see`.
        """
        if await self._recency.why_unlisted(ino) is None:
            return
        # It may just have been.
        await self._recency.see()
        if (unlisted := await self._recency.why_unlisted(ino)) is not None:
            raise unlisted

    # --- attributes ------------------------------------------------------------------------------
    async def get_attributes(self, ino: InodeNo) -> Attributes:
        """GETATTR, STATX; who has a file open hears of it after its removal, too."""
        try:
            return await super().get_attributes(ino)
        except StaleInodeError:
            opened = self._known.get(ino) or self._directories.get(ino)
            if opened is None:
                raise
            return self._attributes(opened._replace(nlink=0))

    # --- content ---------------------------------------------------------------------------------
    async def open(
        self,
        caller: Caller,
        ino: InodeNo,
        flags: int,
        kill_suidgid: bool = False,
        node: InodeNo | None = None,
    ) -> Opened:
        """OPEN, by any node of a file: that is what the kernel's number of it tells."""
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            raise self._recency.refusal()
        node, ino = ino, number_of(ino)
        is_anew = await self._recency.see_named(ino, caller)
        table = self._open_table
        deadline_s = trio.current_time() + WRITTEN_WAIT_S
        for attempt in itertools.count(1):
            seen, release_count = await self._recency.wait_for_bytes(ino), self._released.count
            if not table.passthrough or table.has_mode(ino, OpenMode.CACHED):
                await self._recency.forget_pages(ino)
            try:
                opened = await super().open(caller, ino, flags, kill_suidgid, node)
                if opened.mode != OpenMode.PASSTHROUGH:
                    await self._keep_forms(ino)
                return opened
            except (CorruptDataError, StoreError):
                now = await self._engine.get_inode(ino)
                if now.generation == seen.generation or attempt >= OPENINGS_MAX:
                    raise
            except WrittenElsewhereError:
                if not is_anew and self._choose_node(await self._engine.get_inode(ino)) != node:
                    raise self._recency.walk_anew(ino, caller) from None
                # Most programs have a file open for a moment.
                await leave()
                with trio.move_on_at(deadline_s) as wait:
                    await self._released.wait(release_count)
                if wait.cancelled_caught:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _keep_forms(self, ino: InodeNo) -> None:
        """Remember where the bytes of a file are that was just opened, if it has no raw file."""
        with contextlib.suppress(StaleInodeError, NotFoundError):
            inode = await self._engine.get_inode(ino)
            if inode.raw:
                return
            blob = await self._engine.get_blob(inode.blob) if inode.blob else None
            forms = await self._engine.list_all_forms(inode)
            self._kept[ino] = _Kept(inode.size, blob, forms)

    def _add_handle(
        self,
        inode: Inode,
        node: InodeNo,
        *,
        writable: bool,
        reference: LocalFile | None = None,
    ) -> tuple[OpenMode, int, Handle]:
        table = self._open_table
        if table.is_passed_elsewhere(node, inode.raw):
            raise WrittenElsewhereError(
                f"inode {inode.ino}: node {self._recency.writer} has rewritten it while a program "
                "here has its former bytes open; it can be opened once that is closed"
            )
        fd = -1 if reference is None else reference.fd
        mode, backing = table.choose(node, inode.raw, fd)
        handle = table.add(node, mode, writable=writable)
        if mode == OpenMode.CACHED and inode.raw:
            # It stays for what has it open, whatever becomes of its name.
            table.read_fd(node, inode.raw)
        self._known[inode.ino] = inode
        return mode, backing, handle

    def release(self, ino: InodeNo, handle: Handle) -> None:
        """RELEASE."""
        node, ino, table = ino, number_of(ino), self._open_table
        if node == ino:
            super().release(ino, handle)
        else:
            table.remove(node, handle)
        is_outdated = ino in self._outdated
        if is_outdated:
            self._released.set()
        if (is_outdated or node != ino) and not table.is_open(node):
            table.forget_raw(node)
        if not self._is_open(ino):
            self._known.pop(ino, None)
            self._kept.pop(ino, None)
            self._outdated.discard(ino)
            self._nodes.pop(ino, None)

    async def read(self, ino: InodeNo, handle: Handle, offset: int, size: int) -> bytes | bytearray:
        """READ."""
        node, ino = ino, number_of(ino)
        try:
            inode = await self._engine.get_inode(ino)
            is_here = inode.raw or await self._recency.why_missing(inode) is None
        except StaleInodeError:
            is_here = False
            if (kept := self._kept.get(ino)) is not None:
                size = max(0, min(size, kept.size - offset))
                await leave()
                return await self._form_reader.read_kept(kept.blob, kept.forms, offset, size)
        fd = self._open_table.opened_fd(node)
        if not is_here and fd < 0:
            inode = await self._recency.wait_for_bytes(ino)
        elif is_here and inode.raw and node != ino:
            fd = self._open_table.read_fd(node, inode.raw)
        elif is_here:
            fd = -1
        if fd < 0 and node == ino:
            return await super().read(ino, handle, offset, size)
        await leave()
        if fd >= 0:
            return await trio.to_thread.run_sync(os.pread, fd, size, offset, limiter=self._threads)
        return await self._form_reader.read(inode, offset, size)

    async def get_small(
        self,
        client: Client,
        directory: InodeNo,
        paths: Sequence[tuple[bytes, ...]],
        xattr: bytes,
    ) -> list[SmallContent | None]:
        """See `SmallFiles.get_small`."""
        await self._recency.see_in(directory)
        return await super().get_small(client, directory, paths, xattr)

    # --- what would change something -------------------------------------------------------------
    # The kernel refuses all of it on a mount that is read-only, as long as nobody makes it another.
    async def create(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, flags: int
    ) -> Never:
        """CREATE."""
        raise self._recency.refusal()

    async def create_unnamed(self, caller: Caller, parent: InodeNo, mode: int, flags: int) -> Never:
        """TMPFILE."""
        raise self._recency.refusal()

    async def make_node(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, rdev: int
    ) -> Never:
        """MKNOD."""
        raise self._recency.refusal()

    async def make_directory(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int
    ) -> Never:
        """MKDIR."""
        raise self._recency.refusal()

    async def make_symlink(
        self, caller: Caller, parent: InodeNo, name: bytes, target: bytes
    ) -> Never:
        """SYMLINK."""
        raise self._recency.refusal()

    async def link(self, ino: InodeNo, parent: InodeNo, name: bytes) -> Never:
        """LINK."""
        raise self._recency.refusal()

    async def unlink(self, parent: InodeNo, name: bytes) -> Never:
        """UNLINK."""
        raise self._recency.refusal()

    async def remove_directory(self, parent: InodeNo, name: bytes) -> Never:
        """RMDIR."""
        raise self._recency.refusal()

    async def rename(
        self, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes, flags: int
    ) -> Never:
        """RENAME, RENAME2."""
        raise self._recency.refusal()

    async def set_attributes(
        self, caller: Caller, ino: InodeNo, request: AttributeRequest
    ) -> Never:
        """SETATTR."""
        raise self._recency.refusal()

    async def set_xattr(
        self, caller: Caller, ino: InodeNo, name: bytes, value: bytes, flags: int, kill_sgid: bool
    ) -> Never:
        """SETXATTR."""
        raise self._recency.refusal()

    async def remove_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> Never:
        """REMOVEXATTR."""
        raise self._recency.refusal()

    async def write(
        self,
        caller: Caller,
        ino: InodeNo,
        handle: Handle,
        offset: int,
        data: memoryview,
        kill_suidgid: bool = False,
    ) -> Never:
        """WRITE."""
        raise self._recency.refusal()

    async def allocate(self, ino: InodeNo, mode: int, offset: int, length: int) -> Never:
        """FALLOCATE."""
        raise self._recency.refusal()

    async def copy_range(
        self,
        source: InodeNo,
        source_offset: int,
        target: InodeNo,
        target_offset: int,
        size: int,
    ) -> Never:
        """COPY_FILE_RANGE."""
        raise self._recency.refusal()

    async def fsync(self, caller: Caller, ino: InodeNo, data_only: bool) -> None:
        """FSYNC; nothing was written here."""

    async def fsync_directory(self, caller: Caller, ino: InodeNo) -> None:
        """FSYNCDIR; likewise."""


@contextlib.contextmanager
def _removed(ino: InodeNo) -> Iterator[None]:
    """For the block, a directory that is gone has no entries, as any that was removed."""
    try:
        yield
    except StaleInodeError:
        raise NotFoundError(f"directory {ino} was removed meanwhile") from None
