"""The answers of the control socket about what became of files: differences, and versions of one.

Invariant: a call looks at a bounded number of files, and requests of programs come between.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Literal

import trio

from memfs.errors import (
    InvalidValueError,
    NotADirectoryInodeError,
    NotFoundError,
    ObjectMissingError,
    StaleInodeError,
)
from memfs.metadata.records import InodeFlags
from memfs.types import NOW, ROOT_INODE, FormKind, InodeNo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.content.past import PastReader
    from memfs.control.methods.snapshots import (
        DifferenceReport,
        FileKind,
        SnapshotDiffReport,
        VersionReport,
        VersionsReport,
    )
    from memfs.control.server import Handler
    from memfs.metadata.records import Difference, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import SnapshotId

INODES_A_STEP = 50
"""Looked at between two looks at requests: some 5 ms."""

INODES_A_CALL_MAX = 5000

_KINDS: dict[int, FileKind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
}


class Comparing:
    """Answers `snapshot.diff` and `snapshot.versions`.

    Args:
        past: Finds bytes as of snapshots.
    """

    def __init__(self, parts: MoveParts, past: PastReader) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._past = past

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"snapshot.diff": self.diff, "snapshot.versions": self.versions}

    # --- differences -----------------------------------------------------------------------------
    async def diff(
        self,
        before: str,
        after: str | None = None,
        under: str = "",
        position: int = 0,
        limit: int = 1000,
    ) -> SnapshotDiffReport:
        """Return what differs between two instants; see `client.snapshots`.

        Raises:
            NotFoundError: There is no such snapshot, or no such path at either instant.
            InvalidValueError: `after` is the earlier one.
        """
        first, second = await self._snap(before), await self._snap(after)
        if second < first:
            raise InvalidValueError(f"snapshot {after!r} is older than {before!r}: swap them")
        directory = await self._find_either(first, second, os.fsencode(under))
        found: list[DifferenceReport] = []
        left = min(max(limit, 1), INODES_A_CALL_MAX)
        after_ino: InodeNo | None = InodeNo(position)
        while after_ino is not None and left > 0:
            page = await self._engine.diff(
                first, second, directory, after_ino, min(left, INODES_A_STEP)
            )
            for difference in page.differences:
                found += await self._describe(first, second, difference)
            after_ino, left = page.position, left - INODES_A_STEP
            await trio.lowlevel.checkpoint()
        return {"differences": found, "position": after_ino}

    async def _snap(self, name: str | None) -> SnapshotId:
        return NOW if name is None else (await self._engine.get_snapshot(name)).snap

    async def _find_either(self, first: SnapshotId, second: SnapshotId, path: bytes) -> InodeNo:
        """Return the inode of a path at the later instant, or else at the earlier one."""
        found = await self._find(second, path) or await self._find(first, path)
        if found is None:
            raise NotFoundError(f"there was no {os.fsdecode(path)!r} at either instant")
        return found.ino

    async def _find(self, snap: SnapshotId, path: bytes) -> Inode | None:
        try:
            inode = await self._engine.inode_at(snap, ROOT_INODE)
            for name in filter(None, path.split(b"/")):
                inode = await self._engine.lookup_at(snap, inode.ino, name)
        except (NotFoundError, NotADirectoryInodeError, StaleInodeError):
            return None
        return inode

    async def _describe(
        self, first: SnapshotId, second: SnapshotId, found: Difference
    ) -> list[DifferenceReport]:
        """Return a difference as users see it: by path, so that a file replaced is one modified."""
        before, after = found.before, await self._as_now(found.after)
        gone = [path for path in found.paths_before if path not in found.paths_after]
        came = [path for path in found.paths_after if path not in found.paths_before]
        stayed = [path for path in found.paths_after if path in found.paths_before]
        told: list[DifferenceReport] = []
        for old, new in zip(gone, came, strict=False):
            told.append(_report("R", new, before, after, old))
        for path in came[len(gone) :]:
            replaced = await self._find(first, path)
            alike = replaced is not None and after is not None and _kind(replaced) == _kind(after)
            told.append(_report("M" if alike else "+", path, replaced if alike else None, after))
        for path in gone[len(came) :]:
            successor = await self._find(second, path)
            if successor is None or before is None or _kind(successor) != _kind(before):
                told.append(_report("-", path, before, None))
        changed = stayed or came[: len(gone)]
        if before is not None and after is not None and changed:
            change = _change(before, after, found)
            told += [_report(change, path, before, after) for path in changed] if change else []
        return told

    async def _as_now(self, inode: Inode | None) -> Inode | None:
        """Return an inode with its size of now, if it is a live one that is being written."""
        if inode is None or not inode.flags & InodeFlags.UNSEALED or not inode.raw:
            return inode
        try:
            status = self._parts.raw_store.stat(inode.raw)
        except ObjectMissingError:
            return inode
        return inode._replace(size=status.st_size, mtime_ns=status.st_mtime_ns)

    # --- versions --------------------------------------------------------------------------------
    async def versions(self, path: str) -> VersionsReport:
        """Return each generation of a file with the snapshots that have it, the newest one first.

        Raises:
            NotFoundError: There is nothing now, and no snapshot has such a path.
        """
        wanted = os.fsencode(path)
        versions: dict[tuple[int, int], VersionReport] = {}
        snapshots = await self._engine.list_snapshots()
        for name, snap in [(None, NOW), *((each.name, each.snap) for each in reversed(snapshots))]:
            await trio.lowlevel.checkpoint()
            try:
                inode = await self._find(snap, wanted)
            except NotFoundError:
                # The snapshot was deleted meanwhile.
                continue
            if name is None and inode is not None and inode.flags & InodeFlags.UNSEALED:
                await self._parts.sealer.seal_closed(inode.ino)
                inode = await self._find(snap, wanted)
            if inode is None:
                continue
            key = inode.ino, inode.generation
            if key not in versions:
                versions[key] = await self._version(snap, inode)
            version = versions[key]
            if name is None:
                version["now"] = True
            else:
                version["snapshots"].append(name)
        if not versions:
            raise NotFoundError(
                f"there is no {path!r}, and no snapshot has one: `memfs snapshot list` shows them"
            )
        return {"versions": list(versions.values())}

    async def _version(self, snap: SnapshotId, inode: Inode) -> VersionReport:
        content = await self._past.find_of(inode)
        shown = await self._as_now(content.inode) if snap == NOW else content.inode
        assert shown is not None
        forms = [FormKind.RAW.value] if shown.raw else []
        forms += [form.kind.value for form in await self._engine.list_all_forms(shown)]
        return {
            "ino": shown.ino,
            "generation": shown.generation,
            "kind": _kind(shown),
            "size": shown.size,
            "mtime_ns": shown.mtime_ns,
            "state": content.state.value,
            "forms": forms,
            "now": False,
            "snapshots": [],
        }


def _kind(inode: Inode) -> FileKind:
    return _KINDS.get(stat.S_IFMT(inode.mode), "other")


def _change(before: Inode, after: Inode, found: Difference) -> Literal["M", "m"] | None:
    """Return what became of an inode beside its names; None: nothing that users look for."""
    content = (before.generation, before.size), (after.generation, after.size)
    if not stat.S_ISDIR(before.mode) and content[0] != content[1]:
        return "M"
    for field in ("mode", "uid", "gid", "rdev"):
        if getattr(before, field) != getattr(after, field):
            return "m"
    times_differ = before.mtime_ns != after.mtime_ns and not stat.S_ISDIR(before.mode)
    return "m" if times_differ or found.xattrs_differ else None


def _report(
    change: Literal["+", "-", "M", "R", "m"],
    path: bytes,
    before: Inode | None,
    after: Inode | None,
    old_path: bytes | None = None,
) -> DifferenceReport:
    one = after if after is not None else before
    assert one is not None
    return {
        "change": change,
        "path": _text(path),
        "old_path": None if old_path is None else _text(old_path),
        "kind": _kind(one),
        "ino": one.ino,
        "size": None if after is None else after.size,
        "old_size": None if before is None else before.size,
        "mtime_ns": None if after is None else after.mtime_ns,
    }


def _text(path: bytes) -> str:
    return os.fsdecode(path).lstrip("/")
