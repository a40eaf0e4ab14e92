"""Snapshots of a mount: instants that are kept, for the command line and for Python.

Invariant: every method raises as those of `Mount` do.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, NamedTuple

from memfs.control.client import ControlError, ControlUnavailableError
from memfs.control.methods import copies, snapshots
from memfs.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from memfs.client.mount import Mount

ANSWER_S_MAX = 60.0
"""For a page of differences, and all versions of a file."""

CREATE_S_MAX = 600.0
"""What was written is sealed and synced before the answer."""

SIZES_S_MAX = 600.0
"""A million kept contents on a machine that is busy."""


class Snapshots(NamedTuple):
    """The snapshots of one mount; `Mount.snapshots`."""

    mount: Mount

    def create(
        self,
        name: str,
        *,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        kept_until_ns: int | None = None,
        strict: bool = False,
    ) -> snapshots.SnapshotMade:
        """Keep the present instant under a name; on stable storage when this returns.

        Args:
            name: As of a file: at most 255 bytes, no slash.
            description: For people.
            labels: For programs and rules; keys that begin with `memfs.` are memfs's own.
            kept_until_ns: No rule removes it before, in ns since the epoch; None: any rule may.
            strict: Refuse if a file is open for writing.

        Raises:
            ControlError: EEXIST: the name is taken. EINVAL: it is no name of a file, or a label
                makes no sense. EBUSY: `strict`, and a file is open for writing. ENOSPC: the disk is
                full.
        """
        params: snapshots.SnapshotParameters = {
            "name": name,
            "description": description,
            "labels": dict(labels or {}),
            "kept_until_ns": kept_until_ns,
            "strict": strict,
        }
        return self.mount.asking(snapshots.SNAPSHOT_CREATE, CREATE_S_MAX)(params)

    def list(self) -> list[snapshots.SnapshotReport]:
        """Return all snapshots, oldest first."""
        return self.mount.asking(snapshots.SNAPSHOT_LIST)({})

    def sizes(self) -> snapshots.SnapshotSizesReport:
        """Return what snapshots hold, each alone and together; looks at all that they keep."""
        return self.mount.asking(snapshots.SNAPSHOT_SIZES, SIZES_S_MAX)({})

    def show(self, name: str) -> snapshots.SnapshotReport:
        """Return one snapshot. ENOENT: there is no such snapshot."""
        return self.mount.asking(snapshots.SNAPSHOT_SHOW)({"name": name})

    def export(self) -> int:
        """Have the metadata exported; returns `finished_count` of `exports` once it has ended.

        Raises:
            ControlError: There is no store but one in the state directory; ENOTSUP: the store
                belongs to another state.
        """
        return self.mount.asking(snapshots.SNAPSHOT_EXPORT)({})

    def exports(self) -> snapshots.ExportsReport:
        """Return how far an export is, and those in the store that are complete."""
        return self.mount.asking(snapshots.SNAPSHOT_EXPORTS)({})

    def tree(self, name: str) -> Path:
        """Return the directory that has the tree of a snapshot; missing, if there is no such one.

        Raises:
            UsageError: No snapshot can have that name.
        """
        is_text = isinstance(name, str)
        if not is_text or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise UsageError(f"{name!r} cannot be the name of a snapshot")
        return self.mount.mountpoint / ".memfs" / "snapshots" / name

    def delete(self, names: Sequence[str]) -> None:
        """Remove snapshots, all or nothing; what they kept goes in the background.

        Raises:
            ControlError: ENOENT: there is no snapshot of one of the names.
        """
        self.mount.asking(snapshots.SNAPSHOT_DELETE)({"names": [*names]})

    def restore(
        self,
        path: str | os.PathLike[str] | None,
        *,
        snapshot: str | None = None,
        to: str | os.PathLike[str] | None = None,
        delete: bool = False,
        dry_run: bool = False,
        before: str | None = None,
        on_progress: Callable[[copies.RestoreReport], None] = lambda _: None,
    ) -> copies.RestoreReport:
        """Bring back a file or a tree as it was; only what differs is touched.

        A snapshot of the present is made first. Each file is as it was before, or as of the
        snapshot; the whole is not made at one instant. Stopped, the same call goes on from there.

        Args:
            path: On this mount; it need not exist. None: everything.
            snapshot: Its name; None: the newest one that was not made before a restore.
            to: On this mount; where it is put. None: where it was.
            delete: Remove what was not there.
            dry_run: Only return what would be done, in `actions`.
            before: That of a former restore, of which this one is a part: no other snapshot of the
                present is made, and what was changed below a directory since then stays.
            on_progress: Told about once a second what was done so far.

        Returns:
            What was done; `failures` names what could not be.

        Raises:
            ControlError: ENOENT: there is no such snapshot, or the path was not there. ENOSPC: the
                disk is full.
            UsageError: The mount is read-only.
        """
        from memfs.client.mount import WORK_S_MAX

        mount = self.mount
        if not dry_run:
            mount.refuse_read_only()
        params: copies.RestoreParameters = {
            "work": secrets.token_hex(8),
            "path": "" if path is None else mount.named(path),
            "snapshot": snapshot,
            "to": None if to is None else mount.named(to),
            "delete": delete,
            "dry_run": dry_run,
            "before": before,
        }
        ask = mount.asking(copies.SNAPSHOT_RESTORE, WORK_S_MAX)
        actions: list[list[str]] = []
        try:
            while True:
                report = ask(params)
                actions += report["actions"]
                if report["ended"]:
                    report["actions"] = actions
                    return report
                on_progress(report)
        except BaseException:
            with contextlib.suppress(ControlError, ControlUnavailableError):
                mount.asking(copies.SNAPSHOT_RESTORE_CANCEL)({"work": params["work"]})
            raise

    def diff(
        self,
        before: str,
        after: str | None = None,
        *,
        under: str = "",
        position: int = 0,
        limit: int = 1000,
    ) -> snapshots.SnapshotDiffReport:
        """Return a page of what differs between two instants; takes as long as what has changed.

        Args:
            before: The earlier snapshot.
            after: The later one; None: now.
            under: Only what was below this path, as of `Mount.inner`.
            position: That of the page before; 0: from the start.
            limit: At most so many inodes are looked at, up to 5000.

        Raises:
            ControlError: ENOENT: there is no such snapshot, or no such path at either instant.
                EINVAL: `after` is the earlier one.
        """
        params: snapshots.SnapshotDiffParameters = {
            "before": before,
            "after": after,
            "under": under,
            "position": position,
            "limit": limit,
        }
        return self.mount.asking(snapshots.SNAPSHOT_DIFF, ANSWER_S_MAX)(params)

    def differences(
        self, before: str, after: str | None = None, *, under: str = ""
    ) -> Iterator[snapshots.DifferenceReport]:
        """Yield all pages of `diff`, one difference after the other."""
        position: int | None = 0
        while position is not None:
            page = self.diff(before, after, under=under, position=position)
            yield from page["differences"]
            position = page["position"]

    def versions(self, path: str) -> Sequence[snapshots.VersionReport]:
        """Return each generation of a file with the snapshots that have it, the newest one first.

        Args:
            path: As of `Mount.inner`; nothing need be there now.

        Raises:
            ControlError: ENOENT: there is nothing, and no snapshot has such a path.
        """
        return self.mount.asking(snapshots.SNAPSHOT_VERSIONS, ANSWER_S_MAX)({"path": path})[
            "versions"
        ]
