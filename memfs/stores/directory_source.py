"""A directory as a source: its files are objects, and nothing in it is changed.

Invariant: a file is opened for reading only. Its etag is made of inode, size and times; bytes are
returned only if these were the same before and after they were read.

The number of the device is no part of the etag: it may be another one after each boot. A file that
is written twice within a tick of the kernel's clock (4 ms) and keeps its size has one etag.
"""

from __future__ import annotations

import contextlib
import os
import stat as statmode
from typing import TYPE_CHECKING, TypeVar

from memfs.errors import (
    ObjectChangedError,
    ObjectMissingError,
    StoreUnavailableError,
    StoreUnreachableError,
)
from memfs.stores.calls import BlockingCalls
from memfs.stores.disk import disk_errors, read_fully
from memfs.stores.source import PAGE_COUNT, Attributes, LocalFile, RangeRead, SourceObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.stores.parts import PartSlots
    from memfs.stores.source import ObjectPage

T = TypeVar("T")


class DirectorySource:
    """A `SourceBackend` over a directory.

    Directories and symlinks are listed with their attributes, directories with a slash behind
    their name. Devices, sockets and FIFOs are left out.

    Args:
        root: The directory.
        timeout_s: Deadline of a call.
        thread_count_max: Blocking calls at a time.
        slots: See `SourceBackend`.
    """

    def __init__(
        self, root: Path, timeout_s: float, thread_count_max: int, slots: PartSlots
    ) -> None:
        self._root = root
        self._slots = slots
        self._calls = BlockingCalls(self.url, timeout_s, thread_count_max)

    @property
    def url(self) -> str:
        """`file://` and the directory."""
        return f"file://{self._root}"

    @property
    def slots(self) -> PartSlots:
        """Room in memory for parts of objects."""
        return self._slots

    async def list_objects(
        self, page: str, prefix: str = "", *, shallow: bool = False
    ) -> ObjectPage:
        """See `SourceBackend`."""
        last, below = os.fsencode(page), os.fsencode(prefix.rstrip("/"))
        return await self._call("list", lambda: self._list(last, below, shallow=shallow))

    async def read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        """See `SourceBackend`."""
        return await self._call(f"get {wanted.key}", lambda: self._read(wanted, start, end))

    async def look_at(self, key: str, version: str = "") -> SourceObject:
        """See `SourceBackend`."""
        return await self._call(f"look at {key}", lambda: self._look_at(key))

    async def open_if(self, wanted: SourceObject) -> LocalFile | None:
        """See `SourceBackend`."""
        return await self._call(f"open {wanted.key}", lambda: self._open(wanted))

    def local_path(self, key: str) -> Path | None:
        """Each object is a local file."""
        return self._root / key

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _call(self, what: str, function: Callable[[], T]) -> T:
        def call() -> T:
            try:
                with disk_errors(f"source {self.url}: {what}"):
                    return function()
            except ObjectMissingError:
                if not self._root.is_dir():
                    raise StoreUnreachableError(
                        f"source {self.url}: the directory is gone; mount its disk again"
                    ) from None
                raise

        return await self._calls.run(what, call)

    def _list(self, last: bytes, below: bytes, *, shallow: bool) -> ObjectPage:
        found: list[SourceObject] = []
        for path in _files_behind(os.fsencode(self._root), below, last, shallow=shallow):
            try:
                status = os.lstat(os.fsencode(self._root) + b"/" + path)
            except FileNotFoundError:
                # Removed since its directory was read.
                continue
            key, target = os.fsdecode(path), b""
            if statmode.S_ISLNK(status.st_mode):
                target = os.readlink(os.fsencode(self._root) + b"/" + path)
            elif not statmode.S_ISREG(status.st_mode) and not path.endswith(b"/"):
                continue
            found.append(_object_of(key, status, target))
            if len(found) == PAGE_COUNT:
                return found, found[-1].key
        return found, None

    def _open(self, wanted: SourceObject) -> LocalFile:
        with self._opened(wanted) as fd:
            return LocalFile(os.dup(fd))

    @contextlib.contextmanager
    def _opened(self, wanted: SourceObject) -> Iterator[int]:
        """Open a file for the block; it is closed at its end, whatever a traceback refers to."""
        # No device, and no FIFO that would wait for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(self._root / wanted.key, flags)
        try:
            self._check(wanted, fd)
            yield fd
        finally:
            os.close(fd)

    def _read(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        with self._opened(wanted) as fd:
            data = read_fully(fd, end - start, start)
            self._check(wanted, fd)
        if len(data) != end - start:
            raise StoreUnavailableError(f"source {self.url}: {wanted.key}: it ends too early")
        return RangeRead(data)

    def _check(self, wanted: SourceObject, fd: int) -> None:
        found = _object_of(wanted.key, os.fstat(fd))
        if (found.etag, found.size) != (wanted.etag, wanted.size):
            raise ObjectChangedError(
                f"source {self.url}: {wanted.key} was changed: its size or its times are others"
            )

    def _look_at(self, key: str) -> SourceObject:
        status = os.lstat(self._root / key)
        if not statmode.S_ISREG(status.st_mode):
            raise FileNotFoundError(2, "no regular file", key)
        return _object_of(key, status)


def _object_of(key: str, status: os.stat_result, target: bytes = b"") -> SourceObject:
    attributes = Attributes(status.st_mode, status.st_uid, status.st_gid, target)
    size = status.st_size if statmode.S_ISREG(status.st_mode) else 0
    numbers = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    etag = "-".join(f"{number:x}" for number in numbers)
    return SourceObject(key, size, etag, status.st_mtime_ns, "", attributes)


def _files_behind(
    top: bytes, below: bytes, last: bytes, *, shallow: bool = False
) -> Iterator[bytes]:
    """Yield paths behind a path in order of their bytes, those of directories with a slash.

    Args:
        top: The root.
        below: A directory, behind the root; not its slash at the end.
        last: What comes up to here is passed over, without a look into its directories.
        shallow: Directories are not looked into.
    """
    prefix = below + b"/" if below else b""
    try:
        with os.scandir(top + b"/" + below) as entries:
            # What is below a directory is sorted by the slash behind its name.
            names = sorted(
                prefix + entry.name + (b"/" if entry.is_dir(follow_symlinks=False) else b"")
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        if not below:
            raise
        return
    for name in names:
        if not name.endswith(b"/"):
            if name > last:
                yield name
        elif name > last or last.startswith(name):
            if name > last:
                yield name
            if not shallow:
                yield from _files_behind(top, name[:-1], last)
