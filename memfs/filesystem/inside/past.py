"""The trees of the past: `.memfs/snapshots/NAME`, each as it was when the snapshot was made.

Invariant: what is shown of an inode is what it was then, permissions included; its bytes are those
of then, or an error (`content.past`).
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from memfs.content.opening import OpenMode
from memfs.content.past import PastState
from memfs.errors import (
    IsADirectoryInodeError,
    NotFoundError,
    NoXattrError,
    StaleInodeError,
)
from memfs.filesystem.control_names import SNAPSHOT_STATE_XATTR, WHY_XATTR
from memfs.filesystem.inside.own import DIRECTORY_MODE, OWN_ROOT, SNAPSHOTS
from memfs.filesystem.inside.past_why import describe
from memfs.filesystem.inside.tree import FIRST_COOKIE, Plain, own_inode
from memfs.filesystem.nodes import OWN_SLOT, Slots, node_of, number_of, slot_of
from memfs.filesystem.replies import Opened
from memfs.filesystem.shared import with_directory_size
from memfs.metadata.records import DirectoryEntry, InodeFlags
from memfs.namespace.xattrs import CONTROL_PREFIX
from memfs.types import NO_RAW, ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.content.kernel_cache import KernelCache
    from memfs.content.opening import Handle
    from memfs.content.opentable import OpenTable
    from memfs.content.past import PastFile, PastReader
    from memfs.filesystem.operations import Caller
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode, Snapshot
    from memfs.types import InodeNo, SnapshotId


class PastTree(Plain):
    """`.memfs/snapshots` and all below it.

    Args:
        engine: Knows the snapshots.
        reader: Finds and reads bytes.
        open_table: Chooses how an open file is served.
        kernel_cache: Is to forget the names of snapshots that are gone.
        now_ns: The clock.
    """

    def __init__(
        self,
        engine: Engine,
        reader: PastReader,
        open_table: OpenTable,
        kernel_cache: KernelCache,
        now_ns: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._open_table = open_table
        self._kernel_cache = kernel_cache
        self._now_ns = now_ns
        self._slots = Slots()
        self._listed: dict[SnapshotId, bytes] = {}
        """Names of the snapshots that were seen last."""
        self._listed_ns = now_ns()
        """When another list of snapshots was first seen."""
        self._open: dict[InodeNo, PastFile] = {}

    # --- snapshots -------------------------------------------------------------------------------
    async def _snapshots(self) -> list[Snapshot]:
        """Return all snapshots; each has a slot."""
        snapshots = await self._engine.list_snapshots()
        listed = {each.snap: _name_of(each) for each in snapshots}
        if listed != self._listed:
            self._slots.note(list(listed))
            for snap in self._listed.keys() - listed.keys():
                self._kernel_cache.forget_name(SNAPSHOTS, self._listed[snap])
            self._listed, self._listed_ns = listed, self._now_ns()
        return snapshots

    async def note_deleted(self) -> None:
        """Snapshots were deleted: soon the kernel knows their names no longer."""
        await self._snapshots()

    async def directory(self) -> Inode:
        """Return `.memfs/snapshots`: its times are those of its last change that was seen."""
        await self._snapshots()
        return own_inode(SNAPSHOTS, DIRECTORY_MODE, self._listed_ns)

    async def _snap_of(self, node: InodeNo) -> SnapshotId:
        slot = slot_of(node)
        snap = self._slots.find_snapshot(slot)
        if snap is None:
            # An earlier daemon has shown it.
            await self._snapshots()
            snap = self._slots.find_snapshot(slot)
        if snap is None:
            raise StaleInodeError(f"node {node:#x}: its snapshot was deleted")
        return snap

    async def _inode_at(self, snap: SnapshotId, ino: InodeNo) -> Inode:
        try:
            return await self._engine.inode_at(snap, ino)
        except NotFoundError as error:
            raise StaleInodeError(str(error)) from None

    # --- names -----------------------------------------------------------------------------------
    async def lookup(self, parent: InodeNo, name: bytes, caller: Caller | None) -> Inode | None:
        if parent == SNAPSHOTS:
            for each in await self._snapshots():
                if _name_of(each) == name:
                    return await self._root(each.snap)
            return None
        snap = await self._snap_of(parent)
        try:
            inode = await self._engine.lookup_at(snap, number_of(parent), name)
        except NotFoundError:
            await self._require(snap)
            return None
        return await self._shown(parent, inode)

    async def _require(self, snap: SnapshotId) -> None:
        """See that a snapshot is there; raises `StaleInodeError`."""
        if snap not in [each.snap for each in await self._snapshots()]:
            raise StaleInodeError(f"snapshot {snap} was deleted")

    async def _root(self, snap: SnapshotId) -> Inode | None:
        slot = self._slots.find_slot(snap)
        if slot is None:
            return None
        root = await self._inode_at(snap, ROOT_INODE)
        return await self._shown(node_of(slot, ROOT_INODE), root)

    async def list_directory(
        self, node: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        if node == SNAPSHOTS:
            return await self._list_snapshots(after_cookie, limit)
        snap = await self._snap_of(node)
        try:
            entries = await self._engine.list_directory_at(
                snap, number_of(node), after_cookie, limit
            )
        except NotFoundError as error:
            raise StaleInodeError(str(error)) from None
        return [
            DirectoryEntry(cookie, name, await self._shown(node, inode))
            for cookie, name, inode in entries
        ]

    async def _list_snapshots(self, after_cookie: int, limit: int) -> list[DirectoryEntry]:
        entries: list[DirectoryEntry] = []
        for each in await self._snapshots():
            cookie = FIRST_COOKIE + each.snap
            if cookie > after_cookie and len(entries) < limit:
                root = await self._root(each.snap)
                if root is not None:
                    entries.append(DirectoryEntry(cookie, _name_of(each), root))
        return entries

    async def get_parent(self, node: InodeNo) -> InodeNo:
        if slot_of(node) == OWN_SLOT:
            return OWN_ROOT
        ino = number_of(node)
        if ino == ROOT_INODE:
            return SNAPSHOTS
        snap = await self._snap_of(node)
        try:
            parent = await self._engine.get_parent_at(snap, ino)
        except NotFoundError as error:
            raise StaleInodeError(str(error)) from None
        return node_of(slot_of(node), parent)

    async def read_link(self, node: InodeNo) -> bytes:
        snap = await self._snap_of(node)
        await self._inode_at(snap, number_of(node))
        return await self._engine.read_link_at(snap, number_of(node))

    # --- attributes ------------------------------------------------------------------------------
    async def get_inode(self, node: InodeNo) -> Inode:
        if node == SNAPSHOTS:
            return await self.directory()
        snap = await self._snap_of(node)
        return await self._shown(node, await self._inode_at(snap, number_of(node)))

    async def _shown(self, beside: InodeNo, inode: Inode) -> Inode:
        """Return an inode as of a snapshot as programs see it.

        Args:
            beside: Any node of the same snapshot.
        """
        if inode.flags & InodeFlags.UNSEALED:
            # A writer had it: its size is not what it was when it was sealed before.
            inode = (await self._reader.find_of(inode)).inode
        elif stat.S_ISDIR(inode.mode):
            inode = with_directory_size(inode)
        return inode._replace(
            ino=node_of(slot_of(beside), inode.ino), flags=inode.flags & InodeFlags.UNSEALED
        )

    async def list_xattrs(self, node: InodeNo) -> list[bytes]:
        xattrs = await self._xattrs(node)
        return [name for name in xattrs if not name.startswith(CONTROL_PREFIX)]

    async def get_xattr(self, node: InodeNo, name: bytes) -> bytes:
        """See `Tree`; `user.memfs.why` is of the past, `snapshot_state` of regular files alone."""
        if name == SNAPSHOT_STATE_XATTR and node != SNAPSHOTS:
            return (await self._state(node)).value.encode()
        if name == WHY_XATTR and node != SNAPSHOTS:
            return (await self._why(node)).encode()
        value = (await self._xattrs(node)).get(name)
        if value is None:
            raise NoXattrError(f"node {node:#x} had no such xattr")
        return value

    async def _xattrs(self, node: InodeNo) -> dict[bytes, bytes]:
        if node == SNAPSHOTS:
            return {}
        snap = await self._snap_of(node)
        await self._inode_at(snap, number_of(node))
        return dict(await self._engine.list_xattrs_at(snap, number_of(node)))

    async def _state(self, node: InodeNo) -> PastState:
        snap = await self._snap_of(node)
        inode = await self._inode_at(snap, number_of(node))
        if not stat.S_ISREG(inode.mode):
            raise NoXattrError("only regular files have bytes that a snapshot keeps")
        return (await self._reader.find_of(inode)).state

    async def _why(self, node: InodeNo) -> str:
        snap = await self._snap_of(node)
        found = [each for each in await self._snapshots() if each.snap == snap]
        if not found:
            raise StaleInodeError(f"snapshot {snap} was deleted")
        inode = await self._inode_at(snap, number_of(node))
        return json.dumps(await describe(self._engine, self._reader, found[0], inode))

    # --- content ---------------------------------------------------------------------------------
    async def open(self, node: InodeNo) -> Opened:
        if node == SNAPSHOTS:
            raise IsADirectoryInodeError("the list of snapshots is a directory")
        snap = await self._snap_of(node)
        await self._inode_at(snap, number_of(node))
        file = await self._reader.open(snap, number_of(node))
        if self._open.setdefault(node, file) is not file:
            # Others have it open already.
            file.close()
        content = file.content
        # A raw file that the live inode has may be written in place: that cannot be passed through.
        raw = NO_RAW if content.is_shared else content.inode.raw
        mode, backing = self._open_table.choose(node, raw)
        if content.is_shared and content.state is PastState.OPEN:
            # It may be written now: what the kernel has cached of it would be old.
            mode = OpenMode.DIRECT
        return Opened(self._open_table.add(node, mode, writable=False), mode, backing)

    async def read(
        self, node: InodeNo, handle: Handle, offset: int, size: int
    ) -> bytes | bytearray:
        return await self._file(node).read(offset, size)

    async def seek(self, node: InodeNo, offset: int, whence: int) -> int:
        return await self._file(node).seek(offset, whence)

    def _file(self, node: InodeNo) -> PastFile:
        file = self._open.get(node)
        if file is None:
            raise StaleInodeError(f"node {node:#x} is not open")
        return file

    def release(self, node: InodeNo, handle: Handle) -> None:
        self._open_table.remove(node, handle)
        if not self._open_table.is_open(node):
            # Now, and not when others need the room: the snapshot may be deleted at any time.
            self._open_table.forget_raw(node)
            if (file := self._open.pop(node, None)) is not None:
                file.close()

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()


def _name_of(snapshot: Snapshot) -> bytes:
    return snapshot.name.encode(errors="surrogateescape")
