"""Paths of a mount that tell and change what memfs knows of their files."""

from __future__ import annotations

import os
from pathlib import PosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.client.mount import Mount
from memfs.client.xattrs import set_xattrs
from memfs.errors import UsageError
from memfs.manager.entries import mtime_of
from memfs.manager.errors import MissingSnapshotError
from memfs.manager.metadata import TYPES_XATTR, Scalar, attributes_of, is_metadata, metadata_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Version(NamedTuple):
    """One content of a file that is still there."""

    size_bytes: int
    mtime: float
    """Seconds since the epoch."""
    state: str
    """`exact`; `open`: a program had it open for writing when it was kept; `absent`: no bytes."""
    is_now: bool
    """It is the present one."""
    snapshots: list[str]
    """Ids of those that have it, the newest one first."""


class MemPath(PosixPath):
    """A path that is equal to its `pathlib.Path`, with the tier and the metadata of the file."""

    @property
    def tier(self) -> str:
        """`hot`, `warm`, `cold` or `glacier`."""
        return self._told("tier")

    @property
    def state(self) -> str:
        """`dirty`, `local` (on stable disk) or `remote` (in the object store)."""
        return self._told("state")

    @property
    def metadata(self) -> dict[str, Scalar]:
        """The user's extended attributes, typed; `set_metadata` changes them."""
        return metadata_of(read_attributes(self))

    def set_metadata(self, metadata: Mapping[str, Scalar], *, replace: bool = False) -> None:
        """Set metadata, all names in one step; see `set_xattrs`.

        Args:
            metadata: Values by name.
            replace: Names that are not among these are removed.

        Raises:
            ValueFormatError: A name or a value cannot be stored; nothing has changed.
        """
        before = read_attributes(self)
        merged = dict(metadata) if replace else metadata_of(before) | dict(metadata)
        after = attributes_of(merged)
        changes: dict[bytes, bytes | None] = {
            attribute.encode(): value
            for attribute, value in after.items()
            if before.get(attribute) != value
        }
        for attribute in before:
            if attribute not in after and (is_metadata(attribute) or attribute == TYPES_XATTR):
                changes[os.fsencode(attribute)] = None
        set_xattrs(self, changes)

    def pin(self, tier: str, priority: int | None = None) -> None:
        """Send the file to a tier and keep it there; see `Mount.pin`."""
        Mount.of(self).pin(self, tier, priority)

    def unpin(self) -> None:
        """Let memfs choose the tier again."""
        Mount.of(self).unpin(self)

    def why(self) -> dict[str, Any]:
        """Return the decision that brought the file where it is; see `Mount.why`."""
        return Mount.of(self).why(self)

    def at(self, snapshot: str) -> MemPath:
        """Return the file as of a snapshot, for all programs to read; it need not exist.

        Raises:
            MissingSnapshotError: The mount has no such snapshot.
        """
        mount = Mount.of(self)
        return MemPath(snapshot_tree(mount, snapshot) / mount.inner(self))

    def versions(self) -> list[Version]:
        """Return each content of the file that is left, the newest one first.

        Raises:
            ControlError: ENOENT: there is nothing, and no snapshot has such a path.
        """
        mount = Mount.of(self)
        return [
            Version(
                each["size"],
                mtime_of(each["mtime_ns"]),
                each["state"],
                each["now"],
                each["snapshots"],
            )
            for each in mount.snapshots.versions(mount.inner(self))
        ]

    def _told(self, name: str) -> str:
        return os.getxattr(self, f"user.memfs.{name}").decode()


def read_attributes(path: str | int | os.PathLike[str]) -> dict[str, bytes]:
    """Return the extended attributes of a file in the user's namespace, by name."""
    found = {}
    for name in os.listxattr(path):
        if name.startswith("user."):
            try:
                found[name] = os.getxattr(path, name)
            except OSError:
                # It was removed meanwhile.
                continue
    return found


def snapshot_tree(mount: Mount, snapshot: str) -> Path:
    """Return the directory that has the tree of a snapshot.

    Raises:
        MissingSnapshotError: The mount has no such snapshot.
    """
    try:
        tree = mount.snapshots.tree(snapshot)
    except UsageError as error:
        raise MissingSnapshotError(str(error)) from None
    if not tree.is_dir():
        raise MissingSnapshotError(f"{mount.mountpoint} has no snapshot {snapshot!r}")
    return tree
