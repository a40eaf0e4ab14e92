"""Moves: the engine methods behind the mover: intents, work lists, pending moves, decisions.

Invariant: an intent ends in the same change that publishes its form or makes its location garbage.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from memfs.metadata.records import (
    Decision,
    Inode,
    Intent,
    MoveKind,
    PendingMove,
)
from memfs.metadata.sqlite.batches import Batches
from memfs.metadata.sqlite.schema import INODE_COLUMNS
from memfs.metadata.sqlite.statements import (
    DELETE_INTENT,
    DELETE_PENDING,
    INSERT_INTENT,
    PUT_DECISION,
    PUT_PENDING,
    PUT_PENDING_CODE,
    PUT_PENDING_SINCE,
    SET_ACCESSED,
)
from memfs.types import (
    NO_INODE,
    FormKind,
    Generation,
    InodeNo,
    IntentId,
    PendingCode,
    Tier,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCATION_KIND = {
    MoveKind.PACK: FormKind.PACKED,
    MoveKind.UPLOAD: FormKind.REMOTE,
    MoveKind.BATCH: FormKind.REMOTE,
    MoveKind.HYDRATE: FormKind.RAW,
}
# The conditions of the partial indexes stand there literally, else SQLite does not use them.
_LIST_RAW = (
    f"select {INODE_COLUMNS} from inode where raw <> 0 and flags <> 1"
    " and (accessed_ns, ino) > (?, ?) and accessed_ns < ? order by accessed_ns, ino limit ?"
)
_LIST_PACKED = (
    f"select {INODE_COLUMNS} from inode where packed = 1"
    " and (accessed_ns, ino) > (?, ?) and accessed_ns < ? order by accessed_ns, ino limit ?"
)
_LIST_FILES = (
    f"select {INODE_COLUMNS} from inode where ino > ? and mode & {0o170000} = {stat.S_IFREG}"
    " order by ino limit ?"
)
_SELECT_PENDING = """
    select p.ino, wanted, reason, attempt_count, p.retry_ns, coalesce(since_ns, 0), code,
        coalesce(until_ns, 0)
    from pending as p
    left join pending_since as s on s.ino = p.ino
    left join pending_code as c on c.ino = p.ino and c.retry_ns = p.retry_ns
"""
_SELECT_WAITING = "select 1 from pending where ino = ? and wanted = ?"
_ALWAYS_DUE_NS = (1 << 63) - 1
_CODES = {code.value: code for code in PendingCode}


def _pending(row: tuple[int, int, str, int, int, int, str | None, int]) -> PendingMove:
    ino, wanted, reason, attempt_count, retry_ns, since_ns, code, until_ns = row
    # A later version may know more of them.
    known = _CODES.get(code or "", PendingCode.OTHER)
    return PendingMove(
        InodeNo(ino), Tier(wanted), reason, attempt_count, retry_ns, since_ns, known, until_ns
    )


class Moves(Batches):
    """What the mover records and asks."""

    # --- intents ---------------------------------------------------------------------------------
    async def begin_intent(
        self, kind: MoveKind, ino: InodeNo, generation: Generation, location: str, now_ns: int
    ) -> IntentId:
        self._begin_change()
        if ino != NO_INODE:
            self._inode(ino)
        intent = IntentId(self._take_id())
        self._write(INSERT_INTENT, (intent, kind.value, ino, generation, location, now_ns))
        return intent

    async def cancel_intent(self, intent: IntentId) -> None:
        self._begin_change()
        row = self._row("select kind, location from intent where intent = ?", (intent,))
        if row is not None:
            self._write(DELETE_INTENT, (intent,))
            self._add_garbage(_LOCATION_KIND[MoveKind(row[0])], row[1])

    async def list_intents(self) -> list[Intent]:
        rows = self._rows(
            "select intent, kind, ino, generation, location, begun_ns from intent order by intent"
        )
        return [Intent(row[0], MoveKind(row[1]), *row[2:]) for row in rows]

    # --- work lists ------------------------------------------------------------------------------
    async def record_access(self, accesses: Sequence[tuple[InodeNo, int]]) -> None:
        self._begin_change()
        for ino, accessed_ns in accesses:
            inode = self._find_inode(ino)
            if inode is not None and inode.accessed_ns != accessed_ns:
                self._write(SET_ACCESSED, (accessed_ns, ino))
                self._cache.put(Inode._make((*inode[:18], accessed_ns)))

    async def list_raw_by_access(
        self, before_ns: int, after: tuple[int, int], limit: int
    ) -> list[Inode]:
        return [Inode._make(row) for row in self._rows(_LIST_RAW, (*after, before_ns, limit))]

    async def list_packed_by_access(
        self, before_ns: int, after: tuple[int, int], limit: int
    ) -> list[Inode]:
        return [Inode._make(row) for row in self._rows(_LIST_PACKED, (*after, before_ns, limit))]

    async def list_files(self, after: InodeNo, limit: int) -> list[Inode]:
        return [Inode._make(row) for row in self._rows(_LIST_FILES, (after, limit))]

    # --- pending moves and decisions -------------------------------------------------------------
    async def set_pending(self, pending: PendingMove) -> None:
        self._begin_change()
        self._inode(pending.ino)
        ino, wanted, reason, attempt_count, retry_ns, since_ns, code, until_ns = pending
        if self._row(_SELECT_WAITING, (ino, int(wanted))) is None:
            self._write(PUT_PENDING_SINCE, (ino, since_ns))
        self._write(PUT_PENDING, (ino, int(wanted), reason, attempt_count, retry_ns))
        self._write(PUT_PENDING_CODE, (ino, retry_ns, code.value, until_ns))

    async def get_pending(self, ino: InodeNo) -> PendingMove | None:
        self._inode(ino)
        row = self._row(f"{_SELECT_PENDING} where p.ino = ?", (ino,))
        return None if row is None else _pending(row)

    async def clear_pending(self, ino: InodeNo) -> None:
        self._begin_change()
        self._inode(ino)
        if self._row("select 1 from pending where ino = ?", (ino,)):
            self._write(DELETE_PENDING, (ino,))

    async def list_pending(self, due_ns: int | None, limit: int) -> list[PendingMove]:
        due_ns = _ALWAYS_DUE_NS if due_ns is None else due_ns
        rows = self._rows(
            f"{_SELECT_PENDING} where p.retry_ns <= ? order by p.retry_ns, p.ino limit ?",
            (due_ns, limit),
        )
        return [_pending(row) for row in rows]

    async def record_decision(self, ino: InodeNo, decision: Decision) -> None:
        self._begin_change()
        self._inode(ino)
        self._write(PUT_DECISION, (ino, *decision))

    async def get_decision(self, ino: InodeNo) -> Decision | None:
        self._inode(ino)
        row = self._row(
            "select rule, detail, moved_bytes, decided_ns from decision where ino = ?", (ino,)
        )
        return None if row is None else Decision._make(row)
