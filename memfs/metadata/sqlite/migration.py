"""Migration: tables of an older format become those of this one, when a mount opens them.

All of it is one transaction of SQLite, the same that redoes what the journals have beyond the
tables, in the statements of the older format. Its windows, with the fault point of each:

1. The tables are changed, uncommitted (`migrate.begun`, `migrate.rows`, `migrate.changed`).
   *Killed, or power lost*: nothing has happened; the next mount begins anew.
2. The format file says the new number, durably (`migrate.marked`). *Killed from here on*: an older
   memfs refuses the directory. The tables tell their own format (`pragma user_version`), which is
   still the older one, and the next mount begins anew.
3. The transaction is committed (`migrate.committed`). *Killed*: the tables are new, and have all
   that the journals have. *Power lost*: the log may be lost, and window 2 comes again.
4. The tables are durable (`migrate.durable`), then each journal is begun anew
   (`migrate.first_journal`, `migrate.ended`). *Killed*: all entries of a journal in the older
   statements are applied, so that not one of them is redone.

Invariant: a migrated database has the tables, indexes and triggers of `schema`, and no others.

To change the format: change `SCHEMA`. What is new there is made by itself, triggers last. A table
whose columns have changed needs a step in `STEPS` that says what its rows become (`rebuild`); rows
of a new table that come from others, a step that makes the table and fills it (`make`).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from memfs.metadata.records import Form
from memfs.metadata.sqlite.format import FORMAT_NUMBER
from memfs.metadata.sqlite.rows import row_of
from memfs.metadata.sqlite.schema import ADDITIONS, SCHEMA, Made, table_text
from memfs.types import FormCoding, FormKind, Place

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator

Row = tuple[Any, ...]

TELL_S = 2.0
"""For the log and for a user at a terminal."""

ROWS_A_LOOK = 1000
"""Rows between two looks at the clock: some milliseconds."""


def _to_nobody(_text: str) -> None:
    return


class Migration:
    """Changes the tables of one database; the caller begins the transaction and commits it.

    Args:
        tell: Told how far it is, a sentence for users.
        reach: Told of each fault point.
        tell_pause_s: Between two lines of progress.
    """

    def __init__(
        self,
        tell: Callable[[str], None] = _to_nobody,
        reach: Callable[[str], None] = _to_nobody,
        *,
        tell_pause_s: float = TELL_S,
    ) -> None:
        self._tell = tell
        self._tell_pause_s = tell_pause_s
        self.reach = reach
        self._begun_s = time.monotonic()
        self._told_s = 0.0
        self._before = 0

    def run(self, connection: sqlite3.Connection, before: int) -> None:
        """Change the tables in the open transaction.

        Args:
            connection: To the database; the entries of all journals are in its tables.
            before: Format of the tables.
        """
        self.connection = connection
        self._before, self._begun_s = before, time.monotonic()
        self._say("begun; it needs room on the disk for the tables once more")
        self.reach("migrate.begun")
        # They come back at the end: rows that move from table to table are no changes of files.
        for name in self._names("type = 'trigger'"):
            connection.execute(f"drop trigger {name}")
        for step in STEPS:
            step(self)
        there = set(self._names("sql is not null"))
        for text in SCHEMA + ADDITIONS:
            if Made.by(text).name not in there:
                connection.execute(text)
        connection.execute(f"pragma user_version = {FORMAT_NUMBER}")
        self.reach("migrate.changed")

    def end(self) -> None:
        """Note that nothing of the older format is left in force."""
        self.reach("migrate.ended")
        self._say(f"done in {time.monotonic() - self._begun_s:.0f} s")

    # --- for steps -------------------------------------------------------------------------------
    def make(self, table: str, rows: Iterable[Row] = ()) -> None:
        """Make a table of `SCHEMA` that the older format lacks, with these rows."""
        self.connection.execute(table_text(table))
        self._fill(table, rows)

    def rebuild(self, table: str, convert: Callable[[Row], Row]) -> None:
        """Give a table the columns of `SCHEMA`, and each row what `convert` makes of it.

        Args:
            table: Has a primary key.
            convert: Given a row of the older format, all columns in order.
        """
        for name in self._names(f"type = 'index' and tbl_name = '{table}' and sql is not null"):
            self.connection.execute(f"drop index {name}")
        former = f"{table}_before"
        self.connection.execute(f"alter table {table} rename to {former}")
        self.make(table, map(convert, self.rows(former)))
        self.connection.execute(f"drop table {former}")
        # The indexes come with the others that are missing: over all rows at once they take less.

    def rows(self, table: str) -> Iterator[Row]:
        """Yield all rows of a table in order of its key, telling how far that is."""
        ((total,),) = self.connection.execute(f"select count(*) from {table}")
        fields = self.connection.execute(f"pragma table_info({table})").fetchall()
        key = ", ".join(name for _, name, *_, rank in sorted(fields, key=lambda f: f[5]) if rank)
        what = table.removesuffix("_before")
        with contextlib.closing(
            self.connection.execute(f"select * from {table} order by {key}")
        ) as cursor:
            for count, row in enumerate(cursor):
                if count % ROWS_A_LOOK == 0:
                    self.reach("migrate.rows")
                    if time.monotonic() - self._told_s >= self._tell_pause_s:
                        self._say(f"table {what}: {count} of {total} rows")
                yield row

    def _fill(self, table: str, rows: Iterable[Row]) -> None:
        fields = self.connection.execute(f"pragma table_info({table})").fetchall()
        marks = ", ".join("?" * len(fields))
        self.connection.executemany(f"insert into {table} values ({marks})", rows)

    def _names(self, condition: str) -> list[str]:
        query = f"select name from sqlite_schema where {condition}"
        return [name for (name,) in self.connection.execute(query).fetchall()]

    def _say(self, text: str) -> None:
        self._told_s = time.monotonic()
        self._tell(f"migration from format {self._before} to {FORMAT_NUMBER}: {text}")


def _move_forms(migration: Migration) -> None:
    migration.rebuild("form", _form_row)


def _form_row(row: Row) -> Row:
    """Return the columns of a form: place and coding were packed texts."""
    blob, kind, location, text, stored_bytes = row
    key, _, offset = location.partition("@") if kind == FormKind.REMOTE else (location, "", "")
    # Words that mean nothing here were passed over by format 2 as well.
    codec, *words = text.split(" ")
    coding = dict(word.partition(":")[::2] for word in words)
    form = Form(
        blob,
        FormKind(kind),
        Place(key, int(offset) if offset else None),
        FormCoding(
            codec,
            int(coding.get("shuffle", "1")),
            coding.get("key", ""),
            coding.get("table", ""),
        ),
        stored_bytes,
    )
    return row_of(form)


def _key_xattrs(migration: Migration) -> None:
    # Most states have few xattrs. The index gets them in steps once the mount serves.
    migration.rebuild("xattr", lambda row: (*row, 0, None))


STEPS: tuple[Callable[[Migration], None], ...] = (_move_forms, _key_xattrs)
"""From format 2 to 3, in this order."""
