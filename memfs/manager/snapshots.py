"""Snapshots of a manager: the instants that its mount keeps, and its keys as they were.

Invariant: a restore touches nothing but the directory of the manager's own keys.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from memfs.control.client import ControlError
from memfs.manager.arguments import several
from memfs.manager.errors import MissingKeyError, MissingSnapshotError
from memfs.manager.keyed import KeyedDirectory, key_at, keys_below
from memfs.manager.keys import is_cut, path_of
from memfs.manager.metadata import KEY_XATTR
from memfs.manager.paths import snapshot_tree
from memfs.manager.root import Root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from memfs.control.methods.copies import RestoreReport as Report
    from memfs.control.methods.snapshots import DifferenceReport

ROOT_LABEL = "memory.root"
"""Label that names the directory of the manager that made a snapshot, from the mount's root."""

Change = Literal["added", "removed", "changed", "renamed", "metadata"]

_CHANGES: dict[str, Change] = {
    "+": "added",
    "-": "removed",
    "M": "changed",
    "R": "renamed",
    "m": "metadata",
}


class SnapshotEntry(NamedTuple):
    """An instant that is kept of the whole mount."""

    id: str
    created: datetime
    """In UTC."""
    description: str
    labels: dict[str, str]
    kept_until: datetime | None
    """No rule removes it before; None: any rule may."""


class KeyChange(NamedTuple):
    """What became of one key between two instants."""

    key: str
    """After the change, but of what was removed."""
    change: Change
    old_key: str | None
    """The key before, of what was renamed."""
    size_bytes: int | None
    """After it; None: it is gone."""
    old_size_bytes: int | None
    """Before it; None: it was not there."""


class RestoreReport(NamedTuple):
    """What a restore came to."""

    snapshot_id: str
    before: str
    """Id of the snapshot of the present that was made before; restore it to take this one back."""
    files: int
    """That were made anew."""
    changed: int
    """Whose metadata or name was brought back alone."""
    removed: int
    """Files and directories that were not there."""
    failures: list[str]
    """What could not be brought back, with the reason."""


