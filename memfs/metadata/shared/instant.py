"""The shared tables as of one instant, however long it takes to read them.

One transaction, which reads alone: repeatable read, with a cursor for each table, so that memory
stays small however long the tables are. PostgreSQL cannot clean up meanwhile.

Invariant: all that is asked of one `Instant` is of the same instant, and nothing is changed there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol, Self

from memfs.errors import DatabaseError, DisconnectedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.statements import Row, SqlValue

ROWS_A_STEP = 2000
"""Rows that are read at once."""
LONG_ROWS_A_STEP = 200
"""Likewise of tables whose rows may have 64 KiB each."""
TIMEOUT_S = 60.0
"""For each answer. Guess."""

_BEGIN = (
    "begin transaction isolation level repeatable read read only",
    # All of each table is wanted, and it may take hours.
    "set local enable_seqscan = on",
    "set local idle_in_transaction_session_timeout = 0",
)
_CURSOR = "instant"
_READ_SEQ = "select seq from node where role = 'writer'"

_LONG = frozenset({"xattr", "xattr_was", "setting", "source", "published"})


class Session(Protocol):
    """A connection, where no event loop runs; see `Client`."""

    def transact_blocking(
        self, statements: Sequence[tuple[str, Sequence[SqlValue]]], timeout_s: float | None = None
    ) -> list[list[Row]]:
        """Run statements as one transaction."""
        ...


class Instant:
    """Begins with its block, and ends with it.

    Args:
        session: A connection, unusable for others meanwhile; to be closed if the block raises.
        timeout_s: For each answer.
    """

    def __init__(self, session: Session, timeout_s: float = TIMEOUT_S) -> None:
        self._session = session
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        """Begin; DatabaseError, DisconnectedError: as of the session."""
        for text in _BEGIN:
            self.ask(text)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End; nothing was changed, whatever has happened."""
        with contextlib.suppress(DatabaseError, DisconnectedError):
            self.ask("rollback")

    def ask(self, text: str, parameters: Sequence[SqlValue] = ()) -> list[Row]:
        """Return the rows of a query; DatabaseError, DisconnectedError: as of the session."""
        return self._session.transact_blocking([(text, parameters)], self._timeout_s)[0]

    def transact_blocking(
        self, statements: Sequence[tuple[str, Sequence[SqlValue]]], timeout_s: float | None = None
    ) -> list[list[Row]]:
        """Run queries there, for who takes a `Session`."""
        return self._session.transact_blocking(statements, timeout_s or self._timeout_s)

    def read_seq(self) -> int:
        """Return the number of the last change of the writer that the tables have."""
        [(number,)] = self.ask(_READ_SEQ)
        return int(number)

    def fetch(self, text: str, count: int) -> Iterator[list[Row]]:
        """Yield the rows of a query, so many at a time; one query at a time."""
        self.ask(f"declare {_CURSOR} no scroll cursor for {text}")
        while rows := self.ask(f"fetch forward {count} from {_CURSOR}"):
            yield rows
        self.ask(f"close {_CURSOR}")

    def read(self, table: SharedTable, order: str = "") -> Iterator[list[Row]]:
        """Yield the rows of a shared table, some at a time; `order` is that of SQL."""
        text = table.select_shared + (f" order by {order}" if order else "")
        return self.fetch(text, rows_a_step(table))


def rows_a_step(table: SharedTable) -> int:
    """Return how many rows of a table are read at once."""
    return LONG_ROWS_A_STEP if table.name in _LONG else ROWS_A_STEP
