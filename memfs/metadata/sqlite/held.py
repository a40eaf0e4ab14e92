"""Held: the engine methods that count what snapshots keep, together and each alone.

Invariant: what is counted here comes from the rows alone; accounts that are kept along are compared
with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.metadata.records import HeldContent
from memfs.metadata.sqlite.rows import SELECT_FORMS, form_of
from memfs.metadata.sqlite.snapshots import Snapshots
from memfs.types import BLOCK_BYTES, BlobId, FormKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.metadata.records import SnapshotUsage
    from memfs.metadata.sqlite.statements import Row
    from memfs.types import Generation, InodeNo, SnapshotId

_COUNT_RAW = "select count(*), coalesce(sum(blocks), 0) from kept where raw <> 0"


def _spans(where: str) -> str:
    """Return a query for kept rows, with the oldest and the newest snapshot that shows each.

    A generation is shown from behind the last undo row of an earlier one to its own last one; up to
    now, where the live inode still has it. What no snapshot shows has an older newest than oldest,
    or null.
    """
    return f"""
        select ino, generation, blob, blocks,
            (select min(snap) from snapshot where snap > behind and state = 'live') as oldest,
            (select max(snap) from snapshot where snap <= until and state = 'live') as newest
        from (
            select ino, generation, blob, case when raw = 0 then 0 else blocks end as blocks,
                max(ino, coalesce((
                    select max(w.snap) from inode_was as w
                    where w.ino = k.ino and w.generation < k.generation), 0)) as behind,
                case when exists (
                    select 1 from inode as i
                    where i.ino = k.ino and i.generation = k.generation and i.nlink > 0)
                then (select max(snap) from snapshot)
                else coalesce((
                    select max(w.snap) from inode_was as w
                    where w.ino = k.ino and w.generation = k.generation and w.nlink > 0), 0)
                end as until
            from kept as k where {where} order by ino, generation limit ?
        )
        order by ino, generation
    """


_PAGE = _spans("(ino, generation) > (?, ?)")
_SPANS_OF_BLOB = _spans("blob = ? and blob <> 0")
_COUNTED = """
    select 1 from inode where blob = ?1 and blob <> 0
    union all select 1 from kept
        where blob = ?1 and blob <> 0 and (ino, generation) < (?2, ?3) limit 1
"""
"""A file has the blob, or an earlier row."""

_SHARERS_MAX = 1000
"""Rows of one blob that are looked at; bounds one step. Guess: clones that are all gone."""


class Held(Snapshots):
    """What snapshots keep."""

    async def recount_snapshots(self) -> SnapshotUsage:
        ((count, blocks),) = self._rows(_COUNT_RAW)
        usage = await self.snapshot_usage()
        return usage._replace(kept_raw_count=count, kept_raw_bytes=blocks * BLOCK_BYTES)

    async def list_held(self, after: tuple[InodeNo, Generation], limit: int) -> list[HeldContent]:
        return [self._held(row) for row in self._rows(_PAGE, (*after, limit))]

    def _held(self, row: Row) -> HeldContent:
        ino, generation, blob, blocks, _oldest, _newest = row
        shown, stored = [row], dict.fromkeys(FormKind, 0)
        if blob and self._row(_COUNTED, (blob, ino, generation)) is None:
            shown = self._rows(_SPANS_OF_BLOB, (blob, _SHARERS_MAX))
            stored |= self._stored_bytes(BlobId(blob))
        return HeldContent(
            ino,
            generation,
            *_hull(shown),
            raw_bytes=blocks * BLOCK_BYTES,
            packed_bytes=stored[FormKind.PACKED],
            remote_bytes=stored[FormKind.REMOTE],
        )

    def _stored_bytes(self, blob: BlobId) -> dict[FormKind, int]:
        forms = [form_of(row) for row in self._rows(SELECT_FORMS, (blob,))]
        return {form.kind: form.stored_bytes for form in forms if form.owned}


def _hull(rows: Iterable[Row]) -> tuple[SnapshotId | None, SnapshotId | None]:
    """Return the oldest and the newest snapshot that shows one of some rows; None: not one does."""
    spans = [(row[4], row[5]) for row in rows if None not in row[4:6] and row[4] <= row[5]]
    if not spans:
        return None, None
    return min(oldest for oldest, _ in spans), max(newest for _, newest in spans)
