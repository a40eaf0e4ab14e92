"""The answers of the control socket to `memfs snapshot restore`: bring back what was.

Names that differ are found by comparing the snapshot with the present (`Engine.diff`), which takes
as long as what has changed. Directories that are others than at the instant are walked as a whole.
Before anything is changed, a snapshot of the present is made, so that a restore can be taken back.

Invariants:
- Each file is as it was before the restore, or as of the snapshot, and so are the times of its
  directory: a restore that was cut off goes on where it was when it is asked for again.
- Parents come before what is in them.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import (
    InvalidValueError,
    IsADirectoryInodeError,
    NoSpaceError,
    NotADirectoryInodeError,
    NotFoundError,
    StaleInodeError,
)
from memfs.filesystem.planned_changes import PlannedChanges
from memfs.filesystem.tree_changes import Name, Times
from memfs.jobs.paths import find_parent, find_path, split_path
from memfs.jobs.sliced_work import SLICE_S, SlicedWork
from memfs.jobs.tree_copying import CopyTally, TreeCopying, find_at
from memfs.policy.retention import AUTOMATIC_LABEL
from memfs.types import NOW, ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from memfs.control.methods.copies import RestoreReport
    from memfs.control.server import Handler
    from memfs.filesystem.tree_changes import Original, TreeChanges
    from memfs.jobs.snapshots import SnapshotMethods
    from memfs.metadata.records import Difference, Inode, Snapshot
    from memfs.moves.attempt import MoveParts
    from memfs.types import SnapshotId

BEFORE_PREFIX = "before-restore-"
"""What the names of automatic snapshots begin with that are made before a restore."""

BEFORE_LABEL = (AUTOMATIC_LABEL, "restore")

INODES_A_PAGE = 256


class RestoreRequest(NamedTuple):
    """What is to be restored."""

    path: bytes
    """From the root of the mount; empty: everything."""
    to: bytes | None
    """Where it is put; None: where it was."""
    delete: bool
    """Remove what was not there."""
    dry_run: bool
    before: str | None
    """The snapshot of the present that another restore has made; None: one is made."""


@dataclass(slots=True)
class _Restore:
    """One under way."""

    tally: CopyTally
    snapshot: str = ""
    before: str | None = None
    """The snapshot of the present."""


class RestoreMethods:
    """Answers `snapshot.restore` and `snapshot.restore_cancel`.

    Args:
        snapshots: Makes the snapshot of the present.
        slice_s: How long one call works.
    """

    def __init__(
        self,
        changes: TreeChanges,
        parts: MoveParts,
        snapshots: SnapshotMethods,
        slice_s: float = SLICE_S,
    ) -> None:
        self._changes = changes
        self._parts = parts
        self._snapshots = snapshots
        self._works = SlicedWork[_Restore](slice_s)

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"snapshot.restore": self.restore, "snapshot.restore_cancel": self.cancel}

    async def restore(
        self,
        work: str,
        path: str,
        snapshot: str | None = None,
        to: str | None = None,
        delete: bool = False,
        dry_run: bool = False,
        before: str | None = None,
    ) -> RestoreReport:
        """Restore for a second; see `client.snapshots`.

        Returns:
            What was done since the work began; `actions` since the last call.

        Raises:
            NotFoundError: There is no such snapshot, or the path was not there.
            InvalidValueError: The paths make no sense.
            NoSpaceError: The disk is full.
        """
        target = None if to is None else os.fsencode(to)
        request = RestoreRequest(os.fsencode(path), target, delete, dry_run, before)

        def begin() -> tuple[_Restore, AsyncGenerator[None, None]]:
            planned: list[tuple[str, str]] | None = [] if dry_run else None
            made = _Restore(CopyTally(actions=planned))
            return made, self._restore(request, snapshot, made)

        restore, ended = await self._works.go_on(work, begin)
        tally = restore.tally
        actions: list[list[str]] = []
        if tally.actions is not None:
            actions = [[*each] for each in tally.actions]
            tally.actions.clear()
        return {
            **tally.report(ended=ended),
            "snapshot": restore.snapshot,
            "before": restore.before,
            "actions": actions,
        }

    async def cancel(self, work: str) -> None:
        """End some work before its next file, or amid a copy; nothing, if it has ended."""
        await self._works.cancel(work)

    async def _restore(
        self, request: RestoreRequest, name: str | None, restore: _Restore
    ) -> AsyncGenerator[None, None]:
        engine = self._parts.engine
        snapshot = await self._newest() if name is None else await engine.get_snapshot(name)
        restore.snapshot = snapshot.name
        was = await self._find_at(snapshot, request.path)
        changes = self._changes
        until = NOW
        if request.dry_run:
            changes = PlannedChanges(self._changes).as_changes
        else:
            before = await self._present(request.before)
            restore.before, until = before.name, before.snap
            self._parts.faults.reach("restore.kept")
        yield
        copying = TreeCopying(
            changes, self._parts, restore.tally, snapshot.snap, delete=request.delete
        )
        restoring = TreeRestoring(changes, self._parts, copying, snapshot.snap, request.path)
        if request.to is None:
            steps = restoring.in_place(was, until)
        else:
            steps = restoring.elsewhere(was, request.to)
        async with aclosing(steps):
            try:
                async for _ in steps:
                    self._parts.faults.reach("restore.step")
                    yield
            except IsADirectoryInodeError as error:
                # What is below a directory is told by its path already.
                place = os.fsdecode(request.path if request.to is None else request.to)
                raise IsADirectoryInodeError(f"{place}: {error}") from None
        await changes.wait_told()

    async def _newest(self) -> Snapshot:
        """Return the newest snapshot that was not made before a restore."""
        for snapshot in reversed(await self._parts.engine.list_snapshots()):
            if BEFORE_LABEL not in snapshot.labels:
                return snapshot
        raise NotFoundError("there is no snapshot to restore from")

    async def _find_at(self, snapshot: Snapshot, path: bytes) -> Inode:
        inode = await self._parts.engine.inode_at(snapshot.snap, ROOT_INODE)
        for name in split_path(path):
            found = None
            if stat.S_ISDIR(inode.mode):
                found = await find_at(self._parts.engine, snapshot.snap, inode.ino, name)
            if found is None:
                shown = os.fsdecode(path)
                raise NotFoundError(f"{shown} was not there in the snapshot {snapshot.name!r}")
            inode = found
        return inode

    async def _present(self, name: str | None) -> Snapshot:
        """Return the snapshot of the present that was made before, else make one."""
        if name is None:
            return await self._keep_present()
        made = await self._parts.engine.get_snapshot(name)
        if BEFORE_LABEL not in made.labels:
            raise InvalidValueError(f"the snapshot {name!r} was not made before a restore")
        return made

    async def _keep_present(self) -> Snapshot:
        """Make a snapshot of the present, durably."""
        now_ns = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now_ns // 10**9))
        name = f"{BEFORE_PREFIX}{stamp}.{now_ns % 10**9 // 1000:06}"
        made, _copies = await self._snapshots.keep(name, "", (BEFORE_LABEL,))
        return made


class TreeRestoring:
    """Brings a path back as it was.

    Args:
        changes: Makes the changes, or plans them.
        parts: The engine among them.
        copying: Makes trees equal, as of the same snapshot.
        snap: The snapshot.
        path: What is restored, from the root of the mount.
    """

    def __init__(
        self,
        changes: TreeChanges,
        parts: MoveParts,
        copying: TreeCopying,
        snap: SnapshotId,
        path: bytes,
    ) -> None:
        self._changes = changes
        self._parts = parts
        self._engine = parts.engine
        self._copying = copying
        self._snap = snap
        self._root = b"".join(b"/" + name for name in split_path(path))
        self._others: dict[bytes, tuple[InodeNo, InodeNo]] = {}
        """Directories that are not those of the instant, with both inodes: all in them may
        differ."""
        self._above: tuple[bytes, Inode | None] | None = None
        """The directory that was looked for last among those of the instant, with its path."""

    # --- elsewhere -------------------------------------------------------------------------------
    async def elsewhere(self, was: Inode, to: bytes) -> AsyncGenerator[None, None]:
        """Make a path equal to what was: a directory, or a file that may go into a directory."""
        place = await find_parent(self._engine, to)
        found = await self._changes.find_name(place)
        copying = self._copying
        if not stat.S_ISDIR(was.mode):
            if found is not None and stat.S_ISDIR(found.mode):
                place = Name(found.ino, self._root.rpartition(b"/")[2])
            await self._restore_file(was.ino, {to: place}, {}, movable=False)
            yield
            return
        original = await copying.original(was.ino)
        if found is None:
            found = await copying.put_directory(original, place, None, to)
        elif not stat.S_ISDIR(found.mode):
            raise NotADirectoryInodeError(f"{os.fsdecode(to)} is no directory")
        yield
        async with aclosing(copying.copy_below(was.ino, found.ino, to)) as steps:
            async for _ in steps:
                yield
        await self._tidy(was.ino, found.ino, to)

    # --- in place --------------------------------------------------------------------------------
    async def in_place(self, was: Inode, until: SnapshotId) -> AsyncGenerator[None, None]:
        """Make a path equal to what was there.

        Args:
            was: What was there.
            until: The present.
        """
        if not stat.S_ISDIR(was.mode):
            above, _, name = self._root.rpartition(b"/")
            parent = await self._ensure_directory(above)
            assert parent is not None, "nothing is walked but what is restored"
            await self._restore_file(was.ino, {self._root: Name(parent, name)}, {}, movable=False)
            yield
            return
        live = await self._ensure_directory(self._root)
        if live == was.ino:
            async with aclosing(self._by_differences(was.ino, until)) as steps:
                async for _ in steps:
                    yield
        for path, (former, present) in list(self._others.items()):
            async with aclosing(self._copying.copy_below(former, present, path)) as steps:
                async for _ in steps:
                    yield
            await self._tidy(former, present, path)

    async def _tidy(self, former: InodeNo, present: InodeNo, path: bytes) -> None:
        """Give a directory that was walked the attributes of the former one."""
        found = await self._changes.find_inode(present)
        if found is not None:
            await self._copying.make_like(found, await self._copying.original(former), path)

    async def _by_differences(self, root: InodeNo, until: SnapshotId) -> AsyncGenerator[None, None]:
        position: InodeNo | None = InodeNo(0)
        while position is not None:
            page = await self._engine.diff(self._snap, until, root, position, INODES_A_PAGE)
            position = page.position
            for difference in page.differences:
                try:
                    await self._undo(difference)
                except NoSpaceError:
                    raise
                except Exception as error:
                    paths = difference.paths_before or difference.paths_after
                    self._copying.tally.fail(paths[0], error)
                yield

    async def _undo(self, difference: Difference) -> None:
        """Bring one inode back, and remove the names that it had not."""
        were = self._inside(difference.paths_before)
        if difference.before is not None and were:
            if stat.S_ISDIR(difference.before.mode):
                await self._restore_directory(difference, were[0])
            else:
                await self._restore_names(difference, were)
        if self._copying.delete and difference.after is not None:
            await self._remove_new_names(difference.ino)

    async def _restore_names(self, difference: Difference, were: Sequence[bytes]) -> None:
        """Bring back what is no directory, under those of its names that are not walked."""
        names = {path: name for path in were if (name := await self._name_of(path)) is not None}
        if names:
            times = {name.parent: await self._times_of(path) for path, name in names.items()}
            await self._restore_file(difference.ino, names, times, movable=True, walked=were)

    def _inside(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return those of some paths that are restored."""
        return [path for path in paths if path == self._root or path.startswith(self._root + b"/")]

    def _is_walked(self, path: bytes) -> bool:
        return any(path.startswith(above + b"/") for above in self._others)

    async def _is_movable(self, ino: InodeNo) -> bool:
        """Return whether an inode has no names but those that it had, and others that go."""
        names = await self._names_of(ino)
        for path in names:
            if not self._inside([path]):
                return False
            was = await self._was_there(path)
            if (was is None and not self._copying.delete) or (was is not None and was.ino != ino):
                return False
        return bool(names)

    async def _names_of(self, ino: InodeNo) -> dict[bytes, Name]:
        """Return the present names of an inode by their paths."""
        try:
            paths = await self._engine.list_paths_at(NOW, ino)
        except StaleInodeError:
            return {}
        return {path: await find_parent(self._engine, path) for path in paths}

    async def _restore_directory(self, difference: Difference, path: bytes) -> None:
        ino = difference.ino
        place = await self._name_of(path)
        if place is None:
            return
        if await self._changes.find_name(place) is None and await self._is_movable(ino):
            ((former, name),) = (await self._names_of(ino)).items()
            times = {
                place.parent: await self._times_of(path),
                name.parent: await self._times_of(former),
            }
            await self._changes.move_name(name, place, times)
            self._copying.tally.changed_count += 1
            self._copying.tally.act("change", path)
        if await self._ensure_directory(path) == ino:
            found = await self._changes.find_inode(ino)
            assert found is not None
            await self._copying.make_like(found, await self._copying.original(ino), path)

    async def _restore_file(
        self,
        ino: InodeNo,
        names: Mapping[bytes, Name],
        times: dict[InodeNo, Times],
        *,
        movable: bool,
        walked: Sequence[bytes] = (),
    ) -> None:
        """Have names lead to what was an inode that is no directory.

        Args:
            ino: The inode.
            names: All its names that are restored, by their paths.
            times: Those of their directories.
            movable: The inode itself may get them, if it still is as it was and its other names
                may go.
            walked: Paths of further names, which it gets when their directories are walked.
        """
        copying, changes = self._copying, self._changes
        original = await copying.original(ino)
        path = next(iter(names))
        found = {name: await changes.find_name(name) for name in names.values()}
        may_have = frozenset([*names, *walked])
        base = await self._base(original, list(found.values()), may_have, movable=movable)
        missing = [name for name, inode in found.items() if base is None or inode != base]
        for each, name in names.items():
            if name in missing:
                await copying.make_way(found[name], name, each)
        if base is None:
            await copying.put(original, missing, times, path)
            return
        copying.note_linked(original, base.ino)
        if missing:
            await copying.link(base.ino, missing, times, path)
        if not missing or not await copying.is_like(base, original):
            await copying.make_like(base, original, path)

    async def _base(
        self,
        original: Original,
        found: list[Inode | None],
        may_have: frozenset[bytes],
        *,
        movable: bool,
    ) -> Inode | None:
        """Return an inode that holds what the original holds, and may be it; None: not one does.

        One that has a name that is not the original's as well may only be the original itself.
        """
        copying, ino = self._copying, original.inode.ino
        candidates = [inode for inode in found if inode is not None]
        if movable and (live := await self._changes.find_inode(ino)) is not None:
            is_there = live.ino in [inode.ino for inode in candidates]
            candidates = [inode for inode in candidates if inode.ino != ino]
            if (
                live.nlink
                and await copying.has_same_bytes(live, original)
                and (is_there or await self._is_movable(ino))
            ):
                return live
        for inode in candidates:
            is_itself = inode.ino == original.inode.ino
            if not is_itself and (
                not copying.may_stay(inode, original)
                or not may_have.issuperset(await self._names_of(inode.ino))
            ):
                continue
            if inode.nlink and await copying.has_same_bytes(inode, original):
                return inode
        return None

    async def _remove_new_names(self, ino: InodeNo) -> None:
        """Remove the names of an inode where nothing was."""
        for path, name in (await self._names_of(ino)).items():
            if not self._inside([path]) or self._is_walked(path):
                continue
            if await self._was_there(path) is None and not await self._may_have_been(
                ino, name, path
            ):
                steps = self._copying.remove(name, path, await self._times_of(path))
                async with aclosing(steps):
                    async for _ in steps:
                        pass

    async def _may_have_been(self, ino: InodeNo, name: Name, path: bytes) -> bool:
        """Return whether a name was made by the first listing of a directory of a bucket.

        The snapshot shows that directory empty, since nobody had looked into it; what was in it
        is not known.
        """
        engine = self._engine
        directory = await engine.get_directory(name.parent)
        if directory is None:
            return False
        if await engine.get_directory(ino) is None:
            known = await engine.get_object(ino)
            if known is None or known.source != directory.source:
                return False
        above = await self._was_above(path)
        return above is None or not await engine.list_directory_at(self._snap, above.ino, 0, 1)

    # --- paths -----------------------------------------------------------------------------------
    async def _was_there(self, path: bytes) -> Inode | None:
        """Return what a path led to at the instant; None: nothing."""
        above = await self._was_above(path)
        if above is None or not path:
            return above
        if not stat.S_ISDIR(above.mode):
            return None
        return await find_at(self._engine, self._snap, above.ino, path.rpartition(b"/")[2])

    async def _was_above(self, path: bytes) -> Inode | None:
        """Return what the directory of a path was at the instant, which does not change."""
        above = path.rpartition(b"/")[0]
        if self._above is None or self._above[0] != above:
            self._above = above, await self._walk(above)
        return self._above[1]

    async def _walk(self, path: bytes) -> Inode | None:
        inode = await self._engine.inode_at(self._snap, ROOT_INODE)
        for name in split_path(path):
            if not stat.S_ISDIR(inode.mode):
                return None
            found = await find_at(self._engine, self._snap, inode.ino, name)
            if found is None:
                return None
            inode = found
        return inode

    async def _times_of(self, path: bytes) -> Times:
        """Return the times of the directory of a path, as they were; else as they are."""
        directory = await self._was_above(path)
        if directory is None:
            directory = await find_path(self._engine, path.rpartition(b"/")[0])
        return Times(directory.atime_ns, directory.mtime_ns)

    async def _name_of(self, path: bytes) -> Name | None:
        """Return where a path is now; its directory is made if it is missing.

        Returns:
            None if all in its directory is walked anyway.
        """
        above, _, name = path.rpartition(b"/")
        parent = await self._ensure_directory(above)
        if parent is None or self._is_walked(path):
            return None
        return Name(parent, name)

    async def _ensure_directory(self, path: bytes) -> InodeNo | None:
        """Return the directory that is at a path now, which was there; made if it is missing.

        One that is another than it was is noted: all in it may differ, and is walked.

        Returns:
            None if it lies in such a one.
        """
        present, former, done = ROOT_INODE, ROOT_INODE, b""
        for name in split_path(path):
            was = await self._engine.lookup_at(self._snap, former, name)
            above, done = done, done + b"/" + name
            if self._is_walked(done):
                return None
            is_inside = bool(self._inside([done]))
            found = await self._changes.find_name(Name(present, name))
            if found is None or not stat.S_ISDIR(found.mode):
                original = await self._copying.original(was.ino)
                times = await self._times_of(done) if self._inside([above]) else None
                place = Name(present, name)
                found = await self._copying.put_directory(original, place, times, done)
            if is_inside and found.ino != was.ino:
                self._others.setdefault(done, (was.ino, found.ino))
            present, former = found.ino, was.ino
        return present
