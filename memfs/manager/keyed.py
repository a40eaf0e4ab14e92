"""The directory of a manager, key by key: files, their metadata, and which mount they are on.

Invariant: nothing but paths is kept, so that a manager goes through fork, spawn and pickle.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

from memfs.manager.entries import Entry
from memfs.manager.errors import MissingKeyError, TierUnavailableError
from memfs.manager.keys import is_cut, key_of, path_of
from memfs.manager.metadata import KEY_XATTR, Scalar, metadata_of
from memfs.manager.paths import MemPath, read_attributes
from memfs.manager.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from memfs.client.mount import Mount


class KeyedDirectory:
    """Keys as files below a directory.

    Args:
        directory: That of all keys; it is made when something is stored first.
        mount: The mount that it is on; None: a plain directory.
    """

    def __init__(self, directory: Path, mount: Mount | None) -> None:
        self.directory = directory
        self.mount = mount
        self._root = Root(str(directory), on_mount=mount is not None)

    def __repr__(self) -> str:
        """Tell where the keys are."""
        return f"{type(self).__name__}({str(self.directory)!r})"

    def exists(self, key: str) -> bool:
        """Return whether a value is stored under a key."""
        return self._root.exists(path_of(key))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield all keys that begin with a text, those of one directory in order.

        Files that other programs made are keys as well, if their names can be.
        """
        yield from keys_below(self._root, prefix)

    def path(self, key: str) -> MemPath:
        """Return the file of a key, for other programs and libraries; it need not exist."""
        return MemPath(self.directory / path_of(key))

    def delete(self, key: str, *, missing_ok: bool = False) -> None:
        """Remove a value.

        Raises:
            MissingKeyError: Nothing is stored, unless that is `missing_ok`.
        """
        try:
            self._root.remove(path_of(key))
        except MissingKeyError:
            if not missing_ok:
                raise MissingKeyError(f"nothing is stored under the key {key!r}") from None

    def entry(self, key: str) -> Entry:
        """Return what is stored under a key.

        Raises:
            MissingKeyError: Nothing is.
        """
        fd = self._opened(key)
        try:
            status = os.fstat(fd)
            metadata = metadata_of(read_attributes(fd))
        finally:
            os.close(fd)
        return Entry(key, self.path(key), metadata, status.st_size, status.st_mtime)

    def get_metadata(self, key: str) -> dict[str, Scalar]:
        """Return the metadata of a key; raises `MissingKeyError`."""
        fd = self._opened(key)
        try:
            return metadata_of(read_attributes(fd))
        finally:
            os.close(fd)

    def set_metadata(
        self, key: str, metadata: Mapping[str, Scalar], *, replace: bool = False
    ) -> None:
        """Set metadata of a key.

        Args:
            key: As of `store`.
            metadata: Values by name.
            replace: Names that are not among these are removed.

        Raises:
            MissingKeyError: Nothing is stored.
            ValueFormatError: A name or a value cannot be stored; nothing has changed.
        """
        self._require(key).set_metadata(metadata, replace=replace)

    def open(self, key: str, mode: str = "rb") -> IO[Any]:
        """Open the file of a key, within the directory of all keys.

        What is written is there at once, and not as a whole: `store` does that.

        Args:
            key: As of `store`.
            mode: As of open(): `rb`, `r`, `wb`, `w`, `ab`, `xb`, `r+b` and so on.

        Raises:
            MissingKeyError: Nothing is stored, and the mode makes no file.
            KeyConflictError: The key is a directory of other keys, or below a key; or it is stored
                already, and the mode is `x`.
        """
        path = path_of(key)

        def opener(_: str, flags: int) -> int:
            return self._root.open(path, flags, make=bool(flags & os.O_CREAT))

        file: IO[Any] = open(path, mode, opener=opener)  # noqa: SIM115 - the caller closes it
        return file

    def remove_leftovers(self, older_than_s: float = 3600.0) -> int:
        """Remove temporary files that killed writers left; returns how many there were.

        Args:
            older_than_s: Seconds since the last write; a younger one may still be written.
        """
        return self._root.remove_leftovers(older_than_s)

    def _opened(self, key: str, root: Root | None = None) -> int:
        """Return the descriptor of a key's file.

        Args:
            key: As of `store`.
            root: The directory of all keys; None: as it is now.

        Raises:
            MissingKeyError: Nothing is stored.
        """
        try:
            return (self._root if root is None else root).open(path_of(key))
        except MissingKeyError:
            raise MissingKeyError(f"nothing is stored under the key {key!r}") from None

    def _require(self, key: str) -> MemPath:
        if not self.exists(key):
            raise MissingKeyError(f"nothing is stored under the key {key!r}")
        return self.path(key)

    def _mounted(self) -> Mount:
        if self.mount is None:
            raise TierUnavailableError(f"{self.directory} is a plain directory, without tiers")
        self._root.require()
        return self.mount

    def _made_directory(self) -> Path:
        """Return the directory of all keys, which is made on the mount if it is missing.

        Raises:
            MountUnavailableError: The mount is gone; nothing is made where it was.
        """
        self._root.make_directory("")
        return self.directory


def keys_below(root: Root, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a directory that begin with a text."""
    above = prefix.rpartition("/")[0]
    for path in root.walk(f"{path_of(above)}/" if above else ""):
        key = key_at(root, path)
        if key is not None and key.startswith(prefix):
            yield key


def key_at(root: Root, path: str) -> str | None:
    """Return the key of a path below a directory; None if no key has it."""
    if not is_cut(path):
        return key_of(path)
    try:
        fd = root.open(path)
    except (MissingKeyError, OSError):
        return None
    try:
        key = os.getxattr(fd, KEY_XATTR).decode()
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(fd)
    return key if path_of(key) == path else None
