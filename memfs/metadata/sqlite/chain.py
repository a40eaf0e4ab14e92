"""The chain of the journals: which entries continue the tables, and whether any are missing.

Two journal files take turns. Each names the one before it in its header, and is told, once its
turn is over, which one came after and how far that was synced. Headers change one file at a time,
each on stable storage before the next, so that whatever a kill or a power cut leaves is linked.

Invariant: `read` yields entries without a gap from the tables on; it complains of all that a kill
or a power cut cannot explain. A torn end is explained if nothing that was synced is missing. After
a kill, in the same run of the kernel, nothing valid may lie behind it either: the page cache
outlives a process. After power loss it may, since a disk takes pages in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.sqlite.journal import BOOT_BYTES, Extent, Journal
from memfs.metadata.sqlite.statements import SECOND_LAYOUT
from memfs.types import STATE_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Complain = Callable[[str], None]
    """Told of damage: refuses by raising, or makes a list of it (repair)."""


class Joined(NamedTuple):
    """What is to be done with the journals."""

    usable: tuple[Journal, ...]
    """Whose entries continue the tables, in order."""
    stranded: tuple[Journal, ...]
    """Whose entries continue nothing; empty unless there was a complaint, or power was lost."""
    last_sequence: int
    """That of the last entry, or of the tables if they are ahead."""


class Book(NamedTuple):
    """One journal with what is known of its entries."""

    journal: Journal
    extent: Extent

    @property
    def base(self) -> int:
        """Sequence that the tables, or the journal before, must have reached."""
        return self.journal.first_sequence - 1


def join(
    journals: Sequence[Journal],
    applied: int,
    synced: int,
    state_id: bytes,
    boot: bytes,
    complain: Complain,
) -> Joined:
    """Find the entries that continue the tables.

    Args:
        journals: Both files.
        applied: Sequence up to which the tables have everything.
        synced: Sequence that was synced, as other files know; 0: it is not known.
        state_id: That of the state directory.
        boot: Name of this run of the kernel, as in `Origin.boot`.
        complain: Called with a sentence for each damage; where it returns, the rest is read.
    """
    books = []
    for journal in journals:
        headless = journal.origin is None and journal.fingerprint in SECOND_LAYOUT
        if journal.first_sequence == 0 or headless:
            complain(f"{journal.path} is damaged or missing: it has no valid header")
        elif journal.origin is not None and journal.origin.state_id != state_id:
            complain(f"{journal.path} belongs to another state directory, or {_FORMAT} is damaged")
        else:
            books.append(Book(journal, journal.extent()))
    books.sort(key=lambda book: book.journal.first_sequence)
    _check_links(books, complain)
    position = applied
    usable: list[Journal] = []
    stranded: list[Journal] = []
    for index, book in enumerate(books):
        following = books[index + 1] if index + 1 < len(books) else None
        if position < book.base:
            if _must_join(books, index, boot):
                complain(
                    f"{book.journal.path} continues change {book.base}, but the changes after "
                    f"{position} are missing: {_DATABASE} is older, or a journal is damaged"
                )
            stranded.append(book.journal)
            continue
        usable.append(book.journal)
        needed = following is None or position < following.base
        if needed and book.extent.behind_count and _is_sure(book.journal, boot):
            complain(
                f"{book.journal.path} is damaged behind change {book.extent.last_sequence}: "
                f"{book.extent.behind_count} valid ones follow"
            )
        position = max(position, book.extent.last_sequence)
    synced = max(synced, *(book.extent.synced_sequence for book in books), 0)
    if position < synced:
        complain(
            f"the changes {position + 1} to {synced} were synced and are missing: the journals in "
            "this directory are damaged, cut or older copies"
        )
    return Joined(tuple(usable), tuple(stranded), position)


_FORMAT = "format"
_DATABASE = "metadata.db"


def _check_links(books: Sequence[Book], complain: Complain) -> None:
    """See that the two files are each other's neighbours."""
    if len(books) != 2:
        return
    older, newer = books[0].journal, books[1].journal
    if older.origin is None or newer.origin is None:
        # One of them is of the first layout, whose files do not know each other: written by an
        # older version, or by this one just now, in the middle of opening such a state.
        return
    if older.successor:
        linked = older.successor == newer.salt
    else:
        linked = newer.origin.predecessor == older.salt
    if not linked:
        complain(
            f"{older.path} and {newer.path} do not belong together: one of them is an older copy"
        )


def _must_join(books: Sequence[Book], index: int, boot: bytes) -> bool:
    """Tell whether entries between the books are missing for another reason than power loss."""
    book = books[index]
    if index == 0 or _is_sure(book.journal, boot):
        return True
    before = books[index - 1].journal
    return before.successor == book.journal.salt or book.extent.synced_sequence > book.base


def _is_sure(journal: Journal, boot: bytes) -> bool:
    """Tell whether no power was lost since a journal was begun, or nobody can know of it."""
    return journal.origin is None or (journal.origin.boot == boot and boot != bytes(BOOT_BYTES))


assert STATE_ID_BYTES == BOOT_BYTES