class SnapshotKeeper(KeyedDirectory):
    """Keys of a directory as they were at instants that the mount keeps."""

    def create_snapshot(
        self,
        description: str = "",
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        strict: bool = False,
    ) -> str:
        """Keep the present instant; it takes milliseconds and no room until something changes.

        It is of the whole mount: names, metadata and bytes. It is on stable storage when this
        returns.

        Args:
            description: For people.
            name: Its id, as the name of a file; None: of the directory and the time.
            labels: For programs and rules.
            strict: Refuse if a file is open for writing.

        Returns:
            The id.

        Raises:
            ControlError: EEXIST: the name is taken. EBUSY: `strict`, and a file is open for
                writing. EINVAL: a name or a label makes no sense. ENOSPC: the disk is full.
        """
        mount = self._mounted()
        # A snapshot that has the directory can be restored to, even if it has no key.
        inner = mount.inner(self._made_directory())
        if name is None:
            now = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
            name = f"{self.directory.name[:100]}-{now}Z"
        given = {ROOT_LABEL: inner[:255]} if inner else {}
        made = mount.snapshots.create(
            name, description=description, labels=given | dict(labels or {}), strict=strict
        )
        return made["snapshot"]["name"]

    def list_snapshots(self) -> list[SnapshotEntry]:
        """Return all snapshots of the mount, oldest first; automatic ones among them."""
        return [
            SnapshotEntry(
                each["name"],
                _instant(each["created_ns"]),
                each["description"],
                each["labels"],
                None if each["kept_until_ns"] is None else _instant(each["kept_until_ns"]),
            )
            for each in self._mounted().snapshots.list()
        ]

    def diff_snapshots(
        self, before: str, after: str | None = None, *, prefix: str = ""
    ) -> Iterator[KeyChange]:
        """Yield what became of each key; takes as long as what has changed.

        Args:
            before: Id of the earlier snapshot.
            after: That of the later one; None: now.
            prefix: Only of keys that begin with this.

        Raises:
            MissingSnapshotError: There is no such snapshot.
            ControlError: EINVAL: `after` is the earlier one.
        """
        mount = self._mounted()
        was, now = self._root_at(before), self._root if after is None else self._root_at(after)
        top = mount.inner(self.directory)
        under = f"{top}/" if top else ""

        def key_in(root: Root, path: str | None) -> str | None:
            if path is None or not path.lstrip("/").startswith(under):
                return None
            key = key_at(root, path.lstrip("/").removeprefix(under))
            return key if key is not None and key.startswith(prefix) else None

        try:
            for each in mount.snapshots.differences(before, after, under=top):
                if each["kind"] == "file":
                    yield from _key_changes(
                        each, key_in(was, _old_path(each)), key_in(now, _new_path(each))
                    )
        except ControlError as error:
            if error.errno != errno.ENOENT:
                raise
            # The directory was at neither instant.

    def restore_snapshot(
        self,
        snapshot_id: str,
        *,
        keys: Iterable[str] | None = None,
        to: str | None = None,
        delete: bool | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> RestoreReport:
        """Bring the keys of this manager back as they were; only what differs is touched.

        A snapshot of the present is made first. Each value is as it was before, or as of the
        snapshot; all of them together are not restored at one instant. Who has a value open keeps
        it. Stopped, the same call goes on from there.

        Args:
            snapshot_id: As `create_snapshot` returns it.
            keys: Only these; None: all.
            to: Put them below this key, as `TO/KEY`; None: where they were.
            delete: Remove keys that were not there; None: only where all keys are restored to
                their places. Not with `keys`.
            on_progress: Told about once a second how many files are done.

        Raises:
            MissingSnapshotError: There is no such snapshot.
            MissingKeyError: It has not one of `keys`; nothing has changed.
            ControlError: ENOSPC: the disk is full.
        """
        self._mounted()
        was = self._root_at(snapshot_id)
        if keys is not None:
            if delete:
                raise ValueError("delete=True is for all keys; with keys= nothing else is removed")
            wanted = list(dict.fromkeys(several("keys", keys)))
            for key in wanted:
                if not was.exists(path_of(key)):
                    raise MissingKeyError(
                        f"nothing was stored under the key {key!r} in the snapshot {snapshot_id!r}"
                    )
            return self._restore_keys(snapshot_id, wanted, to, on_progress)
        target = None if to is None else self.path(to)
        if to is not None:
            self._root.make_directory(path_of(to).rpartition("/")[0])
        report = self._mounted().snapshots.restore(
            self.directory,
            snapshot=snapshot_id,
            to=target,
            delete=to is None if delete is None else delete,
            on_progress=lambda told: on_progress(told["file_count"]),
        )
        if to is not None:
            self._rename_cut_keys(to, keys_below(was))
        return _report_of([report])

    def _restore_keys(
        self, snapshot_id: str, keys: list[str], to: str | None, on_progress: Callable[[int], None]
    ) -> RestoreReport:
        snapshots, reports = self._mounted().snapshots, list["Report"]()
        for key in keys:
            target = None if to is None else self.path(f"{to}/{key}")
            if to is not None:
                self._root.make_directory(path_of(f"{to}/{key}").rpartition("/")[0])
            reports.append(
                snapshots.restore(
                    self.path(key),
                    snapshot=snapshot_id,
                    to=target,
                    before=reports[0]["before"] if reports else None,
                )
            )
            on_progress(len(reports))
        if to is not None:
            self._rename_cut_keys(to, keys)
        if not reports:
            raise ValueError("keys= names not one key")
        return _report_of(reports)

    def _rename_cut_keys(self, to: str, keys: Iterable[str]) -> None:
        """Tell the whole key where the path has only the beginning of it."""
        for key in keys:
            new = f"{to}/{key}"
            path = path_of(new)
            if is_cut(path) and self._root.exists(path):
                os.setxattr(self.directory / path, KEY_XATTR, new.encode())

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; what it kept goes in the background.

        Raises:
            MissingSnapshotError: There is no such snapshot.
        """
        self.delete_snapshots([snapshot_id])

    def delete_snapshots(self, snapshot_ids: Iterable[str]) -> None:
        """Remove snapshots, all or nothing.

        Raises:
            MissingSnapshotError: There is no snapshot of one of the ids; all of them stay.
        """
        names = list(several("snapshot_ids", snapshot_ids))
        with _missing_told(", ".join(map(repr, names))):
            self._mounted().snapshots.delete(names)

    def _root_at(self, snapshot_id: str) -> Root:
        """Return the directory of all keys as of a snapshot."""
        mount = self._mounted()
        tree = snapshot_tree(mount, snapshot_id)
        return Root(str(tree / mount.inner(self.directory)), on_mount=True)

    def _require_snapshot(self, snapshot_id: str) -> None:
        """See that a snapshot is there; the kernel may believe its name a moment longer.

        Raises:
            MissingSnapshotError: It is not.
        """
        with _missing_told(repr(snapshot_id)):
            self._mounted().snapshots.show(snapshot_id)


@contextmanager
def _missing_told(names: str) -> Iterator[None]:
    try:
        yield
    except ControlError as error:
        if error.errno == errno.ENOENT:
            raise MissingSnapshotError(f"there is no snapshot {names}: {error}") from None
        raise


def _instant(since_epoch_ns: int) -> datetime:
    return datetime.fromtimestamp(since_epoch_ns / 1e9, UTC)


def _old_path(each: DifferenceReport) -> str | None:
    return {"+": None, "R": each["old_path"]}.get(each["change"], each["path"])


def _new_path(each: DifferenceReport) -> str | None:
    return None if each["change"] == "-" else each["path"]


def _key_changes(each: DifferenceReport, old: str | None, new: str | None) -> Iterator[KeyChange]:
    """Yield the change of a file by the keys that it had and has; None: it is no key there."""
    size, old_size = each["size"], each["old_size"]
    if new is None and old is not None:
        yield KeyChange(old, "removed", None, None, old_size)
    elif new is not None and old is None:
        yield KeyChange(new, "added", None, size, None)
    elif new is not None:
        change = _CHANGES[each["change"]]
        yield KeyChange(new, change, old if change == "renamed" else None, size, old_size)


def _report_of(reports: list[Report]) -> RestoreReport:
    first = reports[0]
    assert first["before"] is not None, "only a dry run makes none"
    return RestoreReport(
        first["snapshot"],
        first["before"],
        sum(report["file_count"] for report in reports),
        sum(report["changed_count"] for report in reports),
        sum(report["removed_count"] for report in reports),
        [text for report in reports for text in report["failures"]],
    )
