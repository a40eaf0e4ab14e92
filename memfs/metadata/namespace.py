"""The part of an engine that every node of a mount sees alike: names, attributes, xattrs, pins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from memfs.metadata.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import (
        AttributeChanges,
        DirectoryEntry,
        EffectivePin,
        Inode,
        NewInode,
        RenameResult,
    )
    from memfs.types import InodeNo, Tier


FROZEN_SETTING = "frozen"
"""Setting of the engine: directories of frozen trees, as JSON."""

FROZEN_COUNT_MAX = 1000

FROZEN_S = 2.0
"""A node that reads relies on frozen trees as long as it knows what was committed so long ago;
others begin to change one only when a thaw was committed for longer. A node asks four times a
second, so that most answers are older by 0.25 s at most. Guess."""


class FrozenTree(NamedTuple):
    """A tree in which nothing changes that programs see."""

    ino: InodeNo
    """Its directory."""
    is_thawing: bool
    """Nodes may not rely on it any more, and nothing changes still."""


class Namespace(Changes, Protocol):
    """Names, attributes, xattrs and pins: what every node of a mount sees alike.

    Every method that names an inode raises `StaleInodeError` if it does not exist. Names are bytes,
    any but `/` and NUL; longer than 255: `NameTooLongError`. `now_ns` is wall-clock time for the
    mtime/ctime that POSIX wants updated on the inodes and parents involved. What changes names,
    contents, attributes or xattrs raises `FrozenError` for an inode in a frozen tree; but access
    times may change there, and the xattrs that steer memfs.
    """

    # --- reading names ----------------------------------------------------------------------------
    async def get_inode(self, ino: InodeNo) -> Inode:
        """Return an inode, orphans included."""
        ...

    async def lookup(self, parent: InodeNo, name: bytes) -> Inode:
        """Return the inode of a dentry.

        Raises:
            NotFoundError: No such name.
            NotADirectoryInodeError: `parent` is not a directory.
        """
        ...

    async def find(self, parent: InodeNo, name: bytes) -> Inode | None:
        """Return what `lookup` does, or None where it would raise `NotFoundError`.

        Most names that programs look up are missing, and an exception takes longer than the search.
        """
        ...

    async def find_all(self, names: Sequence[tuple[InodeNo, bytes]]) -> list[Inode | None]:
        """Return the inodes of many dentries, each given by its parent and its name, in order.

        None: there is no such dentry; whether there is such a parent is not looked at.
        """
        ...

    async def list_directory(
        self, parent: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """Return up to `limit` dentries after a cookie (0: from the start), by cookie; no dots."""
        ...

    async def get_parent(self, ino: InodeNo) -> InodeNo:
        """Return the parent of any one dentry of an inode; the root for the root and orphans."""
        ...

    async def get_dentry(self, ino: InodeNo) -> tuple[InodeNo, bytes] | None:
        """Return parent and name of any one dentry of an inode; None for the root and orphans."""
        ...

    async def get_path(self, ino: InodeNo) -> bytes:
        """Return one path from the root, `/a/b`; `/` for the root; `<inode 17>` for an orphan."""
        ...

    async def read_link(self, ino: InodeNo) -> bytes:
        """Return a symlink's target; `InvalidValueError` if it is not a symlink."""
        ...

    # --- changing names ---------------------------------------------------------------------------
    async def create(self, parent: InodeNo, name: bytes, new: NewInode) -> Inode:
        """Create an inode (any type; type from `new.mode`) and its dentry.

        A directory starts with nlink 2 and adds 1 to its parent's.

        Raises:
            AlreadyExistsError: The name is taken.
            NotFoundError: `parent` was removed (nlink 0).
            NotADirectoryInodeError: `parent` is not a directory.
            XattrsFullError: It would have more xattrs of a user than `XATTRS_BYTES_MAX`.
        """
        ...

    async def create_orphan(self, new: NewInode) -> Inode:
        """Create an inode without a name, nlink 0, of any type but a directory (O_TMPFILE).

        A regular file without a raw file is sealed, and empty.

        Raises:
            XattrsFullError: As `create`.
        """
        ...

    async def link(self, ino: InodeNo, parent: InodeNo, name: bytes, now_ns: int) -> Inode:
        """Add a dentry to an existing inode (also to an orphan); returns the inode after it.

        Raises:
            AlreadyExistsError: The name is taken.
            NotPermittedError: `ino` is a directory.
            NotFoundError: `parent` was removed.
        """
        ...

    async def unlink(
        self, parent: InodeNo, name: bytes, now_ns: int, expected: InodeNo | None = None
    ) -> Inode:
        """Remove a dentry of anything but a directory; returns the inode after it.

        With nlink 0 the inode stays, as an orphan, until `reap`.

        Args:
            parent: A directory.
            name: In it.
            now_ns: See above.
            expected: What the name led to when the caller looked; None: whatever it leads to.

        Raises:
            NotFoundError: No such name, or it leads elsewhere by now.
            IsADirectoryInodeError: It is a directory.
        """
        ...

    async def rmdir(
        self, parent: InodeNo, name: bytes, now_ns: int, expected: InodeNo | None = None
    ) -> Inode:
        """Remove an empty directory; returns it as an orphan (nlink 0).

        Args:
            expected: As of `unlink`.

        Raises:
            NotFoundError, NotADirectoryInodeError, DirectoryNotEmptyError.
        """
        ...

    async def rename(
        self,
        parent: InodeNo,
        name: bytes,
        new_parent: InodeNo,
        new_name: bytes,
        flags: int,
        now_ns: int,
        whiteout: NewInode | None = None,
        expected: InodeNo | None = None,
        expected_target: InodeNo | None = None,
    ) -> RenameResult:
        """Move a dentry, flags `RENAME_NOREPLACE` (1) or `RENAME_EXCHANGE` (2), as Linux does.

        With `whiteout`, and `RENAME_WHITEOUT` (4) in the flags, that inode takes the former name.

        Renaming onto another hard link of the same inode does nothing (POSIX).

        Args:
            expected: What the name led to when the caller looked; None: whatever it leads to.
            expected_target: The same of the new name; `NO_INODE`: it was free.

        Raises:
            NotFoundError: Source missing; with EXCHANGE, also target missing; removed new parent; a
                name leads elsewhere by now.
            AlreadyExistsError: NOREPLACE and the target exists.
            DirectoryNotEmptyError: The replaced directory has dentries.
            IsADirectoryInodeError: A non-directory onto a directory.
            NotADirectoryInodeError: A directory onto a non-directory.
            InvalidValueError: A directory into its own subtree.
        """
        ...

    async def set_attributes(self, ino: InodeNo, changes: AttributeChanges) -> Inode:
        """Change attributes; returns the inode after it."""
        ...

    async def reap(self, inos: Sequence[InodeNo]) -> None:
        """Delete those of the inodes that are orphans; their contents become garbage."""
        ...

    # --- xattrs -----------------------------------------------------------------------------------
    async def get_xattr(self, ino: InodeNo, name: bytes) -> bytes:
        """Return an xattr's value; `NoXattrError` if it is not set."""
        ...

    async def get_xattrs(self, inos: Sequence[InodeNo], name: bytes) -> dict[InodeNo, bytes]:
        """Return an xattr's values by inode, of those among the inodes that have it."""
        ...

    async def list_xattrs(self, ino: InodeNo) -> list[bytes]:
        """Return the names of all xattrs of an inode, in order of name."""
        ...

    async def set_xattr(
        self, ino: InodeNo, name: bytes, value: bytes, flags: int, now_ns: int
    ) -> None:
        """Set an xattr; flags `XATTR_CREATE` (1), `XATTR_REPLACE` (2) as in setxattr(2).

        Raises:
            AlreadyExistsError, NoXattrError: By the flags.
            TooBigError: More than 64 KiB.
            XattrsFullError: With it, those of a user are more than `XATTRS_BYTES_MAX` together.
        """
        ...

    async def remove_xattr(self, ino: InodeNo, name: bytes, now_ns: int) -> None:
        """Remove an xattr; `NoXattrError` if it is not set."""
        ...

    async def set_mode_and_xattrs(
        self,
        ino: InodeNo,
        mode: int | None,
        xattrs: Sequence[tuple[bytes, bytes | None]],
        now_ns: int,
    ) -> Inode:
        """Change permission bits and xattrs in one step (ACLs); a None value removes, if there.

        Raises:
            TooBigError, XattrsFullError: As `set_xattr`, when all of them are changed.
        """
        ...

    async def effective_xattr(self, ino: InodeNo, name: bytes) -> bytes | None:
        """Return the inode's own xattr of a name, else that of the nearest directory with one."""
        ...

    # --- frozen trees -----------------------------------------------------------------------------
    async def freeze(self, ino: InodeNo) -> None:
        """Have nothing change in and below a directory, until it is thawed.

        Raises:
            NotADirectoryInodeError: It is not a directory.
            InvalidValueError: `FROZEN_COUNT_MAX` trees are frozen, or it was removed.
        """
        ...

    async def begin_thaw(self, ino: InodeNo) -> None:
        """Tell all nodes not to rely on it any more that a tree is frozen; it still is."""
        ...

    async def thaw(self, ino: InodeNo) -> None:
        """End that a tree is frozen, if it is."""
        ...

    async def list_frozen(self) -> list[FrozenTree]:
        """Return all frozen trees."""
        ...

    @property
    def has_frozen(self) -> bool:
        """Whether any tree is frozen."""
        ...

    async def require_thawed(self, ino: InodeNo) -> None:
        """See that an inode may change: who opens it for writing is to hear of that at once.

        Raises:
            FrozenError: It is in a frozen tree.
        """
        ...

    async def find_frozen(self, ino: InodeNo) -> FrozenTree | None:
        """Return the nearest frozen tree that an inode is in, or is the directory of."""
        ...

    # --- pins and codecs --------------------------------------------------------------------------
    async def set_pin(self, ino: InodeNo, tier: Tier | None) -> None:
        """Set or remove the inode's own pin."""
        ...

    async def effective_pin(self, ino: InodeNo) -> EffectivePin:
        """Return the inode's own pin, else that of the nearest pinned directory above.

        Those directories above count that root owns, or the inode's own user; so it is
        with codecs and xattrs.
        """
        ...

    async def set_codec(self, ino: InodeNo, codec: str | None) -> None:
        """Set or remove the inode's own codec."""
        ...

    async def effective_codec(self, ino: InodeNo) -> str | None:
        """Return the inode's own codec, else that of the nearest directory above with one."""
        ...
