"""Lost and found: bytes of a state directory, and keys of its store, that no record names.

A missing record proves nothing: it may be the record that is lost. So what has bytes and no record
is moved here, within the state directory and under a name that tells where it was, and stays until
somebody says that it can go.

Invariant: nothing here is ever removed but by `clear`, and nothing comes here but by rename.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memfs.linux.files import open_regular, read_regular, sync_directory
from memfs.stores.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

DIRECTORY_NAME = "lost+found"
OBJECTS_NAME = "objects"
"""Keys of objects that nothing here refers to, a line each with their bytes; they stay in the
store."""

_OURS = re.compile(r"(raw|packed|tmp|metadata|replaced)-.*|" + OBJECTS_NAME)
"""e2fsck(8) puts its own into a directory of this name, at the root of a file system."""


@dataclass(frozen=True, slots=True)
class LostUsage:
    """How much there is."""

    count: int
    """Files here, and objects."""
    bytes: int
    """What the files here take up on the disk."""
    object_count: int


class LostFound:
    """The lost and found of one state directory; safe for all threads.

    Args:
        state_dir: The state directory; `lost+found/` is made with the first thing that comes.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.root = state_dir / DIRECTORY_NAME

    def take(self, paths: Iterable[Path], note: str = "") -> int:
        """Move files here, durably; returns how many. One that is gone is passed over.

        Args:
            paths: Below the state directory.
            note: Added to their new names.

        Raises:
            StoreError: The disk refuses; what was moved before is here.
        """
        count = 0
        touched: set[Path] = set()
        with disk_errors(str(self.root)):
            self.root.mkdir(mode=0o700, exist_ok=True)
            for path in paths:
                if self._take(path, note):
                    touched.add(path.parent)
                    count += 1
            if touched:
                # Here before there: between the two a name may be in both, and is always in one.
                sync_directory(self.root)
                sync_directory(self._state_dir)
                for directory in touched:
                    sync_directory(directory)
        return count

    def _take(self, path: Path, note: str) -> bool:
        kind = path.relative_to(self._state_dir).parts[0]
        target = self.root / f"{kind}-{path.name}{note}"
        for number in range(1, 1 << 20):
            try:
                # A second name first: rename(2) would replace what is here already.
                os.link(path, target, follow_symlinks=False)
            except FileExistsError:
                if target.samefile(path):
                    break
                target = self.root / f"{kind}-{path.name}{note}.{number}"
            except FileNotFoundError:
                return False
            else:
                break
        path.unlink()
        return True

    def note_objects(self, objects: Iterable[tuple[str, int]]) -> None:
        """Keep the keys and sizes of objects that nothing refers to, each once, durably."""
        known = {key for key, _size in self.objects()}
        lines = [f"{key} {size}\n" for key, size in objects if key not in known]
        if not lines:
            return
        with disk_errors(str(self.root)):
            self.root.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with open(
                open_regular(self.root / OBJECTS_NAME, flags, 0o666), "a", encoding="ascii"
            ) as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self.root)

    def objects(self) -> list[tuple[str, int]]:
        """Return the keys and sizes that were noted."""
        try:
            text = read_regular(self.root / OBJECTS_NAME).decode("ascii", "replace")
        except FileNotFoundError:
            return []
        pairs = [line.rpartition(" ") for line in text.splitlines()]
        return [(key, int(size)) for key, _, size in pairs if key and size.isdigit()]

    def usage(self) -> LostUsage:
        """Return how much there is."""
        objects = self.objects()
        sizes = [path.lstat().st_blocks * 512 for path in self._files()]
        return LostUsage(len(sizes) + len(objects), sum(sizes), len(objects))

    def names(self) -> list[str]:
        """Return the names of the files here, in order."""
        return sorted(str(path.relative_to(self.root)) for path in self._files())

    def _files(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            for path in self.root.iterdir():
                if not _OURS.fullmatch(path.name) or path.name == OBJECTS_NAME:
                    continue
                if path.is_dir() and not path.is_symlink():
                    yield from (each for each in path.rglob("*") if not each.is_dir())
                else:
                    yield path

    def clear(self) -> int:
        """Remove all files here for good, and forget the objects; returns how many files."""
        count = len(self.names())
        with disk_errors(str(self.root)):
            for path in list(self.root.iterdir()) if self.root.exists() else []:
                if not _OURS.fullmatch(path.name):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            if count and self.root.exists():
                sync_directory(self.root)
        return count
