"""Rescue: bytes that a state directory has alone, before its tables go.

The place of a node that wrote was taken (`metadata.shared.demoting`). What it had not uploaded, and
what nobody else knows of, goes into a directory of its own in `lost+found/`, under the paths that
the files had, with a text that lists them.

Invariant: a file is moved by rename, or written whole under another name before; a rescue that was
cut short goes on with what is left.
"""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING

from memfs.errors import FORM_ERRORS, NoSpaceError, ObjectMissingError, StaleInodeError
from memfs.linux.files import open_regular, syncfs
from memfs.linux.times import storable_ns
from memfs.metadata.sqlite.opening import FILE_NAME as TABLES_NAME
from memfs.sizes import format_count
from memfs.stores.disk import disk_errors
from memfs.stores.envelope import Unlock
from memfs.stores.lost_found import DIRECTORY_NAME
from memfs.stores.raw import RawStore
from memfs.stores.reading import PackedFile
from memfs.types import FormKind
from memfs.waiting import run_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from memfs.encryption.keys import KeyRing
    from memfs.metadata.shared.demoting import OwnContent
    from memfs.metadata.sqlite.engine import SqliteEngine
    from memfs.types import RawId, StateId

log = logging.getLogger(__name__)

LIST_NAME = "README.txt"
FILES_NAME, FORMER_NAME, UNNAMED_NAME = "files", "snapshots", "unnamed"
"""Directories: live files by their paths; former contents that snapshots show; what has no name."""

_COPIES = ("raw", "packed", "tmp")
_HEAD = """\
This machine wrote the mount, and another one has taken its place. The store has no bytes of these
files, as far as the other machines know. Copy what you need into the mount, then remove all of it:
`memfs gc --lost-found --yes`.

"""


