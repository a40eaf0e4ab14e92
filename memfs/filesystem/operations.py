"""The contract between a driver and the file system: what each FUSE request means.

Invariant: a driver converts, calls, and converts back; every decision is behind this contract.

Rules for drivers:
- Methods raise `MemfsError` (answer its `errno`) or `OSError` from the backing file (answer its
  `errno`); anything else is a bug: log the traceback once, answer EIO, go on.
- Run a method by `send(None)` within `waiting.fast_path`: nearly all end without suspending. One
  that must wait yields `waiting.LEAVE` first; there a driver moves it into a task of its own.
- Before the reply to any request is written, `uncommitted` must be False: await `commit`, once for
  all requests that were read together, as one runs a method. If it raises, answer its errno to all
  of them.
- The payload of `write` must stay unchanged until the coroutine has ended, detached or not.
- `.` and `..` are the driver's (`get_parent`); permissions the kernel's (`default_permissions`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.content.opening import Handle
    from memfs.filesystem.replies import Attributes, Entry, FilesystemStatistics, Opened
    from memfs.filesystem.validity import Validity
    from memfs.metadata.records import DirectoryEntry
    from memfs.types import InodeNo


class Caller(Protocol):
    """The process behind a request."""

    uid: int
    """fsuid, in the mount's user namespace."""
    gid: int
    """fsgid."""
    pid: int
    """0 for the kernel itself."""
    umask: int
    """That of the process (only set for creating requests, else 0)."""

    def is_alone(self) -> bool:
        """Return whether nobody else is waiting for the event loop at this moment.

        If so, the request may keep it for about a millisecond.
        """
        ...


CAPABILITY_XATTR = b"security.capability"

NOW_NS = -(1 << 127)
"""Stands for the present time; no request can say a time so early in its 64 bits of seconds."""


