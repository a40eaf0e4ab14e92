"""The directory of a manager: each call on it stays below it, in every process and thread.

Invariant: nothing but a path is kept, so that a manager can be pickled and sent through fork; what
is written is there whole under its name, or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from memfs.client.mount import Mount
from memfs.client.placement import frozen_above, writer_of
from memfs.client.xattrs import set_xattrs
from memfs.linux.beneath import open_beneath, rename_new
from memfs.linux.mounts import device_of
from memfs.manager.errors import (
    ClosedManagerError,
    KeyConflictError,
    MissingKeyError,
    MountUnavailableError,
    ReadOnlyMountError,
)
from memfs.manager.values.value import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EXDEV, errno.ELOOP, errno.ESTALE)
"""What an open meets where nothing is stored. EXDEV and ELOOP are symbolic links that lead out of
the directory, or nowhere. ESTALE is a directory that is gone while the kernel still believes its
name."""

_CONFLICTS = (FileExistsError, IsADirectoryError, NotADirectoryError)

_TEMPORARY_SUFFIX = ".tmp"

_CONTROL = "user.memfs."

LARGE_BYTES = 16 << 20
"""A file of so many bytes is worth a request for its pages. Guess."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class _Temporary(NamedTuple):
    """A file that is written under a hidden name."""

    directory: int
    hidden: str
    name: str
    """What it is to be called."""
    file: BinaryIO

    def rename(self, *, replace: bool) -> None:
        """Give it its name, once it is closed."""
        if replace:
            os.rename(self.hidden, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        else:
            rename_new(self.directory, self.hidden, self.name)


@contextlib.contextmanager
def _temporary(directory: int, name: str) -> Iterator[_Temporary]:
    """Make a hidden file; it is removed where the block fails."""
    hidden = f".{name[:50]}.{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"
    fd = open_beneath(directory, hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        with open(fd, "wb", buffering=0, closefd=True) as file:
            yield _Temporary(directory, hidden, name, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(hidden, dir_fd=directory)
        raise


def _make_room(directory: int, name: str) -> None:
    """Have the cached pages of a large file go that is about to be replaced.

    Else both are in memory for a while, and other files lose their pages. In a virtual machine that
    gives free memory back to its host, to store 1 GiB took 13 times the processor time.
    """
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_size >= LARGE_BYTES:
            path = f"/proc/self/fd/{directory}/{name}"
            os.setxattr(path, "user.memfs.cache", b"drop", follow_symlinks=False)


class _LateFile(io.RawIOBase, BinaryIO):
    """A file that is begun when more is written than may be held in memory.

    Args:
        begin: Makes the file, which it closes as well.
        held_bytes: So many are held.
    """

    def __init__(self, begin: Callable[[], BinaryIO], held_bytes: int) -> None:
        self._begin = begin
        self._held_bytes = held_bytes
        self._file: BinaryIO | None = None
        self.held = bytearray()
        """What was written, until the file was begun."""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        """Hold bytes, or write some of them; returns how many."""
        view = memoryview(data).cast("B")
        if self._file is None:
            if len(self.held) + len(view) <= self._held_bytes:
                self.held += view
                return len(view)
            self._file = self._begin()
            write_all(self._file, memoryview(self.held))
            self.held = bytearray()
        return self._file.write(view)


class Root:
    """Files below one directory, by relative paths.

    Args:
        path: The directory; it is made when something is stored first.
        on_mount: It lies in a mount of memfs. What is below its mountpoint while nothing is mounted
            there is neither read nor written.
    """

    def __init__(self, path: str, *, on_mount: bool) -> None:
        self.path = path
        self._on_mount = on_mount
        self._device = ""
        """That of the mount, where the directory was found last."""
        self._is_closed = False

    def close(self) -> None:
        """Refuse all that is asked for from now on."""
        self._is_closed = True

    def require(self) -> None:
        """See that the manager is in use, and that its mount is there.

        Raises:
            ClosedManagerError: It was closed.
            MountUnavailableError: Nothing is mounted there, or its daemon is dead.
        """
        with contextlib.suppress(MissingKeyError), self._opened():
            return

    @contextlib.contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int]:
        if self._is_closed:
            raise ClosedManagerError(
                f"{self.path}: this manager was closed; make another one, which goes on there"
            )
        try:
            fd = os.open(self.path, _DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._on_mount:
                self._find_mount()
            if make:
                with self._explained():
                    os.makedirs(self.path, exist_ok=True)
                with self._opened() as fd:
                    yield fd
                return
            raise MissingKeyError(f"{self.path} is not there: nothing is stored yet") from None
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                raise self._dead() from error
            raise MountUnavailableError(
                f"{self.path}: {error.strerror}; is the file system mounted?"
            ) from error
        try:
            if self._on_mount and device_of(fd) != self._device:
                self._take_device(device_of(fd))
            with self._explained():
                yield fd
        except OSError as error:
            if error.errno != errno.ENOTCONN or isinstance(error, MountUnavailableError):
                raise
            raise self._dead() from error
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """For the block, what a mount refuses that is read-only has its reason.

        Raises:
            ReadOnlyMountError: It is.
        """
        try:
            yield
        except OSError as error:
            if error.errno != errno.EROFS or isinstance(error, ReadOnlyMountError):
                raise
            path = Path(self.path)
            there = next(each for each in (path, *path.parents) if each.exists())
            writer = writer_of(there) if self._on_mount else None
            if writer is not None:
                reason = f"this node reads; the writer is {writer}: store it there"
            elif self._on_mount and (tree := frozen_above(there)) is not None:
                reason = f"{tree} of the mount is frozen; memfs thaw lets it change"
            else:
                reason = "it is mounted read-only, or frozen in part (memfs freeze --list)"
            raise ReadOnlyMountError(f"{self.path}: {reason}") from None

    def _dead(self) -> MountUnavailableError:
        return MountUnavailableError(
            f"{self.path}: the daemon of its mount is dead; make the manager anew, which starts it "
            "again, or mount it again by `memfs mount`"
        )

    def _find_mount(self) -> Mount:
        found = Mount.find(self.path)
        if found is None:
            raise MountUnavailableError(
                f"{self.path}: its mount is gone; make the manager anew, which mounts it again"
            )
        return found

    def _take_device(self, device: str) -> None:
        """See that an open directory is on the mount, which may be another one than before.

        Raises:
            MountUnavailableError: It is beneath the mountpoint, where the mount was.
        """
        if self._find_mount().device != device:
            raise MountUnavailableError(f"{self.path}: it was mounted just now; try again")
        self._device = device

    @contextlib.contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the directory that a path is in, and its last component."""
        directory, _, name = path.rpartition("/")
        with self._opened(make=make) as root:
            if not directory:
                yield root, name
                return
            fd = self._open_directory(root, directory, make=make)
            try:
                yield fd, name
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def _top(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the directory of all keys, and the path from there."""
        with self._opened() as root:
            yield root, path

    def _open_directory(self, root: int, directory: str, *, make: bool) -> int:
        while True:
            try:
                return open_beneath(root, directory, _DIRECTORY)
            except FileNotFoundError:
                if not make:
                    raise
                _make_directories(root, directory)

    # --- reading ---------------------------------------------------------------------------------
    def open(self, path: str, flags: int = os.O_RDONLY, *, make: bool = False) -> int:
        """Return a descriptor of a regular file.

        Args:
            path: Relative.
            flags: As of open(2).
            make: Make the directories above it where they are missing.

        Raises:
            MissingKeyError: There is no file, or it is a directory.
            KeyConflictError: With `make`: something is there that is no file, or that is not to be.
            OSError: As of open(2).
        """
        # A FIFO that somebody planted must not hold the caller.
        waits = 0 if flags & os.O_PATH else os.O_NONBLOCK
        try:
            with self._parent(path, make=True) if make else self._top(path) as (directory, name):
                fd = open_beneath(directory, name, flags | waits)
        except OSError as error:
            if make and isinstance(error, _CONFLICTS):
                raise self._conflict(path, error) from None
            if error.errno in _NOT_THERE:
                raise MissingKeyError(f"nothing is stored as {self.path}/{path}") from None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise MissingKeyError(f"{self.path}/{path} is not a plain file")
        return fd

    def exists(self, path: str) -> bool:
        """Return whether a regular file is there."""
        try:
            os.close(self.open(path, os.O_PATH))
        except MissingKeyError:
            return False
        return True

    def walk(self, prefix: str = "") -> Iterator[str]:
        """Yield the paths of all files, those of one directory in order of their names.

        Hidden names are left out. What comes and goes meanwhile may be there or not.

        Args:
            prefix: That of the path: directories that cannot hold such a path are not read.
        """
        try:
            with self._opened() as root:
                yield from _walk(root, "", prefix)
        except MissingKeyError:
            return

    def remove_leftovers(self, older_than_s: float) -> int:
        """Remove temporary files of writers that were killed; returns how many there were.

        Args:
            older_than_s: Seconds since the last write; younger ones may still be written.
        """
        before_s, count = time.time() - older_than_s, 0
        with contextlib.suppress(MissingKeyError), self._opened() as top:
            for _, _, names, fd in os.fwalk(".", dir_fd=top):
                for name in names:
                    if name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX):
                        with contextlib.suppress(FileNotFoundError):
                            if os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime < before_s:
                                os.unlink(name, dir_fd=fd)
                                count += 1
        return count

    # --- changing --------------------------------------------------------------------------------
    def write(
        self,
        path: str,
        fill: Callable[[BinaryIO], None],
        attributes: Mapping[str, bytes],
        *,
        replace: bool,
        durable: bool,
    ) -> os.stat_result:
        """Make a file with its content and attributes, all of them at one instant.

        Args:
            path: Relative; directories above it are made.
            fill: Writes the content.
            attributes: Extended attributes by name.
            replace: A file that is there gives way; else it is an error.
            durable: Return when content, attributes and name are on stable storage.

        Returns:
            What fstat(2) tells of it.

        Raises:
            KeyConflictError: Something is there: a directory, or a file that is not to be replaced;
                or a component above is a file.
            OSError: It cannot be written; nothing has changed.
        """
        status = self._write(path, fill, attributes, 0, replace=replace, durable=durable)
        assert not isinstance(status, bytes)
        return status

    def write_unless_small(
        self,
        path: str,
        fill: Callable[[BinaryIO], None],
        attributes: Mapping[str, bytes],
        held_bytes: int,
        *,
        durable: bool = False,
    ) -> os.stat_result | bytes:
        """Return the content where it is small, and nothing is written; else do as `write`.

        Args:
            path: As of `write`; a file that is there gives way.
            fill: As of `write`.
            attributes: As of `write`; read after `fill`.
            held_bytes: A content of so many bytes is small.
            durable: As of `write`.
        """
        return self._write(path, fill, attributes, held_bytes, replace=True, durable=durable)

    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it; it may be there.

        Raises:
            KeyConflictError: A file is in the way.
            OSError: As of mkdir(2).
        """
        try:
            with self._opened(make=True) as root:
                os.close(self._open_directory(root, path or ".", make=True))
        except _CONFLICTS as error:
            raise self._conflict(path, error) from None

    def _conflict(self, path: str, error: OSError) -> KeyConflictError:
        why = {
            errno.EEXIST: "is stored already",
            errno.EISDIR: "has other keys below it",
        }.get(error.errno or 0, "is below a key that is a file")
        return KeyConflictError(f"{self.path}/{path} {why}")

    def _write(
        self,
        path: str,
        fill: Callable[[BinaryIO], None],
        attributes: Mapping[str, bytes],
        held_bytes: int,
        *,
        replace: bool,
        durable: bool,
    ) -> os.stat_result | bytes:
        begun: _Temporary | None = None
        with contextlib.ExitStack() as stack:

            def begin() -> BinaryIO:
                nonlocal begun
                directory, name = stack.enter_context(self._parent(path, make=True))
                if replace and self._on_mount:
                    _make_room(directory, name)
                begun = stack.enter_context(_temporary(directory, name))
                return begun.file

            try:
                late = _LateFile(begin, held_bytes) if held_bytes else None
                fill(begin() if late is None else late)
                if begun is None:
                    assert late is not None
                    return bytes(late.held)
                fd = begun.file.fileno()
                self._set_attributes(fd, attributes)
                if durable:
                    os.fsync(fd)
                status = os.fstat(fd)
                begun.file.close()
                begun.rename(replace=replace)
                if durable:
                    self._sync(path)
            except _CONFLICTS as error:
                raise self._conflict(path, error) from None
        return status

    def _set_attributes(self, fd: int, attributes: Mapping[str, bytes]) -> None:
        """Set attributes of a file; on a mount in one request, but for those that control memfs."""
        together = {}
        for attribute, value in attributes.items():
            if self._on_mount and not attribute.startswith(_CONTROL):
                together[attribute.encode()] = value
            else:
                os.setxattr(fd, attribute, value)
        if together:
            set_xattrs(fd, together, is_on_memfs=True)

    def _sync(self, path: str) -> None:
        """Bring the names above a path to stable storage (fsync(2) of each directory)."""
        with self._opened() as root:
            while path:
                path = path.rpartition("/")[0]
                fd = open_beneath(root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def remove(self, path: str) -> None:
        """Remove a file, and directories above it that are empty then.

        Raises:
            MissingKeyError: There is no file.
        """
        try:
            with self._parent(path) as (directory, name):
                if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    raise MissingKeyError(f"{self.path}/{path} is a directory of keys")
                os.unlink(name, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingKeyError(f"nothing is stored as {self.path}/{path}") from None
        while "/" in path:
            path = path.rpartition("/")[0]
            try:
                with self._parent(path) as (directory, name):
                    os.rmdir(name, dir_fd=directory)
            except (OSError, MissingKeyError):
                return


def _make_directories(root: int, directory: str) -> None:
    done = ""
    for component in directory.split("/"):
        above, done = done, f"{done}/{component}" if done else component
        fd = open_beneath(root, above, _DIRECTORY) if above else os.dup(root)
        try:
            os.mkdir(component, dir_fd=fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(component, dir_fd=fd).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), done) from None
        finally:
            os.close(fd)


def _walk(root: int, directory: str, prefix: str) -> Iterator[str]:
    try:
        fd = open_beneath(root, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        with os.scandir(fd) as entries:
            found = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False), entry.is_file())
                for entry in entries
                if not entry.name.startswith(".")
            )
    finally:
        os.close(fd)
    for name, is_directory, is_file in found:
        path = f"{directory}/{name}" if directory else name
        if is_directory:
            if f"{path}/".startswith(prefix) or prefix.startswith(f"{path}/"):
                yield from _walk(root, path, prefix)
        elif is_file and path.startswith(prefix):
            yield path