class Rescue:
    """Implements `metadata.shared.demoting.Holdings`.

    Args:
        state_dir: The state directory, which nobody has mounted.
        epoch: The last one in which it wrote: names the directory.
        state_id: Identity under which it wrote.
        keys: Those of encrypted forms.
        reach: Told of each fault point.
        tell: Told what was found, in a sentence.
    """

    def __init__(
        self,
        state_dir: Path,
        epoch: int,
        state_id: StateId,
        keys: KeyRing,
        reach: Callable[[str], None] = lambda _point: None,
        tell: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        self._state_dir = state_dir
        self._state_id = state_id
        self._keys = keys
        self._reach = reach
        self._tell = tell
        self.root = state_dir / DIRECTORY_NAME / f"replaced-{epoch}"
        self._lines: list[str] = []

    def rescue(
        self, engine: SqliteEngine, contents: Iterable[OwnContent], change_count: int
    ) -> None:
        """See `Holdings.rescue`."""
        raw_store = RawStore(self._state_dir)
        try:
            for content in contents:
                self._take(engine, raw_store, content)
            for raw in raw_store.list_range(*engine.unrecorded_raw_range()):
                self._take_unrecorded(engine, raw_store, raw)
        finally:
            raw_store.close()
        if not (self._lines or change_count):
            return
        lines = [_HEAD, *self._lines]
        if change_count:
            lines.append(
                f"\nUp to {format_count(change_count, 'change')} of names and attributes had not "
                f"come to the database; {TABLES_NAME} has the tables with them.\n"
            )
        with disk_errors(str(self.root)):
            self._make(self.root)
            text = "".join(lines).encode("utf-8", "backslashreplace")
            (self.root / LIST_NAME).write_bytes(text)
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                # Names in many directories, and bytes that nobody has synced.
                syncfs(fd)
            finally:
                os.close(fd)
        sentence = (
            f"another machine writes in the place of this one: {self._count} that it alone had "
            f"lie in {self.root}; {LIST_NAME} lists them"
        )
        log.warning("%s", sentence)
        self._tell(sentence)

    def clear(self) -> None:
        """See `Holdings.clear`."""
        with disk_errors(str(self._state_dir)):
            for name in _COPIES:
                if (self._state_dir / name).exists():
                    shutil.rmtree(self._state_dir / name)
            tables, kept = self._state_dir / TABLES_NAME, self.root / TABLES_NAME
            if (self.root / LIST_NAME).exists() and tables.exists() and not kept.exists():
                os.rename(tables, kept)

    @property
    def _count(self) -> str:
        return format_count(len(self._lines), "file")

    def _make(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    # --- contents --------------------------------------------------------------------------------
    def _take(self, engine: SqliteEngine, raw_store: RawStore, content: OwnContent) -> None:
        path = self._path_of(engine, content)
        if content.raw:
            if content.is_safe and not self._is_written(raw_store, content, path):
                return
            is_here = self._move(raw_store.path(content.raw), path, content)
            if is_here or not content.blob:
                return
        if not content.is_safe:
            self._unpack(engine, content, path)

    def _is_written(self, raw_store: RawStore, content: OwnContent, path: Path) -> bool:
        """Return whether a raw file was written after its seal, and the tables have lost that."""
        try:
            status = raw_store.stat(content.raw)
        except ObjectMissingError:
            # An attempt before has found so.
            return self._is_there(path) or self._is_there(self._other_path(content))
        found = status.st_size, storable_ns(status.st_mtime_ns)
        return found != (content.size, content.mtime_ns)

    def _take_unrecorded(self, engine: SqliteEngine, raw_store: RawStore, raw: RawId) -> None:
        """Take a raw file that no record names: the record is lost, with power as a rule."""
        named = "select 1 from inode where raw = ?1 union all select 1 from kept where raw = ?1"
        if engine._row(named, (raw,)) is None:
            self._move(raw_store.path(raw), self.root / UNNAMED_NAME / f"raw-{raw:x}", None)

    def _path_of(self, engine: SqliteEngine, content: OwnContent) -> Path:
        """Return where a content goes."""
        if content.is_former:
            return self.root / FORMER_NAME / f"inode-{content.ino}-{content.generation}"
        try:
            name = os.fsdecode(run_at_once(engine.get_path(content.ino)))
        except StaleInodeError:
            name = ""
        if not name.startswith("/"):
            return self.root / UNNAMED_NAME / f"inode-{content.ino}"
        return self.root / FILES_NAME / name.lstrip("/")

    def _move(self, source: Path, target: Path, content: OwnContent | None) -> bool:
        """Move a file, unless it is empty; returns whether it lies there now."""
        try:
            is_here = source.lstat().st_size > 0
        except FileNotFoundError:
            # An attempt before has moved it, if anybody.
            is_here = False
            for path in (target, self._other_path(content)):
                if self._is_there(path):
                    self._note(path, content)
                    return True
        if not is_here:
            return False
        self._place(source, target, content)
        self._reach("demote.moved")
        return True

    def _is_there(self, path: Path) -> bool:
        try:
            path.lstat()
        except OSError:
            return False
        return True

    def _place(self, source: Path, target: Path, content: OwnContent | None) -> None:
        try:
            self._make(target.parent)
            os.rename(source, target)
        except OSError as error:
            # A path may be longer than the system takes.
            log.info("%s: %s", target, error)
            target = self._other_path(content)
            with disk_errors(str(target)):
                self._make(target.parent)
                os.rename(source, target)
        self._note(target, content)

    def _other_path(self, content: OwnContent | None) -> Path:
        name = "raw" if content is None else f"inode-{content.ino}"
        return self.root / UNNAMED_NAME / name

    def _unpack(self, engine: SqliteEngine, content: OwnContent, path: Path) -> None:
        """Write the bytes of a packed form."""
        if not content.blob:
            return
        for form in run_at_once(engine.list_forms(content.blob)):
            if form.kind != FormKind.PACKED:
                continue
            draft = self.root / f".{content.ino}"
            blob = run_at_once(engine.get_blob(content.blob))
            unlock = Unlock.of(self._keys, blob, form.coding, self._state_id)
            try:
                with disk_errors(str(draft)):
                    self._make(self.root)
                    fd = open_regular(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                    try:
                        with PackedFile.open(
                            self._state_dir / form.place.key, unlock=unlock
                        ) as packed:
                            packed.unpack_to(fd)
                        os.utime(fd, ns=(content.mtime_ns, content.mtime_ns))
                    finally:
                        os.close(fd)
            except NoSpaceError:
                raise
            except FORM_ERRORS as error:
                # As it is: a person may know more.
                log.warning("%s: %s", path, error)
                draft.unlink(missing_ok=True)
                self._move(self._state_dir / form.place.key, path, content)
                continue
            self._place(draft, path, content)
            self._reach("demote.moved")

    def _note(self, path: Path, content: OwnContent | None) -> None:
        state = " (was being written)" if content is not None and content.is_open else ""
        self._lines.append(f"{path.relative_to(self.root)}{state}\n")
