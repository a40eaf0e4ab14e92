"""Access statistics: what is known of the use of files, for the tiers together.

Invariant: bounded, whatever the number of files; what it forgets counts as never used.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from memfs.bounded import BoundedDict
from memfs.errors import InvalidValueError
from memfs.policy.pools import Pools
from memfs.policy.s3fifo import QueueEntry, S3Fifo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.policy.view import Limits

COLD_COUNT_MAX = 174_000
"""Files of the disk tier whose use since the start is known; 32 MB of memory with 65,536 ghosts
(tracemalloc, a million files used once). A dictionary whose entries come and go is made anew for
three times as many as it has (CPython 3.11, `GROWTH_RATE`): with 200,000 it took 44 MB."""

VISITOR_COUNT_MAX = 20_000
"""Local copies of files that were fetched once."""

READS_COUNT_MAX = 20_000
"""Files without a raw form whose opens are counted."""

STORED_COUNT_MAX = 5000
"""Files of one queue that survive a restart, those that leave last: at most 64 KiB when stored."""

_NS = 1_000_000_000
_ENTRY = struct.Struct("<QQB")
_MAIN_BIT = 4


class _Reads(NamedTuple):
    """Opens of a file without a raw form."""

    opens: int
    since_ns: int


class AccessStats:
    """The queues of one mount.

    Args:
        promote_count: Opens within `promote_window_s` that make a file without a raw form raw.
        promote_window_s: Seconds.
        cold_count_max: Files on the disk that are known.
    """

    def __init__(
        self,
        promote_count: int = 3,
        promote_window_s: float = 3600.0,
        cold_count_max: int = COLD_COUNT_MAX,
    ) -> None:
        self._cold_count_max = cold_count_max
        self.promote_count = promote_count
        self.promote_window_s = promote_window_s
        self.pools = Pools()
        """The RAM tier."""
        self.cold = S3Fifo(0, proof=True)
        """Files on the disk that were used since the start."""
        self.limits: Limits | None = None
        """Those of the last round; None before the first one."""
        self.marked = False
        """Some inode has a priority or a pool; while no inode has one, nobody looks for them."""
        self.shortest_age_ns: int | None = None
        """The shortest age of any mark; None: no inode has one."""
        self._held_place = 0
        self._visitors: BoundedDict[int, None] = BoundedDict(VISITOR_COUNT_MAX)
        self._reads: BoundedDict[int, _Reads] = BoundedDict(READS_COUNT_MAX)

    def note_marked(self) -> None:
        """Some inode may have a priority or a pool."""
        self.marked = True

    def note_age(self, age_ns: int) -> None:
        """Some inode has a mark with that age."""
        known = self.shortest_age_ns
        self.shortest_age_ns = age_ns if known is None else min(known, age_ns)

    def next_held(self, count: int, limit: int) -> slice:
        """Return which of the held files are looked at next, where marks give them other ages."""
        begin = self._held_place if self._held_place < count else 0
        self._held_place = begin + limit
        return slice(begin, begin + limit)

    # --- the disk tier ---------------------------------------------------------------------------
    def use_local(self, ino: int, local_bytes: int, *, copied: bool) -> None:
        """Count a use of a file on the disk; see `take_local`."""
        if not self.cold.access(ino, local_bytes):
            self.take_local(ino, local_bytes, copied=copied)

    def take_local(self, ino: int, local_bytes: int, *, copied: bool) -> None:
        """Note a file on the disk.

        Args:
            local_bytes: What it takes of the disk.
            copied: The object store has it too: unless it was used before, or there is room that
                nobody else has, it leaves before all files that were used.
        """
        if ino in self.cold:
            return
        if copied and not self.cold.admits(ino, local_bytes):
            # One that is among them keeps its place: they leave in the order in which they came.
            if ino not in self._visitors:
                self._visitors[ino] = None
            return
        self._visitors.pop(ino, None)
        self.keep_local(ino, local_bytes)

    def keep_local(self, ino: int, local_bytes: int) -> None:
        """Put a file (back) among those that are known to be used."""
        self.cold.insert(ino, local_bytes)
        while len(self.cold) > self._cold_count_max:
            self.cold.evict(1)

    def leave_disk(self, ino: int) -> None:
        """A file has left the disk."""
        self.cold.discharge(ino)
        self._visitors.pop(ino, None)

    def forget(self, ino: int) -> None:
        """A file does not exist any more, nor will another one of its number."""
        self.cold.remove(ino)
        self.pools.forget_left(ino)
        self._visitors.pop(ino, None)
        self._reads.pop(ino, None)

    def take_visitors(self, count_max: int) -> list[int]:
        """Return and forget files that were fetched once, the first ones first."""
        count = min(count_max, len(self._visitors))
        return [self._visitors.popitem(last=False)[0] for _ in range(count)]

    def next_to_leave_disk(self, needed_bytes: int, count_max: int) -> list[int]:
        """Take the files out of the disk's queue that leave next; `keep_local` puts them back."""
        victims: list[int] = []
        while needed_bytes > 0 and len(victims) < count_max:
            before_bytes = self.cold.used_bytes
            found = self.cold.evict(1)
            if not found:
                break
            victims += found
            needed_bytes -= before_bytes - self.cold.used_bytes
        return victims

    def is_read_often(self, ino: int, size_bytes: int, now_ns: int) -> bool:
        """Count an open of a file without a raw form; True when a raw one is worth its room."""
        reads = self._reads.get(ino)
        if reads is None or now_ns - reads.since_ns > self.promote_window_s * _NS:
            reads = _Reads(0, now_ns)
        self._reads[ino] = reads = reads._replace(opens=reads.opens + 1)
        return reads.opens >= self.promote_count and self.is_worth_raw(ino, size_bytes)

    def is_worth_raw(self, ino: int, size_bytes: int) -> bool:
        """Return whether a file without a raw form may get one.

        Args:
            size_bytes: What it takes of the disk: room that nobody else has, or it has proved to
                be used more than once.
        """
        return self.cold.admits(ino, size_bytes)

    # --- from one run to the next ----------------------------------------------------------------
    def encode_warm(self) -> bytes:
        """Return what is stored of the RAM tier's queues."""
        return encode(entry for pool in self.pools.all() for entry in pool.queue.entries())

    def encode_cold(self) -> bytes:
        """Return what is stored of the disk tier's queue."""
        return encode(self.cold.entries())

    def decode_warm(self, stored: bytes) -> None:
        """Know again what was in RAM: at its next use it need not prove itself anew.

        Raises:
            InvalidValueError: It is not what `encode_warm` gave.
        """
        self.pools.rest.queue.remember(decode(stored))

    def decode_cold(self, stored: bytes) -> None:
        """Know again which files on the disk were used.

        Raises:
            InvalidValueError: It is not what `encode_cold` gave.
        """
        self.cold.restore(decode(stored))


def encode(entries: Iterable[QueueEntry]) -> bytes:
    """Return queue entries in few bytes: the last `STORED_COUNT_MAX` of them."""
    chosen: BoundedDict[int, QueueEntry] = BoundedDict(STORED_COUNT_MAX)
    for entry in entries:
        chosen[entry.key] = entry
    packed = b"".join(
        _ENTRY.pack(entry.key, entry.size_bytes, entry.uses | (_MAIN_BIT if entry.main else 0))
        for entry in chosen.values()
    )
    return zlib.compress(packed)


def decode(stored: bytes) -> list[QueueEntry]:
    """Return what `encode` was given.

    Raises:
        InvalidValueError: Another program wrote it, or it is damaged.
    """
    try:
        rows = list(_ENTRY.iter_unpack(zlib.decompress(stored)))
    except (zlib.error, struct.error) as error:
        raise InvalidValueError(f"the stored access statistics cannot be read: {error}") from None
    return [
        QueueEntry(key, size, bits & (_MAIN_BIT - 1), bool(bits & _MAIN_BIT))
        for key, size, bits in rows
    ]
