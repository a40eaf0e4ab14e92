"""Notices to the kernel: what it is to forget of one mount.

Invariant: only threads for it call this; each call may block on locks that requests hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs_daemon.kernel.protocol import (
    NOTIFY_DELETE,
    NOTIFY_DELETE_OUT,
    NOTIFY_INC_EPOCH,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_ENTRY_OUT,
    NOTIFY_INVAL_INODE,
    NOTIFY_INVAL_INODE_OUT,
)

if TYPE_CHECKING:
    from memfs.types import InodeNo
    from memfs_daemon.kernel.channel import Channel

_ATTRIBUTES_ALONE, _ALL_PAGES = -1, 0
"""Offsets of NOTIFY_INVAL_INODE."""


class ChannelNotices:
    """Implements `memfs.content.kernel_cache.KernelNotices`.

    Args:
        channel: A descriptor of the mount that nobody else uses.
        can_forget_all: The kernel knows NOTIFY_INC_EPOCH.
    """

    def __init__(self, channel: Channel, *, can_forget_all: bool) -> None:
        self._notify = channel.notify
        self.can_forget_all = can_forget_all

    def forget_attributes(self, ino: InodeNo) -> None:
        """NOTIFY_INVAL_INODE of the attributes, which takes cached ACLs along."""
        self._notify(NOTIFY_INVAL_INODE, NOTIFY_INVAL_INODE_OUT.pack(ino, _ATTRIBUTES_ALONE, 0))

    def forget_pages(self, ino: InodeNo) -> None:
        """NOTIFY_INVAL_INODE of everything."""
        self._notify(NOTIFY_INVAL_INODE, NOTIFY_INVAL_INODE_OUT.pack(ino, _ALL_PAGES, 0))

    def forget_name(self, parent: InodeNo, name: bytes) -> None:
        """NOTIFY_INVAL_ENTRY."""
        body = NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), 0)
        self._notify(NOTIFY_INVAL_ENTRY, body + name + b"\0")

    def forget_removed(self, parent: InodeNo, name: bytes, ino: InodeNo) -> None:
        """NOTIFY_DELETE."""
        body = NOTIFY_DELETE_OUT.pack(parent, ino, len(name), 0)
        self._notify(NOTIFY_DELETE, body + name + b"\0")

    def forget_all(self) -> None:
        """NOTIFY_INC_EPOCH."""
        self._notify(NOTIFY_INC_EPOCH, b"")
