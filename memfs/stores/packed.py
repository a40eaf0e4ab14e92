"""The packed store: sealed contents as compressed local files.

Invariant: a file under `packed/` is whole and on stable storage; unfinished ones are in `tmp/`.
A location is a path below the state directory, as in `Place.key`.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError, StoreError
from memfs.stores.disk import DirectoryTree, Draft, disk_errors, open_plain, read_fully

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.types import BlobId

DIRECTORY_BITS = 12
"""Blob ids of a directory, as a power of two; part of the format of the state directory."""

_PREFIX = "packed"


class PackedStore:
    """The packed files of one state directory; safe for all threads.

    Args:
        state_dir: The state directory, locked by this process; `packed/` and `tmp/` are created.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._tree = DirectoryTree(state_dir / _PREFIX)
        self._temporary_dir = state_dir / "tmp"
        self._draft_numbers = itertools.count()
        with disk_errors(str(self._temporary_dir)):
            self._temporary_dir.mkdir(exist_ok=True, mode=0o700)

    def location(self, blob: BlobId) -> str:
        """Return where the packed form of a blob lies."""
        return f"{_PREFIX}/{blob >> DIRECTORY_BITS:x}/{blob:x}"

    def path(self, location: str) -> Path:
        """Return the path of a location, whether it exists or not."""
        prefix, *rest = location.split("/")
        if prefix != _PREFIX or not rest or any(part in ("", ".", "..") for part in rest):
            raise InvalidValueError(f"{location!r} is not the location of a packed file")
        return self._state_dir / location

    def draft(self, location: str) -> Draft:
        """Begin a packed file: write to `draft.fd`, then `draft.publish()`.

        Raises:
            NoSpaceError: The disk is full.
        """
        target = self.path(location)
        return Draft(self.temporary_path(target.name), target, self._tree)

    @property
    def temporary_dir(self) -> Path:
        """Where unfinished files lie."""
        return self._temporary_dir

    def temporary_path(self, name: str) -> Path:
        """Return a name in `tmp/` that this process has not used, for any unfinished file."""
        return self._temporary_dir / f"{name}-{os.getpid():x}-{next(self._draft_numbers):x}"

    def clear_temporary(self) -> int:
        """Remove the unfinished files of earlier processes; returns their count. Only at start."""
        paths = self._unfinished()
        for path in paths:
            with disk_errors(str(path)):
                path.unlink(missing_ok=True)
        return len(paths)

    def foreign_temporary(self) -> list[Path]:
        """Return the unfinished files of other processes: all of them are dead."""
        mine = f"{os.getpid():x}"
        return [path for path in self._unfinished() if path.name.split("-")[-2:-1] != [mine]]

    def _unfinished(self) -> list[Path]:
        """Return what lies in `tmp/`, but for directories, which are not memfs's."""
        with disk_errors(str(self._temporary_dir)), os.scandir(self._temporary_dir) as entries:
            return [Path(e.path) for e in entries if not e.is_dir(follow_symlinks=False)]

    def open(self, location: str) -> int:
        """Return a descriptor for reading; `ObjectMissingError` if there is no such file."""
        path = self.path(location)
        with disk_errors(str(path)):
            return open_plain(path)

    def stat(self, location: str) -> os.stat_result:
        """Return the attributes of a packed file; `ObjectMissingError` if it is gone."""
        path = self.path(location)
        with disk_errors(str(path)):
            return path.stat()

    def holds(self, location: str, stored_bytes: int) -> bool:
        """Return whether a packed file lies where a form says, as large as it was written."""
        try:
            return self.stat(location).st_size == stored_bytes
        except StoreError:
            return False

    def read_range(self, location: str, start: int, end: int) -> bytes:
        """Return stored bytes `[start, end)`; fewer only at the end of the file."""
        fd = self.open(location)
        try:
            with disk_errors(str(self.path(location))):
                return read_fully(fd, end - start, start)
        finally:
            os.close(fd)

    def delete(self, location: str) -> None:
        """Remove a packed file; no error if it is missing. Open descriptors keep its bytes."""
        path = self.path(location)
        with disk_errors(str(path)):
            path.unlink(missing_ok=True)

    def iterate(self) -> Iterator[str]:
        """Yield the locations of all files, in any order; memory is bounded by one directory."""
        with disk_errors(str(self._tree.root)):
            for directory in sorted(os.listdir(self._tree.root)):
                for name in sorted(os.listdir(self._tree.root / directory)):
                    yield f"{_PREFIX}/{directory}/{name}"
