"""The part of an engine that keeps instants of the namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memfs.metadata.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import (
        DifferencePage,
        DirectoryEntry,
        HeldContent,
        Inode,
        KeptContent,
        OpenContent,
        Snapshot,
        SnapshotUsage,
    )
    from memfs.types import Generation, InodeNo, IntentId, SnapshotId


class Snapshots(Changes, Protocol):
    """Instants of the namespace that are kept: names, attributes, xattrs, targets of symlinks.

    A snapshot is read-only and never changes until it is deleted. `snap` may be `NOW` where one is
    read. Methods that take one raise `NotFoundError` if no snapshot has that number any longer.
    """

    # --- making and removing ----------------------------------------------------------------------
    async def create_snapshot(
        self,
        name: str,
        now_ns: int,
        description: str = "",
        labels: Sequence[tuple[str, str]] = (),
        kept_until_ns: int | None = None,
    ) -> Snapshot:
        """Keep the present instant under a name; O(1).

        Raises:
            AlreadyExistsError: The name is taken.
            InvalidValueError, NameTooLongError: It cannot be the name of a file.
        """
        ...

    async def part_open(self, files: Sequence[OpenContent]) -> list[Inode]:
        """Begin a new generation of files that may have a writer, for the newest snapshot's sake.

        It shows the former generation, with the size and time given here and without bytes, until
        `keep_open` gives it some. Belongs into the change that has made the snapshot.

        Args:
            files: Those that are not unsealed, or have no name, are passed over.

        Returns:
            The others as they were.
        """
        ...

    async def keep_open(self, content: KeptContent, intent: IntentId) -> bool:
        """Give a durable copy of a file that was open for writing to the snapshots that show it.

        Args:
            content: A generation that `part_open` has returned; size and time are the copy's.
            intent: That of the move that made it, which is a hydration; it ends.

        Returns:
            False, and the copy becomes garbage, if no snapshot shows it any more.
        """
        ...

    async def list_snapshots(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        ...

    async def get_snapshot(self, name: str) -> Snapshot:
        """Return the snapshot of a name; `NotFoundError` if it is missing."""
        ...

    async def delete_snapshot(self, snap: SnapshotId) -> None:
        """Remove a snapshot from sight, for good; `delete_snapshot_step` removes what it kept."""
        ...

    async def delete_snapshot_step(self, limit: int) -> bool:
        """Remove a part of what deleted snapshots kept, of up to `limit` inodes.

        Returns:
            True if there may be more to do.
        """
        ...

    async def snapshot_usage(self) -> SnapshotUsage:
        """Return what there is of snapshots.

        O(snapshots), but for the first call and those after a change that was undone, which count
        the raw files that are kept.
        """
        ...

    async def recount_snapshots(self) -> SnapshotUsage:
        """Re-derive what `snapshot_usage` tells from the rows (fsck); does not store it."""
        ...

    async def list_held(self, after: tuple[InodeNo, Generation], limit: int) -> list[HeldContent]:
        """Return what snapshots keep and who shows it, by inode and generation.

        What deletion of a snapshot frees is the sum of those that it alone shows.

        Args:
            after: Inode and generation of the last one seen; `(0, 0)` to start.
            limit: At most so many; takes as long as that.
        """
        ...

    # --- reading ----------------------------------------------------------------------------------
    async def inode_at(self, snap: SnapshotId, ino: InodeNo) -> Inode:
        """Return an inode as of a snapshot.

        Pin, codec and times of access are not kept. Raw file and blob are those that have the
        content of this generation now; both are 0 where nothing has it. UNSEALED among the flags
        says that a writer had it: then its bytes may be later ones, and so may be their size; size
        and mtime are those of the copy that was made while it was open (`keep_open`).

        Raises:
            StaleInodeError: It did not exist.
        """
        ...

    async def lookup_at(self, snap: SnapshotId, parent: InodeNo, name: bytes) -> Inode:
        """Return the inode of a dentry as of a snapshot; raises as `Namespace.lookup`."""
        ...

    async def list_directory_at(
        self, snap: SnapshotId, parent: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """Return dentries as of a snapshot, as `Namespace.list_directory` does."""
        ...

    async def get_parent_at(self, snap: SnapshotId, ino: InodeNo) -> InodeNo:
        """Return the directory of an inode as of a snapshot, as `Namespace.get_parent` does."""
        ...

    async def read_link_at(self, snap: SnapshotId, ino: InodeNo) -> bytes:
        """Return a symlink's target as of a snapshot, as `Namespace.read_link` does."""
        ...

    async def list_xattrs_at(self, snap: SnapshotId, ino: InodeNo) -> list[tuple[bytes, bytes]]:
        """Return names and values of all xattrs of an inode as of a snapshot, by name."""
        ...

    async def list_paths_at(self, snap: SnapshotId, ino: InodeNo) -> list[bytes]:
        """Return all paths of an inode as of a snapshot; empty for what was not in the tree."""
        ...

    async def diff(
        self,
        before: SnapshotId,
        after: SnapshotId,
        under: InodeNo,
        position: InodeNo,
        limit: int,
    ) -> DifferencePage:
        """Return what differs between two instants; takes as long as what changed between them.

        A directory in which only names changed does not differ itself; nor does what has only
        another time of access or number of links, or lies below a directory that was moved.

        Args:
            before: The earlier instant.
            after: The later instant, or `NOW`.
            under: Only what was below this directory, or is it, at one of the instants.
            position: Where to go on; 0 to start.
            limit: At most so many inodes are looked at.

        Raises:
            InvalidValueError: `after` is the earlier one.
        """
        ...
