"""The two journals that take turns: one is in use, the other retires or is spare (`database`).

Invariant: headers change one file at a time, each on stable storage before the next (`chain`); and
`synced` says only what a successful fsync has proved.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, NamedTuple

from memfs.config import KIB
from memfs.metadata.sqlite.journal import Journal, Origin
from memfs.metadata.sqlite.statements import FINGERPRINT
from memfs.metadata.sqlite.tables import is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memfs.metadata.sqlite.lease import IdLease
    from memfs.metadata.sqlite.pages import PageSums

JOURNAL_NAMES = ("journal.0", "journal.1")
MIN_JOURNAL_BYTES = 64 * KIB


class Identity(NamedTuple):
    """What ties the files of one state directory together."""

    state_id: bytes
    boot: bytes
    """Name of this run of the kernel, 16 bytes; zeros where it is not known."""
    lease: IdLease
    """Opened, and not begun."""


class Journals:
    """Both files; one thread calls everything but `sync`, which any thread may call, and `link`."""

    def __init__(self, files: Sequence[Journal], sums: PageSums, identity: Identity) -> None:
        """Take two open files; changes nothing in them.

        Args:
            files: In any order.
            sums: Are told how far the journals were synced.
            identity: What the journals belong to; so is its lease.
        """
        # The one that was begun first is begun anew first: see `chain`.
        self.spare, self.current = sorted(files, key=lambda each: each.first_sequence)
        self._sums = sums
        self._identity = identity
        self._lock = threading.Lock()
        self._note_lock = threading.Lock()
        self._synced_sequence = 0
        self._retired_sequence = 0
        self._failure: OSError | None = None
        self._retiring: Journal | None = None
        self.known_sequence = 0
        """First sequence of the newest journal whose header is on stable storage."""

    def allocate(self, size_bytes: int) -> None:
        """Give each journal its room, or what the disk has: a start must not need any.

        Raises:
            OSError: Another one than that of a full disk.
        """
        for journal in (self.current, self.spare):
            _allocate(journal, size_bytes)

    def trim(self) -> None:
        """Give the disk what is allocated behind the last entries."""
        for journal in (self.current, self.spare):
            journal.trim()

    def close(self) -> None:
        """Close both files; their entries stay."""
        for journal in (self.current, self.spare):
            journal.close()

    # --- entries ---------------------------------------------------------------------------------
    @property
    def size_bytes(self) -> int:
        """Bytes of entries in the journal that is in use."""
        return self.current.size_bytes

    @property
    def next_sequence(self) -> int:
        """Sequence of the next entry."""
        return self.current.next_sequence

    def append(self, payload: bytes) -> None:
        """Add one entry; after an OSError the journal is as before."""
        self.current.append(payload, self._synced_sequence)

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield (sequence, payload) of each entry that the tables lack, in order."""
        return self.current.entries()

    # --- durability ------------------------------------------------------------------------------
    @property
    def synced(self) -> bool:
        """True if all entries survive power loss."""
        # No lock: the number only grows, and it is set once the disk has answered.
        return self._synced_sequence >= self.current.next_sequence - 1

    @property
    def durable_sequence(self) -> int:
        """All entries up to here survive power loss, in a journal or in the tables."""
        return max(self._synced_sequence, self._retired_sequence)

    def sync(self) -> None:
        """Make all entries survive power loss. Blocks; any thread may call it.

        Raises:
            OSError: That cannot be, or once could not.
        """
        target = self.current.next_sequence - 1
        with self._lock:
            if self._failure is not None:
                # It may have dropped pages: a later fsync that succeeds proves nothing.
                raise OSError(*self._failure.args) from self._failure
            if self._synced_sequence >= target:
                return
            # The order matters: `take_turns` retires a journal before it puts the other in use.
            journals = [self.current]
            if (retiring := self._retiring) is not None and retiring is not journals[0]:
                journals.insert(0, retiring)
            end = journals[-1].next_sequence - 1
            try:
                for journal in journals:
                    journal.sync()
            except OSError as error:
                self._failure = error
                raise
            self._synced_sequence = end
            self._note_synced(journals[-1], end)

    def _note_synced(self, journal: Journal, sequence: int) -> None:
        """Note in the file that is not in use how far a journal was synced, its header included."""
        self.known_sequence = max(self.known_sequence, journal.first_sequence)
        with self._note_lock, contextlib.suppress(OSError):
            sequence = max(sequence, self._synced_sequence)
            self._sums.note_synced(sequence)
            self._identity.lease.note_synced(sequence)
            if journal is self.current:
                self.spare.note(journal.salt, sequence)
            else:
                # Its turn has ended meanwhile, and the other file is in use.
                journal.note(journal.successor, sequence)

    # --- turns -----------------------------------------------------------------------------------
    def begin(self, applied: int, on_first: Callable[[], None]) -> None:
        """Begin both files afresh, one on stable storage before the other; see `chain`.

        Args:
            applied: The tables have everything up to here.
            on_first: Called in between.
        """
        self._synced_sequence = applied
        self._identity.lease.begin(applied)
        self._begin(self.spare, applied, self.current)
        self.spare.sync()
        on_first()
        self._begin(self.current, applied + 1, self.spare)
        self.current.sync()
        self.spare.note(self.current.salt, applied)
        self.spare.sync()
        self.known_sequence = self.current.first_sequence
        self._sums.note_journal(self.known_sequence)

    def _begin(self, journal: Journal, first_sequence: int, before: Journal) -> None:
        origin = Origin(
            self._identity.state_id,
            self._identity.boot,
            before.salt,
            self._synced_sequence,
            self._identity.lease.turn,
        )
        journal.start(first_sequence, FINGERPRINT, origin)

    def take_turns(self, first_sequence: int) -> None:
        """Retire the journal in use, and put the spare one in its place.

        Args:
            first_sequence: What its header takes.
        """
        self._retiring = self.current
        with self._note_lock:
            self._begin(self.spare, first_sequence, self.current)
            self.current, self.spare = self.spare, self.current

    def link(self) -> None:
        """Have the journal in use on stable storage, and the retiring one name it. Blocks.

        Runs in the checkpoint thread. The header has to be on stable storage before the next one
        is begun: whatever power loss leaves must be linked; see `chain`.
        """
        self.current.sync()
        self._note_synced(self.current, self._synced_sequence)

    def end_turn(self) -> None:
        """Let the retiring journal be overwritten: the tables have its entries, durably."""
        self._retired_sequence = self.current.first_sequence - 1
        # One reference is replaced, which is atomic.
        self._retiring = None


def _allocate(journal: Journal, size_bytes: int) -> None:
    while size_bytes >= MIN_JOURNAL_BYTES:
        try:
            journal.allocate(size_bytes)
        except OSError as error:
            if not is_full(error):
                raise
            size_bytes //= 4
        else:
            return
