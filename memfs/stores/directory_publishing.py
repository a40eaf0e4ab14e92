"""Publishing to a directory: plain files with the times, the mode and the owner of the originals.

A new file gets its name only if that is free (RENAME_NOREPLACE). A later one exchanges its name
with the former one (RENAME_EXCHANGE), which is looked at then: if it is not the one that memfs has
written, both are exchanged back. Where the file system has no such calls, or keeps no xattrs, the
former one is looked at right before it is replaced.

Invariant: nothing outside of the directory is opened or changed, whatever links others plant in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as statmode
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio
from blake3 import blake3

from memfs.errors import (
    InvalidValueError,
    ObjectChangedError,
    ObjectMissingError,
    ObjectTakenError,
    StoreUnreachableError,
)
from memfs.linux.beneath import exchange, open_beneath, rename_new
from memfs.linux.files import give_owner
from memfs.stores.calls import BlockingCalls
from memfs.stores.disk import COPY_STEP_BYTES, disk_errors, read_fully, write_all
from memfs.stores.publishing import TOKEN_NAME, PublicObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.stores.calls import TransferProgress
    from memfs.stores.publishing import PublicAttributes
    from memfs.stores.store import ByteSource

T = TypeVar("T")

_TOKEN_XATTR = f"user.{TOKEN_NAME}"
_DIGEST_XATTR = "user.memfs-digest"
_PREFIX = ".memfs-new-"
_KEY_BYTES_MAX = 3000
"""PATH_MAX is 4096, with the path of the directory."""
_NO_SUCH_CALL = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_PERMISSIONS = 0o777
"""Without the bits that let others act as the owner: who may write here need not be the owner."""


class _Name(NamedTuple):
    """A name in a directory that is open."""

    directory_fd: int
    name: str


class DirectoryPublicStore:
    """A `PublicStore` over a directory.

    Args:
        root: The directory.
        timeout_s: Deadline of a call; longest pause within a transfer.
        thread_count_max: Blocking calls at a time.
    """

    is_conditional = True
    is_replaced_whole = False
    key_bytes_max = _KEY_BYTES_MAX

    def __init__(self, root: Path, timeout_s: float, thread_count_max: int) -> None:
        self._root = root
        self._timeout_s = timeout_s
        self._calls = BlockingCalls(self.url, timeout_s, thread_count_max)

    @property
    def url(self) -> str:
        """`file://` and the directory."""
        return f"file://{self._root}"

    async def put_if(
        self,
        key: str,
        source: ByteSource,
        former: str,
        attributes: PublicAttributes,
        on_begun: Callable[[str], object],
        *,
        in_parts: bool = False,
    ) -> str:
        """See `PublicStore`."""

        def put(progress: TransferProgress) -> str:
            with (
                contextlib.closing(source),
                self._errors(f"publish {key}"),
                self._open_parent(key, make=True) as place,
            ):
                return self._put(key, place, source, former, attributes, on_begun, progress)

        return await self._calls.transfer(f"publish {key}", put, self._timeout_s, key)

    async def abort(self, key: str, upload: str) -> None:
        """See `PublicStore`: a file of others that has been exchanged gets its name back."""
        token, _, former = upload.partition(" ")

        def abort() -> None:
            with contextlib.suppress(FileNotFoundError), self._open_parent(key) as place:
                temporary = place._replace(name=f"{_PREFIX}{token}")
                found = _look(temporary)
                if found.token not in (token, None) and found.etag != former:
                    with contextlib.suppress(FileNotFoundError):
                        if _look(place).token == token:
                            exchange(place.directory_fd, temporary.name, place.name)
                            _remove(temporary)
                            return
                    rename_new(place.directory_fd, temporary.name, place.name)
                    return
                _remove(temporary)

        await self._run(f"abort {key}", abort, writes=key)

    async def find(self, key: str) -> PublicObject | None:
        """See `PublicStore`."""

        def find() -> PublicObject | None:
            try:
                with self._open_parent(key) as place:
                    return _look(place)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                return None

        return await self._run(f"look at {key}", find)

    async def read(self, key: str, stored: PublicObject, start: int, end: int) -> bytes:
        """See `PublicStore`."""

        def read() -> bytes:
            with self._open_parent(key) as place:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                fd = open_beneath(place.directory_fd, place.name, flags)
                try:
                    data = read_fully(fd, end - start, start)
                    if _etag_of(os.fstat(fd)) != stored.etag or len(data) != end - start:
                        raise ObjectChangedError(f"{self.url}/{key}: it was changed")
                finally:
                    os.close(fd)
            return data

        return await self._run(f"read {key}", read)

    async def delete_if(self, key: str, former: str) -> None:
        """See `PublicStore`."""

        def delete() -> None:
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                self._open_parent(key) as place,
            ):
                if _look(place).etag != former:
                    raise self._taken(key)
                _remove(place)
                os.fsync(place.directory_fd)

        await self._run(f"remove {key}", delete, writes=key)

    async def aclose(self) -> None:
        """Nothing is open."""
        await trio.lowlevel.checkpoint()

    async def _run(self, what: str, function: Callable[[], T], writes: str | None = None) -> T:
        def call() -> T:
            with self._errors(what):
                return function()

        return await self._calls.run(what, call, writes=writes)

    def _put(
        self,
        key: str,
        place: _Name,
        source: ByteSource,
        former: str,
        attributes: PublicAttributes,
        on_begun: Callable[[str], object],
        progress: TransferProgress,
    ) -> str:
        self._check_former(key, place, former)
        temporary = place._replace(name=f"{_PREFIX}{attributes.token}")
        on_begun(f"{attributes.token} {former}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(temporary.name, flags, 0o600, dir_fd=place.directory_fd)
        try:
            try:
                is_marked = _mark(fd, _TOKEN_XATTR, attributes.token)
                digest = _write(fd, source, progress)
                if is_marked:
                    _mark(fd, _DIGEST_XATTR, digest)
                _set_attributes(fd, attributes)
                os.fsync(fd)
                # Nobody waits any more: the file would come late.
                progress.beat()
                self._give_name(key, place, temporary.name, former, exchanges=is_marked)
                etag = _etag_of(os.fstat(fd))
            finally:
                os.close(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                if _look(temporary).token in (attributes.token, None):
                    _remove(temporary)
            raise
        os.fsync(place.directory_fd)
        return etag

    def _give_name(
        self, key: str, place: _Name, temporary: str, former: str, *, exchanges: bool
    ) -> None:
        """Let a file that is whole have its name, if the former one is what it is to be."""
        fd, name = place
        try:
            if not former:
                rename_new(fd, temporary, name)
                return
            if exchanges:
                exchange(fd, temporary, name)
                if _look(place._replace(name=temporary)).etag == former:
                    os.unlink(temporary, dir_fd=fd)
                    return
                # Somebody was faster, within the moment since it was looked at.
                exchange(fd, temporary, name)
                raise self._taken(key)
        except FileExistsError as error:
            raise self._taken(key) from error
        except FileNotFoundError as error:
            raise self._taken(key) from error
        except OSError as error:
            if error.errno not in _NO_SUCH_CALL:
                raise
        self._check_former(key, place, former)
        if former:
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            return
        try:
            os.link(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except FileExistsError as error:
            raise self._taken(key) from error
        os.unlink(temporary, dir_fd=fd)

    def _check_former(self, key: str, place: _Name, former: str) -> None:
        try:
            found = _look(place).etag
        except FileNotFoundError:
            found = ""
        if found != former:
            raise self._taken(key)

    @contextlib.contextmanager
    def _open_parent(self, key: str, *, make: bool = False) -> Iterator[_Name]:
        """Open the directory of a file for the block."""
        *above, name = key.split("/")
        if any(part in ("", ".", "..") for part in (*above, name)) or name.startswith(_PREFIX):
            raise InvalidValueError(f"{key!r} cannot be published as a file: choose another name")
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in above:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                        os.fsync(fd)
                below = open_beneath(fd, part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                os.close(fd)
                fd = below
            yield _Name(fd, name)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            with disk_errors(f"{self.url}: {what}"):
                yield
        except ObjectMissingError:
            self._check_root()
            raise

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise StoreUnreachableError(
                f"{self.url}: the directory is gone; mount its disk again or correct the URL"
            )

    def _taken(self, key: str) -> ObjectTakenError:
        return ObjectTakenError(f"{self.url}/{key}: changed by someone else; it stays as it is")


def _write(fd: int, source: ByteSource, progress: TransferProgress) -> str:
    """Write all bytes; returns their digest."""
    synced_bytes = done_bytes = 0
    hasher = blake3()
    while data := source.read():
        write_all(fd, data)
        hasher.update(data)
        done_bytes += len(data)
        if done_bytes - synced_bytes >= COPY_STEP_BYTES:
            # Synced as it grows: one fsync of gigabytes at the end would look stalled.
            os.fdatasync(fd)
            synced_bytes = done_bytes
        progress.beat()
    return hasher.hexdigest()


def _set_attributes(fd: int, attributes: PublicAttributes) -> None:
    if os.geteuid() == 0:
        give_owner(fd, attributes.uid, attributes.gid)
    os.fchmod(fd, attributes.mode & _PERMISSIONS)
    os.utime(fd, ns=(attributes.mtime_ns, attributes.mtime_ns))


def _mark(fd: int, name: str, value: str) -> bool:
    """Write an xattr to a file; returns whether the file system keeps it."""
    try:
        os.setxattr(fd, name, value.encode())
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    return True


def _look(place: _Name) -> PublicObject:
    """Return what a name leads to; what is no regular file has an etag that nothing else has."""
    status = os.stat(place.name, dir_fd=place.directory_fd, follow_symlinks=False)
    if not statmode.S_ISREG(status.st_mode):
        return PublicObject(f"no-file-{status.st_ino:x}", 0, "")
    fd = open_beneath(place.directory_fd, place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        token, digest = _told(fd, _TOKEN_XATTR), _told(fd, _DIGEST_XATTR)
    finally:
        os.close(fd)
    return PublicObject(_etag_of(status), status.st_size, token, _digest_of(digest or ""))


def _told(fd: int, name: str) -> str | None:
    """Return an xattr; empty: it is not there; None: the file system has no xattrs."""
    try:
        return os.getxattr(fd, name).decode(errors="replace")
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return "" if error.errno == errno.ENODATA else None


def _digest_of(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _etag_of(status: os.stat_result) -> str:
    """Not by the time of its last change of state: a rename changes that."""
    numbers = status.st_ino, status.st_size, status.st_mtime_ns
    return "-".join(f"{number:x}" for number in numbers)


def _remove(place: _Name) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(place.name, dir_fd=place.directory_fd)
