"""The directory of a manager, key by key: paths, listing, and which mount it is on.

Invariant: nothing but paths is kept, so that a manager goes through fork, spawn and pickle.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memfs.manager.errors import MissingKeyError, TierUnavailableError
from memfs.manager.keys import is_cut, key_of, path_of
from memfs.manager.metadata import KEY_XATTR
from memfs.manager.paths import MemPath
from memfs.manager.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
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