class AttributeRequest(NamedTuple):
    """What setattr asks for; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    """`NOW_NS`: now."""
    mtime_ns: int | None = None
    """`NOW_NS`: now."""
    ctime_ns: int | None = None
    kill_suidgid: bool = False
    """Clear setuid, and setgid of group-executables, as a write by an ordinary user does."""

    @property
    def sets_times(self) -> bool:
        """True if access or modification time are to be set."""
        return self.atime_ns is not None or self.mtime_ns is not None


class Operations(Protocol):
    """Every request of a mounted file system."""

    validity: Validity
    """How long the kernel may believe what a reply does not say it of: listings, missing names."""

    @property
    def opens_directories(self) -> bool:
        """True if `open_directory` is to be asked, and no listing may be kept by the kernel."""
        ...

    # --- names -----------------------------------------------------------------------------------
    async def lookup(
        self, parent: InodeNo, name: bytes, caller: Caller | None = None
    ) -> Entry | None:
        """LOOKUP; None for a missing name, which may be believed for `validity.missing_s`.

        Only a question in `.memfs/query` has another answer for another caller.
        """
        ...

    async def create(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        """CREATE: a regular file, opened with open(2) flags. The name must be new."""
        ...

    async def create_unnamed(
        self, caller: Caller, parent: InodeNo, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        """TMPFILE (open(2) O_TMPFILE)."""
        ...

    async def make_node(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int, rdev: int
    ) -> Entry:
        """MKNOD: regular file, FIFO, socket or device."""
        ...

    async def make_directory(
        self, caller: Caller, parent: InodeNo, name: bytes, mode: int
    ) -> Entry:
        """MKDIR."""
        ...

    async def make_symlink(
        self, caller: Caller, parent: InodeNo, name: bytes, target: bytes
    ) -> Entry:
        """SYMLINK."""
        ...

    async def read_link(self, ino: InodeNo) -> bytes:
        """READLINK."""
        ...

    async def link(self, ino: InodeNo, parent: InodeNo, name: bytes) -> Entry:
        """LINK."""
        ...

    async def unlink(self, parent: InodeNo, name: bytes) -> None:
        """UNLINK."""
        ...

    async def give_back(self) -> None:
        """After UNLINK, RENAME and RENAME2: give the space of what is gone back to the disk."""
        ...

    async def remove_directory(self, parent: InodeNo, name: bytes) -> None:
        """RMDIR."""
        ...

    async def rename(
        self, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes, flags: int
    ) -> None:
        """RENAME, RENAME2: `RENAME_NOREPLACE` (1), `RENAME_EXCHANGE` (2), `RENAME_WHITEOUT` (4)."""
        ...

    async def open_directory(self, caller: Caller, ino: InodeNo) -> None:
        """OPENDIR."""
        ...

    async def list_directory(
        self, ino: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """READDIR, READDIRPLUS: dentries after a cookie (0: from the start), as of now."""
        ...

    async def get_parent(self, ino: InodeNo) -> InodeNo:
        """The directory of a directory, for `..`."""
        ...

    def forget(self, inos: Sequence[InodeNo]) -> None:
        """FORGET, BATCH_FORGET: the kernel has dropped these inodes; orphans among them may go.

        How many look-ups it gives back is not counted, which would take memory for each inode that
        the kernel knows. It gives back fewer than all only where a look-up failed in the kernel
        itself (fs/fuse/dir.c, readdir.c). What that leaves: a name that is looked up again while
        the FORGET of its inode is still queued, and then removed, while nothing but O_PATH or a
        working directory holds it: such a holder sees ESTALE, and no byte with a name is touched.
        """
        ...

    # --- attributes ------------------------------------------------------------------------------
    async def get_attributes(self, ino: InodeNo) -> Attributes:
        """GETATTR, STATX."""
        ...

    async def set_attributes(
        self, caller: Caller, ino: InodeNo, request: AttributeRequest
    ) -> Attributes:
        """SETATTR: chmod, chown, truncate, utimensat."""
        ...

    def lacks_capability(self, ino: InodeNo) -> bool:
        """Return True if it is known that a file has no `security.capability`; never suspends."""
        ...

    async def get_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> bytes:
        """GETXATTR; the driver compares with the caller's buffer (ERANGE)."""
        ...

    async def set_xattr(
        self, caller: Caller, ino: InodeNo, name: bytes, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        """SETXATTR; `kill_sgid`: FUSE_SETXATTR_ACL_KILL_SGID."""
        ...

    async def list_xattrs(self, caller: Caller, ino: InodeNo) -> list[bytes]:
        """LISTXATTR."""
        ...

    async def remove_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> None:
        """REMOVEXATTR."""
        ...

    # --- content ---------------------------------------------------------------------------------
    async def open(
        self, caller: Caller, ino: InodeNo, flags: int, kill_suidgid: bool = False
    ) -> Opened:
        """OPEN; truncates too where the flags say so (FUSE_ATOMIC_O_TRUNC)."""
        ...

    def release(self, ino: InodeNo, handle: Handle) -> None:
        """RELEASE: the last descriptor of an open file is closed; unknown ones are passed over."""
        ...

    async def read(self, ino: InodeNo, handle: Handle, offset: int, size: int) -> bytes | bytearray:
        """READ of modes that the daemon serves; fewer bytes only at the end of the file."""
        ...

    async def write(
        self,
        caller: Caller,
        ino: InodeNo,
        handle: Handle,
        offset: int,
        data: memoryview,
        kill_suidgid: bool = False,
    ) -> int:
        """WRITE of modes that the daemon serves; returns the bytes written."""
        ...

    async def fsync(self, caller: Caller, ino: InodeNo, data_only: bool) -> None:
        """FSYNC: content and metadata of a file on stable storage (fsync(2))."""
        ...

    async def fsync_directory(self, caller: Caller, ino: InodeNo) -> None:
        """FSYNCDIR: the dentries on stable storage."""
        ...

    async def sync(self) -> None:
        """SYNCFS: everything on stable storage (syncfs(2))."""
        ...

    async def allocate(self, ino: InodeNo, mode: int, offset: int, length: int) -> None:
        """FALLOCATE with fallocate(2) modes; as the backing file system can."""
        ...

    async def seek(self, caller: Caller, ino: InodeNo, offset: int, whence: int) -> int:
        """LSEEK: SEEK_DATA (3) and SEEK_HOLE (4); the kernel does the others itself."""
        ...

    async def copy_range(
        self,
        source: InodeNo,
        source_offset: int,
        target: InodeNo,
        target_offset: int,
        size: int,
    ) -> int:
        """COPY_FILE_RANGE; reflinks where the backing file system can. Returns bytes copied."""
        ...

    # --- the whole -------------------------------------------------------------------------------
    async def statistics(self) -> FilesystemStatistics:
        """STATFS."""
        ...

    @property
    def uncommitted(self) -> bool:
        """True if replies must wait for `commit`."""
        ...

    async def commit(self) -> None:
        """Make the changes so far survive the death of the daemon; raises as `Engine`'s."""
        ...
