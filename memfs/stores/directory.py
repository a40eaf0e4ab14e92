"""The directory store: objects as files of a local or network directory.

Invariant: a file under an object's name is whole and on stable storage. A key is a path below the
root; unfinished files are in `.memfs-unfinished/`, which is no key's prefix.
"""

from __future__ import annotations

import contextlib
import errno as codes
import os
import secrets
import stat as statmode
import time
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import InvalidValueError, ObjectMissingError, StoreUnreachableError
from memfs.stores.calls import BlockingCalls
from memfs.stores.disk import (
    COPY_STEP_BYTES,
    DirectoryTree,
    Draft,
    clone_file,
    disk_errors,
    open_plain,
    open_source,
    read_fully,
    write_all,
)
from memfs.stores.parts import PART_CONCURRENCY, PartSlots
from memfs.stores.store import PART_BYTES, ObjectStat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from memfs.stores.calls import TransferProgress
    from memfs.stores.store import ByteSource, RemoteStore

UNFINISHED = ".memfs-unfinished"

UNFINISHED_AGE_S = 86400.0
"""Unfinished files older than this are nobody's: no transfer lasts a day without a write; guess."""


class Scanned(NamedTuple):
    """What one directory holds."""

    objects: list[ObjectStat]
    directories: list[str]
    """Key prefixes without the slash at the end."""


