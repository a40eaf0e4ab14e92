"""Snapshots of a mount: instants that are kept, for the command line and for Python.

Invariant: every method raises as those of `Mount` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.control import methods

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memfs.client.mount import Mount

CREATE_S_MAX = 600.0
"""What was written is sealed and synced before the answer."""


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
    ) -> methods.SnapshotMade:
        """Keep the present instant under a name; on stable storage when this returns.

        Args:
            name: As of a file: at most 255 bytes, no slash.
            description: For people.
            labels: For programs and rules; keys that begin with `memfs.` are memfs's own.
            kept_until_ns: No rule removes it before, in ns since the epoch; None: any rule may.

        Raises:
            ControlError: EEXIST: the name is taken. EINVAL: it is no name of a file, or a label
                makes no sense. ENOSPC: the disk is full.
        """
        params: methods.SnapshotParameters = {
            "name": name,
            "description": description,
            "labels": dict(labels or {}),
            "kept_until_ns": kept_until_ns,
        }
        return self.mount.asking(methods.SNAPSHOT_CREATE, CREATE_S_MAX)(params)

    def list(self) -> list[methods.SnapshotReport]:
        """Return all snapshots, oldest first."""
        return self.mount.asking(methods.SNAPSHOT_LIST)({})

    def show(self, name: str) -> methods.SnapshotReport:
        """Return one snapshot. ENOENT: there is no such snapshot."""
        return self.mount.asking(methods.SNAPSHOT_SHOW)({"name": name})

    def export(self) -> int:
        """Have the metadata exported; returns `finished_count` of `exports` once it has ended.

        Raises:
            ControlError: There is no store but one in the state directory; ENOTSUP: the store
                belongs to another state.
        """
        return self.mount.asking(methods.SNAPSHOT_EXPORT)({})

    def exports(self) -> methods.ExportsReport:
        """Return how far an export is, and those in the store that are complete."""
        return self.mount.asking(methods.SNAPSHOT_EXPORTS)({})

    def delete(self, names: Sequence[str]) -> None:
        """Remove snapshots, all or nothing; what they kept goes in the background.

        Raises:
            ControlError: ENOENT: there is no snapshot of one of the names.
        """
        self.mount.asking(methods.SNAPSHOT_DELETE)({"names": [*names]})
