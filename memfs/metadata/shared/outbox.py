"""The outbox: entries of this node's journal that the database has not confirmed, and who waits.

Invariant: it has all entries from `confirmed` + 1 to `number`, in order; who waits for one is told
once it is confirmed, once the node is cut off, or once it has waited for the limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import UnconfirmedError
from memfs.metadata.sqlite.following import KeptEntry
from memfs.metadata.sqlite.statements import FINGERPRINT
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memfs.errors import MetadataError
    from memfs.metadata.sqlite.tables import Record


class Entry(NamedTuple):
    """An entry of the journal that is on its way."""

    number: int
    """From 1 on, without a gap."""
    fingerprint: int
    """That of the vocabulary which its statements are of."""
    payload: bytes
    """As in the journal."""
    is_shared: bool
    """Programs wait for it."""
    made_s: float
    """When it was appended, by `time.monotonic`; for who asks."""


class Outbox:
    """Follows a journal (`sqlite.following.Follower`).

    One thread, that of the event loop, calls everything but `wait_in_thread`.

    Args:
        number: That of the last entry.
        kept: Entries up to there that may not be confirmed, in order.
        is_shared: Tells whether programs wait for an entry, by its statements.
        limit_s: So long a change is waited for.
        clock: Seconds.
    """

    def __init__(
        self,
        number: int,
        kept: Iterable[KeptEntry],
        is_shared: Callable[[Sequence[Record]], bool],
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s = limit_s
        self.number = number
        self.last_shared = number
        """Number of the last entry that programs wait for."""
        self._is_shared = is_shared
        self._clock = clock
        self._entries = deque(
            Entry(*each, is_shared=True, made_s=clock()) for each in kept if each.number <= number
        )
        self.confirmed = self._entries[0].number - 1 if self._entries else number
        self.bytes = sum(len(each.payload) for each in self._entries)
        """Those of the entries in it."""
        self.added = Signal()
        """Set for each entry that programs wait for, and at the end, when all are to go."""
        self._told = Signal()
        self._condition = threading.Condition()
        self.refusal: MetadataError | None = None
        """Why entries are not confirmed for now; None: they are."""
        self.server: int | None = None
        """Thread of the loop in which a writer runs; None: nobody sends entries, or waits."""
        self._sequences: deque[tuple[int, int]] = deque()

    # --- following -------------------------------------------------------------------------------
    def note(self, sequence: int, records: Sequence[Record], payload: bytes) -> None:
        """See `Follower.note`."""
        self.number += 1
        self._sequences.append((sequence, self.number))
        if self.number <= self.confirmed:
            # It has come from there.
            return
        is_shared = self._is_shared(records)
        self._entries.append(Entry(self.number, FINGERPRINT, payload, is_shared, self._clock()))
        self.bytes += len(payload)
        if is_shared:
            self.last_shared = self.number
            self.added.set()

    def unconfirmed(self, after: int) -> Iterator[KeptEntry]:
        """See `Follower.unconfirmed`."""
        for entry in self._entries:
            if entry.number > after:
                yield KeptEntry(*entry[:3])

    def number_at(self, sequence: int) -> int:
        """Return the number of the last entry up to a sequence of the journal; 0: not known.

        Args:
            sequence: Grows from call to call.
        """
        sequences, number = self._sequences, 0
        while sequences and sequences[0][0] <= sequence:
            number = sequences[0][1]
            sequences.popleft()
        return number

    # --- sending ---------------------------------------------------------------------------------
    @property
    def count(self) -> int:
        """Entries that are not confirmed."""
        return self.number - self.confirmed

    @property
    def waits(self) -> bool:
        """True if an entry is not confirmed that programs wait for."""
        return self.confirmed < self.last_shared

    @property
    def age_s(self) -> float:
        """Seconds since the oldest entry was made that is not confirmed; 0: all are."""
        return self._clock() - self._entries[0].made_s if self._entries else 0.0

    def first(self, count_max: int, bytes_max: int) -> list[Entry]:
        """Return the oldest entries, at least one if there is one.

        Args:
            count_max: At most so many.
            bytes_max: At most so many bytes, but for the first one.
        """
        chosen: list[Entry] = []
        size = 0
        for entry in self._entries:
            size += len(entry.payload)
            if chosen and (len(chosen) >= count_max or size > bytes_max):
                break
            chosen.append(entry)
        return chosen

    def confirm(self, number: int) -> None:
        """Note that the database has all entries up to a number."""
        entries = self._entries
        while entries and entries[0].number <= number:
            self.bytes -= len(entries.popleft().payload)
        with self._condition:
            self.confirmed = max(self.confirmed, number)
            self._condition.notify_all()
        self._told.set()

    def refuse(self, refusal: MetadataError | None) -> None:
        """Tell who waits that it is in vain for now; None: it is not."""
        with self._condition:
            self.refusal = refusal
            self._condition.notify_all()
        self._told.set()

    # --- waiting ---------------------------------------------------------------------------------
    async def wait(self, number: int) -> None:
        """Return once all entries up to a number are confirmed. Checkpoint: always. Cancel: safe.

        Raises:
            UnconfirmedError: They are not within the limit.
        """
        with trio.move_on_after(self.limit_s):
            while True:
                seen = self._told.count
                if self.confirmed >= number or self.refusal is not None:
                    await trio.lowlevel.checkpoint()
                    break
                await self._told.wait(seen)
        self._require(number)

    async def wait_for_room(self, bytes_max: int) -> None:
        """Return once so few bytes are unconfirmed, or the node is cut off; or in time."""
        with trio.move_on_after(self.limit_s):
            while self.bytes > bytes_max and self.refusal is None:
                await self._told.wait(self._told.count)

    def wait_in_thread(self, number: int) -> None:
        """Do as `wait` in a thread. Blocks.

        Raises:
            UnconfirmedError: As `wait`; at once in the thread of the writer, which would wait for
                itself.
        """
        if threading.get_ident() != self.server:
            with self._condition:
                self._condition.wait_for(
                    lambda: self.confirmed >= number or self.refusal is not None, self.limit_s
                )
        self._require(number)

    def _require(self, number: int) -> None:
        if self.confirmed >= number:
            return
        count = self.number - self.confirmed
        reason = (
            str(self.refusal) if self.refusal is not None else f"no answer in {self.limit_s:g} s"
        )
        raise UnconfirmedError(
            f"{count} changes are in this node's journal alone, and follow when the database "
            f"answers: {reason}"
        )