class DirectoryStore:
    """A `RemoteStore` over a directory, the default glacier.

    Args:
        root: Created if missing, which is for the default of a state directory.
        timeout_s: Deadline of a call; longest pause within a transfer.
        thread_count_max: Blocking calls at a time.
        slots: See `RemoteStore`; None: for one transfer as large as they get.
    """

    def __init__(
        self,
        root: Path,
        timeout_s: float,
        thread_count_max: int,
        slots: PartSlots | None = None,
    ) -> None:
        self._root = root
        self._slots = slots or PartSlots(PART_CONCURRENCY * PART_BYTES, 1)
        self._tree = DirectoryTree(root)
        self._unfinished = root / UNFINISHED
        self._timeout_s = timeout_s
        self._calls = BlockingCalls(self.url, timeout_s, thread_count_max)
        with disk_errors(str(self._unfinished)):
            self._unfinished.mkdir(exist_ok=True, mode=0o700)
            self._clear_unfinished()

    @property
    def url(self) -> str:
        """`file://` and the root."""
        return f"file://{self._root}"

    @property
    def slots(self) -> PartSlots:
        """Room in memory for parts of its objects."""
        return self._slots

    def of(self, address: str) -> RemoteStore:
        """Itself."""
        return self

    async def put_file(self, key: str, source: Path) -> None:
        """Copy a file in, durably; shares extents where the file system can."""
        path = self._path(key)

        def put(progress: TransferProgress) -> None:
            temporary = self._unfinished / secrets.token_hex(16)
            with (
                self._errors(f"put {key}"),
                Draft(temporary, path, self._tree) as draft,
                open_source(source) as opened,
            ):
                synced_bytes = 0

                def copied(position: int) -> None:
                    # Synced as it grows: one fsync of gigabytes at the end would look stalled.
                    nonlocal synced_bytes
                    if position - synced_bytes >= COPY_STEP_BYTES:
                        os.fdatasync(draft.fd)
                        synced_bytes = position
                    progress.beat()

                clone_file(opened.fileno(), draft.fd, copied)
                progress.beat()
                draft.publish()

        await self._calls.transfer(f"put {key}", put, self._timeout_s, writes=key)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """Write an object as its bytes come, durably."""
        path = self._path(key)

        def put(progress: TransferProgress) -> None:
            temporary = self._unfinished / secrets.token_hex(16)
            with (
                contextlib.closing(source),
                self._errors(f"put {key}"),
                Draft(temporary, path, self._tree) as draft,
            ):
                synced_bytes = done_bytes = 0
                while data := source.read():
                    write_all(draft.fd, data)
                    done_bytes += len(data)
                    if done_bytes - synced_bytes >= COPY_STEP_BYTES:
                        os.fdatasync(draft.fd)
                        synced_bytes = done_bytes
                    progress.beat()
                draft.publish()

        await self._calls.transfer(f"put {key}", put, self._timeout_s, writes=key)

    async def list_uploads(self, _prefix: str) -> list[ObjectStat]:
        """None: unfinished files are removed by age."""
        await trio.lowlevel.checkpoint()
        return []

    async def abort_uploads(self, key: str) -> int:
        """Nothing: unfinished files are removed by age."""
        await trio.lowlevel.checkpoint()
        return 0

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """Return bytes `[start, end)`."""
        path = self._path(key)

        def get() -> bytes:
            with self._errors(f"get {key}"), _opened(path) as opened:
                return read_fully(opened.fileno(), max(0, end - start), start)

        return await self._calls.run(f"get {key}", get)

    async def get_file(self, key: str, target: Path) -> None:
        """Copy an object out; `target` must not exist and is removed again on failure."""
        path = self._path(key)

        def get(progress: TransferProgress) -> None:
            with self._errors(f"get {key}"), _opened(path) as opened:
                fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    clone_file(opened.fileno(), fd, progress.beat)
                except BaseException:
                    target.unlink(missing_ok=True)
                    raise
                finally:
                    os.close(fd)

        await self._calls.transfer(f"get {key}", get, self._timeout_s)

    async def stat(self, key: str) -> ObjectStat:
        """Return an object's size."""
        path = self._path(key)

        def stat() -> ObjectStat:
            with self._errors(f"stat {key}"):
                status = path.stat()
                if not statmode.S_ISREG(status.st_mode):
                    raise FileNotFoundError(codes.ENOENT, os.strerror(codes.ENOENT))
                return ObjectStat(key, status.st_size)

        return await self._calls.run(f"stat {key}", stat)

    async def delete(self, key: str) -> None:
        """Remove an object; directories stay."""
        path = self._path(key)

        def delete() -> None:
            with disk_errors(f"store {self.url}: delete {key}"):
                path.unlink(missing_ok=True)

        await self._calls.run(f"delete {key}", delete, writes=key)

    async def archive(self, key: str) -> None:
        """Do nothing: a directory has no storage classes."""
        await trio.lowlevel.checkpoint()

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield the objects; memory is bounded by one directory and the path down to it."""
        head, _, _ = prefix.rpartition("/")
        pending = [head]
        while pending:
            directory = pending.pop()
            found, below = await self._calls.run(f"list {prefix}", self._scanner(directory))
            pending.extend(name for name in below if f"{name}/".startswith(prefix))
            for stat in found:
                if stat.key.startswith(prefix):
                    yield stat

    async def aclose(self) -> None:
        """Do nothing: no call leaves anything open."""
        await trio.lowlevel.checkpoint()

    def _scanner(self, directory: str) -> Callable[[], Scanned]:
        """Return a function that lists one directory: objects, and keys of directories."""

        def scan() -> Scanned:
            found, below = scanned = Scanned([], [])
            with disk_errors(f"store {self.url}: list {directory}"):
                try:
                    names = os.listdir(self._root / directory)
                except (FileNotFoundError, NotADirectoryError):
                    self._check_root()
                    return scanned
                for name in names:
                    key = f"{directory}/{name}" if directory else name
                    try:
                        status = os.lstat(self._root / key)
                    except FileNotFoundError:
                        # Deleted meanwhile: no object any more.
                        continue
                    if statmode.S_ISREG(status.st_mode):
                        found.append(ObjectStat(key, status.st_size, status.st_mtime))
                    elif statmode.S_ISDIR(status.st_mode) and key != UNFINISHED:
                        below.append(key)
            return scanned

        return scan

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or parts[0] == UNFINISHED:
            raise InvalidValueError(f"{key!r} is not a key that memfs makes")
        return self._root / key

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            with disk_errors(f"store {self.url}: {what}"):
                yield
        except ObjectMissingError:
            self._check_root()
            raise

    def _check_root(self) -> None:
        """Tell a missing object from a missing store: an unmounted disk loses no object."""
        if not self._unfinished.is_dir():
            raise StoreUnreachableError(
                f"store {self.url}: the directory is gone; mount it again or correct glacier.url"
            )

    def _clear_unfinished(self) -> None:
        oldest = time.time() - UNFINISHED_AGE_S
        for path in self._unfinished.iterdir():
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:
                # Another node that shares the directory finished or removed it.
                continue


def _opened(path: Path) -> FileIO:
    return FileIO(open_plain(path, follows=True))
