"""The local disk: durable files, whole or absent.

Invariant: a name appears in a directory only for a file whose bytes are already on stable storage.
"""

from __future__ import annotations

import contextlib
import errno as codes
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Self

from memfs.errors import (
    CorruptDataError,
    FileTooLargeError,
    MemfsError,
    NoSpaceError,
    ObjectMissingError,
    StoreError,
)
from memfs.linux.files import (
    NotPlainError,
    open_regular,
    seek_span,
    share_blocks,
    sync_directory,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

COPY_STEP_BYTES = 16 << 20
"""Bytes of a copy between two progress reports: some 10 ms where the disk shares no blocks."""

COMPARED_BYTES = 1 << 20
"""Bytes of two files compared at a time."""

_NO_KERNEL_COPY = frozenset(
    {codes.EXDEV, codes.ENOSYS, codes.EOPNOTSUPP, codes.EINVAL, codes.EPERM}
)

ByteProgress = Callable[[int], None]
"""Told the bytes done so far; may raise to stop the work, as `trio.from_thread.check_cancelled`."""


def translate_error(error: OSError, subject: str) -> MemfsError:
    """Return the deliberate error for a failed system call on a local file.

    Args:
        error: What the call raised.
        subject: The file in question, as the message names it.
    """
    text = f"{subject}: {error.strerror or error}"
    match error.errno:
        case codes.ENOSPC | codes.EDQUOT:
            return NoSpaceError(f"{text}; free space on that disk or raise the quota")
        case codes.ENOENT:
            return ObjectMissingError(text)
        case codes.EFBIG:
            return FileTooLargeError(text)
        case codes.EMFILE | codes.ENFILE:
            return StoreError(f"{text}; raise the limit of open files (LimitNOFILE, fs.file-max)")
        case _:
            return StoreError(text)


@contextlib.contextmanager
def disk_errors(subject: str) -> Iterator[None]:
    """Turn every OSError of the block into the deliberate error of `translate_error`."""
    try:
        yield
    except OSError as error:
        raise translate_error(error, subject) from error


def path_of(fd: int) -> str:
    """Return the name of an open file, for messages (proc(5), /proc/PID/fd)."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"


def open_plain(path: str | os.PathLike[str], *, follows: bool = False) -> int:
    """Return a descriptor for reading a file that memfs wrote.

    A pipe in its place would keep a thread waiting for ever, and a device may give bytes for ever.

    Args:
        path: Where the file is.
        follows: It may be a symbolic link.

    Raises:
        CorruptDataError: Something else than a plain file is there.
        OSError: As of open(2).
    """
    try:
        return open_regular(path, os.O_RDONLY, follows=follows)
    except NotPlainError as error:
        raise CorruptDataError(f"{os.fsdecode(path)} is no plain file") from error


def open_source(path: Path) -> BinaryIO:
    """Open a local file that is to be stored elsewhere; raises as `open_plain`."""
    # A file in memory is told by its path in /proc.
    return open(open_plain(path, follows=True), "rb")


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the file's position, however many calls that takes (write(2))."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_all_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at an offset and leave the file's position alone (pwrite(2))."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def read_fully(fd: int, size: int, offset: int) -> bytes:
    """Return `size` bytes from `offset`; fewer only at the end of the file (pread(2))."""
    data = os.pread(fd, size, offset)
    if len(data) in (size, 0):
        return data
    # One call moves at most 0x7ffff000 bytes, and a signal may cut it short earlier still.
    parts = [data]
    done = len(data)
    while done < size and (data := os.pread(fd, size - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def clone_file(
    source_fd: int,
    target_fd: int,
    on_progress: ByteProgress | None = None,
    *,
    may_shrink: bool = False,
) -> bool:
    """Make an empty file equal to another one: shared extents, else a copy that keeps holes.

    Moves the file positions of both descriptors.

    Args:
        source_fd: Readable; not changed meanwhile.
        target_fd: Writable and empty.
        on_progress: Told the position reached, at least every `COPY_STEP_BYTES`.
        may_shrink: A program may write the source meanwhile: zeros stand for what it has cut off.

    Returns:
        True if the extents are shared.
    """
    if share_blocks(source_fd, target_fd):
        return True
    size = os.fstat(source_fd).st_size
    os.ftruncate(target_fd, size)
    for start, end in data_extents(source_fd, size):
        while start < end:
            count = _copy_some(source_fd, target_fd, start, min(end - start, COPY_STEP_BYTES))
            if not count:
                break
            start += count
            if on_progress is not None:
                on_progress(start)
    if not may_shrink and (now := os.fstat(source_fd).st_size) < size:
        raise StoreError(f"file ended at byte {now} of {size} while it was copied")
    return False


def equal_files(first: Path, second: Path, on_step: Callable[[], None]) -> bool:
    """Return whether two files hold the same bytes. Blocks.

    Args:
        first: One of them.
        second: The other one.
        on_step: Called at each MiB; may raise to stop.

    Raises:
        ObjectMissingError: One of them is gone.
    """
    with (
        disk_errors(f"{first}, {second}"),
        open(open_plain(first), "rb", 0) as one,
        open(open_plain(second), "rb", 0) as two,
    ):
        while True:
            on_step()
            data = one.read(COMPARED_BYTES)
            if data != two.read(COMPARED_BYTES):
                return False
            if not data:
                return True


def data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges `[start, end)` that are not holes (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size:
        try:
            start = seek_span(fd, end, os.SEEK_DATA)
            end = seek_span(fd, start, os.SEEK_HOLE)
        except OSError as error:
            # The rest is a hole, or was cut off meanwhile.
            if error.errno == codes.ENXIO:
                return
            raise
        yield start, end


def _copy_some(source_fd: int, target_fd: int, offset: int, count: int) -> int:
    try:
        copied = os.copy_file_range(source_fd, target_fd, count, offset, offset)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
        copied = 0
    if not copied:
        os.lseek(target_fd, offset, os.SEEK_SET)
        copied = os.sendfile(target_fd, source_fd, offset, count)
    return copied


class DirectoryTree:
    """Directories below one root, each made durable once by this process.

    Args:
        root: Created if missing, with its parents.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # A directory found at start may stem from a process that died before its fsync, so only
        # what this process synced itself counts as durable.
        self._durable: set[Path] = set()
        self._lock = threading.Lock()
        with disk_errors(str(root)):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def make(self, directory: Path) -> None:
        """See that a directory is there; one that somebody removed is made durable anew."""
        if directory.is_dir():
            return
        if directory != self.root:
            self.make(directory.parent)
        # Before it is there: who finds it there must not take it for the former one.
        with self._lock:
            self._durable.discard(directory)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def sync(self, directory: Path) -> None:
        """Make the entries of a directory durable, and the directory's own name up to the root."""
        sync_directory(directory)
        while True:
            with self._lock:
                if directory in self._durable:
                    return
            sync_directory(directory.parent)
            with self._lock:
                self._durable.add(directory)
            if directory == self.root:
                return
            directory = directory.parent


class Draft:
    """A file that is being written under a temporary name, to appear whole or not at all.

    Used as a context manager; what was not published by the end of the block is discarded.

    Args:
        temporary: Its name until then, on the same file system; must not exist.
        target: Its final name; an older file of that name is replaced.
        tree: Holds `target`; makes its directories durable.
    """

    def __init__(self, temporary: Path, target: Path, tree: DirectoryTree) -> None:
        self.temporary = temporary
        self.target = target
        self._tree = tree
        self._published = False
        with disk_errors(str(temporary)):
            self.fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def publish(self) -> None:
        """Make bytes, name and directories durable, in that order.

        Raises:
            NoSpaceError, StoreError: Nothing appeared; or, when only the last step failed, the
                whole file did, and a repeated attempt replaces it.
        """
        with disk_errors(str(self.target)):
            os.fsync(self.fd)
            self._tree.make(self.target.parent)
            self.temporary.rename(self.target)
            self._published = True
            # Without this the rename itself may vanish after power loss (fsync(2), NOTES).
            self._tree.sync(self.target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self.fd)
        if not self._published:
            self.temporary.unlink(missing_ok=True)
