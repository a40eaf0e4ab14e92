"""What the file system answers to a driver, free of any protocol.

Invariant: a reply is complete: a driver turns it into bytes without asking anything more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memfs.content.opening import Handle, OpenMode
    from memfs.metadata.records import Inode


class Attributes(NamedTuple):
    """An inode's attributes as of now, and for how long the kernel may believe them."""

    inode: Inode
    valid_s: float


class Entry(NamedTuple):
    """A dentry's inode, and for how long the kernel may believe name and attributes."""

    inode: Inode
    entry_valid_s: float
    attributes_valid_s: float
    node: int = 0
    """The number by which the kernel is to name it; 0: that of the inode."""


class Opened(NamedTuple):
    """An open file."""

    handle: Handle
    mode: OpenMode
    backing: int
    """The kernel's backing id for the passthrough modes, else 0."""


class FilesystemStatistics(NamedTuple):
    """What statfs(2) tells."""

    block_bytes: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    name_bytes_max: int
