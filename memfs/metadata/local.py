"""The part of an engine that belongs to one node: its forms on disk, moves, settings, journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from memfs.metadata.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from memfs.metadata.records import (
        Decision,
        Event,
        GarbageItem,
        Inode,
        Intent,
        MetricRow,
        MoveKind,
        PendingMove,
        Usage,
        WorkCounts,
    )
    from memfs.types import Generation, InodeNo, IntentId, RawId, StateId


class Local(Changes, Protocol):
    """What belongs to one node: its raw and packed forms, its moves, settings and journal.

    A start recovers what this part lists: what this node began, in this epoch or an earlier one. It
    leaves alone what another node has under way.
    """

    # --- ids --------------------------------------------------------------------------------------
    @property
    def state_id(self) -> StateId:
        """Identity of the state directory that this engine has open."""
        ...

    @property
    def object_state_id(self) -> StateId:
        """That of the one which objects are made under: of the node that writes the mount."""
        ...

    def reserve_ids(self) -> tuple[InodeNo, RawId]:
        """Take the next inode number and raw id; never handed out again, even after a crash."""
        ...

    def hold_raw_ids(self, oldest: RawId) -> None:
        """Note that raw files from `oldest` on are kept ready: they stay unrecorded for long.

        After a crash they are in `unrecorded_raw_range`. Replaces what was noted before.
        """
        ...

    def unrecorded_raw_range(self) -> tuple[RawId, RawId]:
        """Raw ids `[start, end)` that an earlier, killed process may have created unrecorded."""
        ...

    def clear_unrecorded_raw_range(self) -> None:
        """Note that nothing unrecorded is left in `unrecorded_raw_range`.

        Until then the range outlives a clean close too: fsck, or a mount that ends early, looks at
        nothing in it.
        """
        ...

    # --- raw and packed forms ---------------------------------------------------------------------
    async def publish_raw(
        self,
        ino: InodeNo,
        generation: Generation,
        raw: RawId,
        blocks: int,
        intent: IntentId,
        *,
        durable: bool = False,
    ) -> Inode | None:
        """Add a hydrated raw file to a sealed generation without a raw file, and end the intent.

        Args:
            ino: A regular file.
            generation: What the raw file was made of.
            raw: The raw file.
            blocks: Its `st_blocks`.
            intent: That of the move that wrote it.
            durable: It is on stable storage, with the times that the inode has.

        Returns:
            The inode after it; None, and the raw file becomes garbage, where `publish_form` says
            False.
        """
        ...

    async def drop_raw(
        self, ino: InodeNo, generation: Generation, raw: RawId | None = None
    ) -> bool:
        """Detach the raw file (it becomes garbage) of a sealed generation that has another form.

        Args:
            generation: What the caller looked at.
            raw: The raw file that the caller looked at; None: whichever it has.

        Returns:
            False, and nothing changes, if the generation moved on, is unsealed, has another raw
            file, or lacks a form.
        """
        ...

    async def mark_durable(self, files: Sequence[tuple[InodeNo, Generation]]) -> None:
        """Record that the raw files of these sealed generations are on stable storage."""
        ...

    async def list_not_durable(self, limit: int) -> list[Inode]:
        """Return sealed regular files with a raw file that is not known to be on stable storage."""
        ...

    async def list_raw_by_access(
        self, before_ns: int, after: tuple[int, int], limit: int
    ) -> list[Inode]:
        """Return sealed regular files with a raw file and `accessed_ns` < before, coldest first.

        Args:
            before_ns: Exclusive bound.
            after: `(accessed_ns, ino)` of the last one seen; `(0, 0)` to start.
            limit: At most so many.
        """
        ...

    async def list_packed_by_access(
        self, before_ns: int, after: tuple[int, int], limit: int
    ) -> list[Inode]:
        """Return sealed regular files with a packed form, as `list_raw_by_access`."""
        ...

    async def record_access(self, accesses: Sequence[tuple[InodeNo, int]]) -> None:
        """Store the last access times (ns) of inodes that still exist; others are passed over."""
        ...

    # --- what this node has begun -----------------------------------------------------------------
    async def list_unsealed(self, after: InodeNo, limit: int) -> list[Inode]:
        """Return the inodes that this node has unsealed, in order of number."""
        ...

    async def list_orphans(self, limit: int) -> list[InodeNo]:
        """Return up to `limit` inodes with nlink 0 whose last name went by this node."""
        ...

    # --- intents and garbage ----------------------------------------------------------------------
    async def begin_intent(
        self, kind: MoveKind, ino: InodeNo, generation: Generation, location: str, now_ns: int
    ) -> IntentId:
        """Record that a move begins to write at `location`.

        Args:
            kind: What the move does.
            ino: The file; `NO_INODE`: it is made with what is written.
            generation: As the move found the file.
            location: Where it writes.
            now_ns: The present.
        """
        ...

    async def cancel_intent(self, intent: IntentId) -> None:
        """End a move that is given up: its location becomes garbage of the right kind."""
        ...

    async def list_intents(self) -> list[Intent]:
        """Return this node's moves under way, oldest first; at start: what a crash cut off."""
        ...

    async def list_garbage(
        self,
        limit: int,
        *,
        remote: bool = True,
        held_from: int | None = None,
        stores: Collection[str] | None = None,
    ) -> list[GarbageItem]:
        """Return what is to be removed, oldest first.

        Args:
            limit: At most so many.
            remote: Without it only local files.
            held_from: Leave out objects with this number or a higher one; None: no object.
            stores: Objects in stores of these names alone; None: in all of them.
        """
        ...

    async def count_held(self, held_from: int) -> int:
        """Return how many objects are garbage with this number or a higher one."""
        ...

    async def last_garbage(self) -> int:
        """Return the number of the last item that has become garbage and is left; 0: all are gone.

        Later ones have higher numbers.
        """
        ...

    async def clear_garbage(self, items: Sequence[int]) -> None:
        """Forget garbage that has been removed."""
        ...

    # --- why a file is where it is ----------------------------------------------------------------
    async def set_pending(self, pending: PendingMove) -> None:
        """Record why a move waits; replaces the inode's earlier record.

        But for `since_ns`, as long as the same tier is wanted.
        """
        ...

    async def get_pending(self, ino: InodeNo) -> PendingMove | None:
        """Return why an inode's move waits, if one does."""
        ...

    async def clear_pending(self, ino: InodeNo) -> None:
        """Forget that a move waits."""
        ...

    async def list_pending(self, due_ns: int | None, limit: int) -> list[PendingMove]:
        """Return waiting moves, by `retry_ns`; with `due_ns` only those due by then."""
        ...

    async def record_decision(self, ino: InodeNo, decision: Decision) -> None:
        """Store the last decision on an inode."""
        ...

    async def get_decision(self, ino: InodeNo) -> Decision | None:
        """Return the last decision on an inode, if any."""
        ...

    # --- settings ---------------------------------------------------------------------------------
    async def get_setting(self, name: str) -> bytes | None:
        """Return a value that `put_setting` stored, or None."""
        ...

    async def put_setting(self, name: str, value: bytes | None) -> None:
        """Store a small value under a name, which its owner keeps unique; None removes it.

        Raises:
            TooBigError: More than 64 KiB.
        """
        ...

    # --- what was measured ------------------------------------------------------------------------
    async def put_metrics(self, rows: Sequence[MetricRow]) -> None:
        """Store rows in their rings; each takes the place of the one that has its slot.

        Raises:
            InvalidValueError: There is no ring for a row; nothing was stored.
            TooBigError: A row has more than `METRIC_BYTES_MAX` bytes; nothing was stored.
        """
        ...

    async def list_metrics(self, resolution_s: int, after_s: int, limit: int) -> list[MetricRow]:
        """Return rows of a ring that begin after a time, in order of time; O(ring).

        After long pauses, rows from before the span of the ring may be among them.
        """
        ...

    async def add_events(self, events: Sequence[Event]) -> None:
        """Add events to their ring, in order, each with the next number; long texts are cut."""
        ...

    async def list_events(self, before: int | None, limit: int) -> list[Event]:
        """Return events with lower numbers than `before`, the latest first; None: the latest."""
        ...

    # --- totals -----------------------------------------------------------------------------------
    async def usage(self) -> Usage:
        """Return the totals; O(1)."""
        ...

    async def count_work(self, limit: int) -> WorkCounts:
        """Return how much is not done yet; O(limit), without reading a row of it."""
        ...

    async def recount(self) -> Usage:
        """Re-derive the totals from the rows (fsck); does not store them."""
        ...

    # --- durability -------------------------------------------------------------------------------
    def commit_nowait(self) -> None:
        """Do as `commit` for this node's own part, where no event loop runs; raises likewise."""
        ...

    @property
    def synced(self) -> bool:
        """True if all mutations survive power loss already: `sync` has nothing to do."""
        ...

    def sync(self) -> None:
        """Make all committed mutations survive power loss (fsync). Blocks; called from a thread.

        Where a database of several nodes has them too, it has confirmed them.

        Raises:
            UnconfirmedError: It has not in time; they survive power loss all the same.
            MetadataError: That cannot be.
        """
        ...

    @property
    def sync_waits(self) -> bool:
        """True while `sync` waits for more than this disk: the event loop may not call it then."""
        ...

    @property
    def refusal(self) -> str | None:
        """Why changes are refused for now; None: they are taken. The background rests meanwhile."""
        ...

    @property
    def is_settling(self) -> bool:
        """True while changes are being moved out of the journal beside all other work.

        Changes that are in no hurry had better wait: what comes meanwhile makes the next move long.
        """
        ...

    def maintain(self) -> None:
        """Move the journal into the database where that is due; milliseconds. Idempotent."""
        ...

    def check(self) -> list[str]:
        """Return what is wrong inside the engine's own files and tables, a sentence each (fsck)."""
        ...

    def close(self) -> None:
        """Commit, make durable and close; idempotent."""
        ...
