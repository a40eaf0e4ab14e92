"""Taking: files of an adopted directory become memfs's own, by a copy or with their disk blocks.

`move` gives a file a second name in the raw store, and removes the first one once that is durable:

1. The intent names the raw file (`take.begun`).
2. The file has both names (`take.linked`). *Killed from here on*: the next start rolls back, which
   removes the name in the raw store; the directory has the file as it was.
3. One change of the engine gives the file its raw file, and ends the intent (`take.published`).
   *Killed from here on*: both names stay, and the next run removes that in the directory.
4. The journal is synced, and the name in the directory goes (`take.removed`).

`copy` fetches the file, which shares blocks where the disk can. Either is done file by file, so
that what is cut off goes on where it was.

Invariant: a file of the directory loses its name there only after the engine has it durably, and
while nobody has it open.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import (
    AlreadyExistsError,
    FilesOpenError,
    InvalidValueError,
    MemfsError,
    ObjectChangedError,
    StaleInodeError,
)
from memfs.linux.files import give_owner, open_regular, sync_directory, take_lease
from memfs.linux.times import storable_ns
from memfs.metadata.records import MoveKind
from memfs.moves.attempt import recorded, sources_of
from memfs.moves.hydrating import hydrate
from memfs.stores.disk import clone_file, disk_errors
from memfs.types import NO_RAW

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from memfs.filesystem.foreign_changes import ForeignChanges
    from memfs.metadata.foreign import ForeignObject, Source
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.stores.raw import RawStore
    from memfs.types import IntentId, RawId

ROWS_A_PAGE = 250
"""Files between two syncs of the journal. Guess."""


class Take(enum.StrEnum):
    """What becomes of the files of a directory, as users write it."""

    REFERENCE = "reference"
    """They are read where they are."""
    COPY = "copy"
    MOVE = "move"


class _Moved(NamedTuple):
    """A file whose name in the directory is to go."""

    row: ForeignObject
    path: Path
    raw: RawId
    """The raw file that has the same bytes on the disk; `NO_RAW`: it was copied."""


class Taking:
    """Takes the files of one source.

    Args:
        changes: Makes the changes.
        parts: Engine and raw files.
        source: A directory, listed to its end.
        how: Copy or move.
        done: Told the size of each file that was taken.
        failed: Told key and reason of each that was not.
    """

    def __init__(
        self,
        changes: ForeignChanges,
        parts: MoveParts,
        source: Source,
        how: Take,
        done: Callable[[int], None],
        failed: Callable[[str, str], None],
    ) -> None:
        self._changes = changes
        self._parts = parts
        self._engine = parts.engine
        self._source = source
        self._how = how
        self._done = done
        self._failed = failed

    async def run(self) -> AsyncGenerator[None, None]:
        """Do it, a file a step; some files that cannot be taken stay, and are told."""
        after = b""
        while rows := await self._engine.list_objects(self._source.source, after, ROWS_A_PAGE):
            moved: list[_Moved] = []
            try:
                for row in rows:
                    try:
                        await self._take_now(row, moved)
                    except StaleInodeError:
                        continue
                    except (MemfsError, OSError) as error:
                        self._failed(row.name, str(error))
                    yield
                await self._remove(moved)
            finally:
                # Not before: the mover would open raw files whose other name is to be removed, and
                # seem to be a program that has them open.
                for each in moved:
                    if each.raw:
                        self._changes.note_owned(each.row.ino)
            yield
            after = rows[-1].key

    async def _take_now(self, row: ForeignObject, moved: list[_Moved]) -> None:
        """Take a file as it is now in the directory: a name that came and went changes its etag."""
        try:
            await self._take(row, moved)
        except ObjectChangedError as error:
            await self._changes.look_again(row.ino, error)
            now = await self._engine.find_object(self._source.source, row.key)
            if now is None or now == row:
                raise
            await self._take(now, moved)

    async def _take(self, row: ForeignObject, moved: list[_Moved]) -> None:
        inode = await self._engine.get_inode(row.ino)
        path = await self._path(row)
        if row.generation != inode.generation:
            # Taken before, perhaps without the end; or written here.
            if self._how is Take.MOVE and await self._is_taken(row, path, inode.raw):
                moved.append(_Moved(row, path, inode.raw))
            return
        if self._how is Take.MOVE and not inode.raw and inode.size:
            moved.append(_Moved(row, path, await self._link(row, inode, path)))
        else:
            if inode.size:
                await hydrate(self._parts, row.ino)
            await self._changes.own_object(row.ino)
            if self._how is Take.MOVE:
                moved.append(_Moved(row, path, NO_RAW))
        self._done(inode.size)

    async def _path(self, row: ForeignObject) -> Path:
        store = await sources_of(self._parts).store_of(self._source.source)
        path = store.local_path(row.name)
        if path is None:
            raise InvalidValueError(f"{self._source.url} is no directory of this machine")
        return path

    async def _is_taken(self, row: ForeignObject, path: Path, raw: RawId) -> bool:
        """Return whether a name leads to a raw file, or to what a file was made of."""

        def compare() -> bool:
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                return False
            if raw and os.path.samestat(status, self._parts.raw_store.stat(raw)):
                return True
            return not row.generation and _etag_of(status) == row.etag

        return await trio.to_thread.run_sync(compare)

    async def _link(self, row: ForeignObject, inode: Inode, path: Path) -> RawId:
        """Give a file a name in the raw store, which is returned, and have the engine know."""
        parts = self._parts
        _, raw = parts.engine.reserve_ids()
        async with recorded(parts, MoveKind.HYDRATE, str(int(raw)), inode) as attempt:
            parts.faults.reach("take.begun")
            blocks = await trio.to_thread.run_sync(_link, parts, row, path, raw)
            parts.faults.reach("take.linked")
            async with parts.open_table.gates.hold(inode.ino):
                published = await attempt.publish(partial(self._publish, row, raw, blocks))
        if published is None:
            raise ObjectChangedError(f"{row.name} was changed meanwhile")
        parts.faults.reach("take.published")
        self._parts.hydrated[inode.ino] = None
        return raw

    async def _publish(
        self, row: ForeignObject, raw: RawId, blocks: int, intent: IntentId
    ) -> Inode | None:
        made = await self._engine.publish_raw(
            row.ino, row.generation, raw, blocks, intent, durable=True
        )
        if made is not None:
            await self._engine.put_object(row._replace(generation=0))  # type: ignore[arg-type]
        return made

    async def _remove(self, moved: list[_Moved]) -> None:
        """Remove the names in the directory of files that memfs has durably."""
        if not moved:
            return
        await self._engine.commit()
        await trio.to_thread.run_sync(self._engine.sync)
        for each in moved:
            try:
                await trio.to_thread.run_sync(_unlink, each, self._parts.raw_store)
            except (MemfsError, OSError) as error:
                self._failed(each.row.name, str(error))
            self._parts.faults.reach("take.removed")


def _check_alone(fd: int, name: str) -> None:
    """See that nobody else has a file open (fcntl(2), F_SETLEASE)."""
    try:
        take_lease(fd, fcntl.F_WRLCK)
    except BlockingIOError:
        raise FilesOpenError(f"{name} is open in a program; close it, and run this again") from None
    except OSError:
        # No leases on this file system, or not our file: then nobody can know.
        return


def _etag_of(status: os.stat_result) -> str:
    numbers = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return "-".join(f"{number:x}" for number in numbers)


def _link(parts: MoveParts, row: ForeignObject, path: Path, raw: RawId) -> int:
    """Give a file a second name, that of a raw file; returns its `st_blocks`."""
    with disk_errors(str(path)):
        fd = open_regular(path, os.O_RDWR)
        try:
            _check_alone(fd, row.name)
            status = os.fstat(fd)
            if _etag_of(status) != row.etag:
                raise ObjectChangedError(f"{row.name} was changed; run memfs adopt --refresh first")
            if status.st_nlink != 1:
                raise InvalidValueError(
                    f"{row.name} has several names: copy it; after a crash, try again in a moment"
                )
            if storable_ns(status.st_mtime_ns) != row.mtime_ns:
                raise InvalidValueError(f"{row.name} has a time that memfs cannot keep")
            # It makes the directory, and a name that is free.
            os.close(parts.raw_store.create(raw))
            target = parts.raw_store.path(raw)
            os.unlink(target)
            try:
                os.link(path, target, follow_symlinks=False)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise InvalidValueError(
                        f"{row.name} is on another file system than the state directory: --copy"
                    ) from None
                raise
            os.fsync(fd)
            parts.raw_store.sync_directory(raw)
            return status.st_blocks
        finally:
            os.close(fd)


def _unlink(moved: _Moved, raw_store: RawStore) -> None:
    """Remove the name of a file that is memfs's own by now; of no other file."""
    row, path, raw = moved
    with disk_errors(str(path)):
        try:
            fd = open_regular(path, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            _check_alone(fd, row.name)
            status = os.fstat(fd)
            is_taken = raw and os.path.samestat(status, raw_store.stat(raw))
            if not is_taken and _etag_of(status) != row.etag:
                raise ObjectChangedError(f"{row.name} was changed; it stays in the directory")
            os.unlink(path)
            # As other raw files are; their directories are nobody else's.
            os.fchmod(fd, 0o600)
            if os.geteuid() == 0:
                give_owner(fd, 0, os.stat(raw_store.root).st_gid)
        finally:
            os.close(fd)


# --- the way back --------------------------------------------------------------------------------
def give_back(raw_path: Path | None, target: Path, inode: Inode, link: bytes) -> None:
    """Make a file, a directory or a symlink in a directory as it is in the mount. Blocks.

    Args:
        raw_path: The bytes of a file; None: it is empty, or no file.
        target: What is made; equal to it already: nothing happens.
        inode: Its attributes.
        link: Target of a symlink.

    Raises:
        AlreadyExistsError: Something else has the name.
    """
    with disk_errors(str(target)):
        if stat.S_ISDIR(inode.mode):
            with contextlib.suppress(FileExistsError):
                target.mkdir(mode=0o700)
        elif stat.S_ISLNK(inode.mode):
            if target.is_symlink() and os.fsencode(os.readlink(target)) == link:
                return
            _make(partial(os.symlink, link, target), target)
            return
        else:
            _put(raw_path, target)
            os.utime(target, ns=(inode.atime_ns, inode.mtime_ns))
        if os.geteuid() == 0:
            give_owner(target, inode.uid, inode.gid)
        target.chmod(stat.S_IMODE(inode.mode))
        sync_directory(target.parent)


def _put(raw_path: Path | None, target: Path) -> None:
    if raw_path is None:
        _make(partial(target.touch, exist_ok=False), target)
        return
    if target.exists() and os.path.samefile(raw_path, target):
        return
    try:
        _make(partial(os.link, raw_path, target), target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Complete under a name of its own, and then at once.
        part = target.with_name(f".memfs-release-{os.getpid()}")
        part.unlink(missing_ok=True)
        source = open_regular(raw_path, os.O_RDONLY)
        try:
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                clone_file(source, fd)
                os.fsync(fd)
            finally:
                os.close(fd)
        finally:
            os.close(source)
        _make(partial(os.link, part, target), target)
        part.unlink()


def _make(make: Callable[[], object], target: Path) -> None:
    try:
        make()
    except FileExistsError:
        raise AlreadyExistsError(f"{target} exists, and is something else; move it away") from None
