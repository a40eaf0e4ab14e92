"""What a node of a shared mount keeps of its journal until the mount's database has it too.

Each entry of the journal is one change of the shared database, numbered without a gap: sequences of
the journal have gaps, since its headers take some. A state directory of a single-node mount has the
tables empty, and counts nothing.

Invariant: `followed` counts the entries that the tables have, in the transaction that has them; an
entry that the shared database has not confirmed is in `unsent`, or in a journal, or in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memfs.metadata.sqlite.statements import Parameters, Row

TABLES: tuple[str, ...] = (
    # One row in the state directory of a node, else empty.
    """
    create table if not exists followed (
        one integer primary key check (one = 1),
        number integer not null         -- of the last entry that the tables have; 0: of no entry
    ) strict
    """,
    # A checkpoint moves entries here that the shared database has not confirmed.
    """
    create table if not exists unsent (
        number integer primary key,     -- of the entry
        fingerprint integer not null,   -- of the statements that it is made of
        payload blob not null           -- as in the journal
    ) strict
    """,
)
"""Made at each opening where they are missing."""


class Execute(Protocol):
    """Runs a statement in the open transaction of the tables."""

    def __call__(self, text: str, parameters: Parameters = (), /) -> Iterable[Row]: ...


class KeptEntry(NamedTuple):
    """An entry of the journal as it is kept."""

    number: int
    fingerprint: int
    """That of its statements; see `statements.UNDERSTOOD`."""
    payload: bytes
    """As in the journal."""


class Follower(Protocol):
    """Told of each entry that was appended to the journal, in order."""

    def note(
        self, sequence: int, records: Sequence[tuple[int, Parameters]], payload: bytes
    ) -> None:
        """Take an entry that was appended just now; never fails.

        Args:
            sequence: In the journal.
            records: Its statements; the list is used again.
            payload: As in the journal.
        """
        ...

    def unconfirmed(self, after: int) -> Iterable[KeptEntry]:
        """Return the entries beyond a number that are not confirmed, in order."""
        ...

    @property
    def confirmed(self) -> int:
        """Number up to which the shared database has all entries."""
        ...

    @property
    def number(self) -> int:
        """That of the last entry that was noted."""
        ...


def read_number(execute: Execute) -> int | None:
    """Return the number of the last entry that the tables have; None: this is no node."""
    for (number,) in execute("select number from followed"):
        return int(number)
    return None


def read_unsent(execute: Execute) -> list[KeptEntry]:
    """Return what a checkpoint, or the last opening, has kept."""
    return [
        KeptEntry(*row)
        for row in execute("select number, fingerprint, payload from unsent order by number")
    ]


def begin(execute: Execute, number: int) -> None:
    """Make a node of a state directory, in the open transaction.

    Args:
        execute: Runs a statement there.
        number: That of the last entry that the tables have.
    """
    execute("insert or ignore into followed (one, number) values (1, ?)", (number,))


def end(execute: Execute) -> None:
    """Make one of a single machine of the state directory of a node, in the open transaction.

    Args:
        execute: Runs a statement there.
    """
    execute("delete from followed")
    execute("delete from unsent")


def keep_redone(execute: Execute, fingerprint: int, payload: bytes) -> None:
    """At an opening: count and keep an entry that was redone just now."""
    execute("update followed set number = number + 1")
    execute(
        "insert into unsent (number, fingerprint, payload) select number, ?, ? from followed",
        (fingerprint, payload),
    )


def keep(execute: Execute, follower: Follower) -> None:
    """Before a commit of the tables: count the entries, and keep those that are not confirmed."""
    execute("update followed set number = ?", (follower.number,))
    execute("delete from unsent where number <= ?", (follower.confirmed,))
    ((last,),) = execute("select coalesce(max(number), 0) from unsent")
    for entry in follower.unconfirmed(last):
        execute("insert into unsent (number, fingerprint, payload) values (?, ?, ?)", entry)
