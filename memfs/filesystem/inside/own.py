"""The directory `.memfs` itself: its entries, and files whose content is made when they are opened.

Invariant: an open file's content never changes, and is as of a moment after its open(2) began.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from memfs.content.opening import Handle, OpenMode
from memfs.errors import NoDataAtOffsetError, StaleInodeError
from memfs.filesystem.inside.tree import FIRST_COOKIE, Plain, own_inode
from memfs.filesystem.nodes import number_of, own_node
from memfs.filesystem.replies import Opened
from memfs.metadata.records import DirectoryEntry
from memfs.types import ROOT_INODE
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.filesystem.operations import Caller
    from memfs.metadata.records import Inode
    from memfs.types import InodeNo

OWN_ROOT = own_node(1)
"""`.memfs`"""
SNAPSHOTS = own_node(2)
"""`.memfs/snapshots`"""
QUERY = own_node(3)
"""`.memfs/query`"""
_FIRST_FILE = 16

DIRECTORY_MODE = stat.S_IFDIR | 0o555
FILE_MODE = stat.S_IFREG | 0o400
"""For the user who mounted, and root: as the control socket, which tells the same."""

SHARED_S = 1.0
"""So long a look-up's content serves the open that it was made for: open(2) looks the name up, then
opens. The kernel takes some 20 us from one to the other, a busy machine much longer. Guess."""

Producer = Callable[[], Awaitable[bytes]]
"""Makes the content of a file, as of now."""


class _Made(NamedTuple):
    """A content that was made."""

    content: bytes
    time_ns: int
    """When, by the wall clock."""
    until_s: float
    """Up to when an open may take it, by the monotonic clock."""


class OwnTree(Plain):
    """`.memfs` without what is below its directories.

    Args:
        files: By name.
        directories: Other entries.
        now_ns: The clock.
    """

    def __init__(
        self,
        files: Mapping[bytes, Producer],
        directories: Mapping[bytes, Callable[[], Awaitable[Inode]]],
        now_ns: Callable[[], int],
    ) -> None:
        self._names = {
            name: own_node(number) for number, name in enumerate(sorted(files), _FIRST_FILE)
        }
        self._producers = {self._names[name]: producer for name, producer in files.items()}
        self._directories = directories
        self._now_ns = now_ns
        self._begun_ns = now_ns()
        self._made: dict[InodeNo, _Made] = {}
        """What was made last of each file, while nobody has taken it, or one has it open."""
        self._open: dict[tuple[InodeNo, Handle], bytes] = {}
        self._handles = itertools.count(1)

    async def lookup(self, parent: InodeNo, name: bytes, caller: Caller | None) -> Inode | None:
        if parent != OWN_ROOT:
            return await super().lookup(parent, name, caller)
        return await self._entry(name)

    async def _entry(self, name: bytes) -> Inode | None:
        if (directory := self._directories.get(name)) is not None:
            return await directory()
        node = self._names.get(name)
        return None if node is None else await self._remade(node)

    async def list_directory(
        self, node: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        if node != OWN_ROOT:
            return await super().list_directory(node, after_cookie, limit)
        names = sorted([*self._names, *self._directories])
        entries: list[DirectoryEntry] = []
        for cookie, name in enumerate(names, FIRST_COOKIE):
            if cookie > after_cookie and len(entries) < limit:
                inode = await self._entry(name)
                assert inode is not None
                entries.append(DirectoryEntry(cookie, name, inode))
        return entries

    async def get_parent(self, node: InodeNo) -> InodeNo:
        return ROOT_INODE if node == OWN_ROOT else OWN_ROOT

    async def get_inode(self, node: InodeNo) -> Inode:
        if node == OWN_ROOT:
            return own_inode(OWN_ROOT, DIRECTORY_MODE, self._begun_ns)
        if any(node == opened for opened, _ in self._open) and node in self._made:
            return self._inode(node, self._made[node])
        return await self._remade(node)

    async def open(self, node: InodeNo) -> Opened:
        if node == OWN_ROOT:
            return await super().open(node)
        made = self._made.get(node)
        if made is None or time.monotonic() > made.until_s:
            made = await self._make(node)
        # The next one that opens it has made its own.
        self._made[node] = made._replace(until_s=0.0)
        handle = Handle(next(self._handles))
        self._open[node, handle] = made.content
        return Opened(handle, OpenMode.DIRECT, 0)

    async def read(self, node: InodeNo, handle: Handle, offset: int, size: int) -> bytes:
        content = self._open.get((node, handle))
        if content is None:
            raise StaleInodeError(f"node {node} is not open")
        return content[offset : offset + size]

    async def seek(self, node: InodeNo, offset: int, whence: int) -> int:
        size = (await self.get_inode(node)).size
        if not 0 <= offset < size:
            raise NoDataAtOffsetError(f"offset {offset} is not below the end ({size})")
        return offset if whence == os.SEEK_DATA else size

    def release(self, node: InodeNo, handle: Handle) -> None:
        self._open.pop((node, handle), None)
        if not any(node == opened for opened, _ in self._open):
            self._made.pop(node, None)

    async def _remade(self, node: InodeNo) -> Inode:
        made = await self._make(node)
        self._made[node] = made
        return self._inode(node, made)

    async def _make(self, node: InodeNo) -> _Made:
        producer = self._producers.get(node)
        if producer is None:
            raise StaleInodeError(f"there is no node {node:#x} ({number_of(node)})")
        await leave()
        content = await producer()
        return _Made(content, self._now_ns(), time.monotonic() + SHARED_S)

    def _inode(self, node: InodeNo, made: _Made) -> Inode:
        return own_inode(node, FILE_MODE, made.time_ns, len(made.content))
