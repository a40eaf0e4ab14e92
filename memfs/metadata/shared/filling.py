"""Filling: the tables of a node that reads are made from those of the mount, as of one instant.

1. The tables forget up to which change they have the writer's, durably: they do not count until the
   end (`fill.begun`). The row of the node has the database keep all changes since
   (`node_table.join_reader`).
2. Rows of the past go, in steps (`fill.emptied`): a node that was left behind has some. Raw files
   of it become garbage.
3. One transaction reads all shared tables; what comes is committed here in steps (`fill.step`).
4. The totals are counted, and the number of the last change goes with the last entry of the
   journal, durably (`fill.done`).

Killed before that, the next start begins anew.

Invariant: tables that tell of a change have exactly what the mount had then.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from memfs.metadata.shared.applying import APPLIED_SETTING, FOLLOWED_SETTINGS, is_followed_setting
from memfs.metadata.shared.instant import ROWS_A_STEP, Instant
from memfs.metadata.shared.tables import TABLES, local_row
from memfs.metadata.sqlite import statements as sqlite
from memfs.metadata.sqlite.attribute_index import IndexNote
from memfs.metadata.sqlite.check import RECOUNT
from memfs.metadata.sqlite.element_index import ELEMENT_NOTE_NAME
from memfs.metadata.sqlite.schema import totals_of
from memfs.sizes import format_count
from memfs.types import NO_RAW, FormKind, RawId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memfs.metadata.shared.applying import Applying
    from memfs.metadata.shared.instant import Session
    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.statements import Row

STEPS_A_CHECKPOINT = 16
"""A checkpoint that takes longer is waited for: the journal would grow."""
BEAT_S = 30.0
"""Between two calls of `beat`."""
TELL_S = 10.0
"""Between two sentences for people."""

_LEFT_OUT = frozenset({"garbage"})
"""Objects are removed by the node that writes."""
_PLAIN = {
    "dentry": sqlite.INSERT_DENTRY,
    "symlink": sqlite.INSERT_SYMLINK,
    "blob": sqlite.INSERT_BLOB,
    "batch": sqlite.INSERT_BATCH,
    "head": sqlite.INSERT_HEAD,
    "inode_was": sqlite.INSERT_INODE_WAS,
    "dentry_was": sqlite.SAVE_DENTRY.usual,
    "xattr_was": sqlite.INSERT_XATTR_WAS,
    "symlink_was": sqlite.INSERT_SYMLINK_WAS,
    "foreign_object": sqlite.INSERT_OBJECT,
    "foreign_gone": sqlite.PUT_GONE,
    "foreign_directory": sqlite.INSERT_DIRECTORY,
    "published": sqlite.PUT_PUBLISHED,
}
"""Tables whose rows are the parameters of a statement."""

_SELECT_INODES = "select ino, raw from inode order by ino limit ?"
_REMOVALS = (
    ("select parent, cookie from dentry limit ?", sqlite.DELETE_DENTRY),
    ("select blob, kind from form limit ?", sqlite.DELETE_FORM),
    ("select blob from blob limit ?", sqlite.DELETE_BLOB),
    ("select key from batch limit ?", sqlite.DELETE_BATCH),
    ("select ino, generation from kept limit ?", sqlite.DELETE_KEPT),
    *(
        (
            "select snap, json_group_array(ino) from"
            f" (select distinct snap, ino from {table} limit ?) group by snap",
            statements.delete,
        )
        for table, statements in zip(
            ("dentry_was", "xattr_was", "inode_was"), sqlite.UNDO_TABLES, strict=True
        )
    ),
    ("select json_array(ino) from symlink_was limit ?", sqlite.DELETE_TARGETS),
    ("select snap from snapshot limit ?", sqlite.DELETE_SNAPSHOT),
    ("select ino from foreign_object limit ?", sqlite.DELETE_OBJECT),
    ("select source, key from foreign_gone limit ?", sqlite.DELETE_GONE),
    ("select ino from foreign_directory limit ?", sqlite.DELETE_DIRECTORY),
    ("select source from source limit ?", sqlite.DELETE_SOURCE),
    ("select url from published limit ?", sqlite.DELETE_PUBLISHED),
)
"""What finds rows of a table, and what removes them, once their inodes are gone."""


def is_filled(engine: Applying) -> bool:
    """Return whether the tables have what the mount had at one instant: `fill` came to its end."""
    row = engine._row("select 1 from setting where name = ?", (APPLIED_SETTING,))
    return row is not None


def fill(
    session: Session,
    engine: Applying,
    *,
    reach: Callable[[str], None] = lambda _point: None,
    beat: Callable[[], object] = lambda: None,
    tell: Callable[[str], None] = lambda _sentence: None,
) -> int:
    """Make the tables of a node that reads from those of the mount. Blocks, perhaps for long.

    Args:
        session: A connection, unusable for others meanwhile; to be closed if this raises.
        engine: That of the node; nothing is uncommitted.
        reach: Told of each fault point (`moves.faults.FILL_POINTS`).
        beat: Called every `BEAT_S` at least, but for one step: the node is heard of by it.
        tell: Told how far it is, in a sentence, every `TELL_S`.

    Returns:
        The number of the last change of the writer that the tables have now.

    Raises:
        DatabaseError, DisconnectedError: The database refuses, or does not answer.
        NoSpaceError, MetadataError: The rows cannot be kept.
    """
    return _Filling(session, engine, reach, beat, tell).run()


class _Filling:
    """One of them; arguments as of `fill`."""

    def __init__(
        self,
        session: Session,
        engine: Applying,
        reach: Callable[[str], None],
        beat: Callable[[], object],
        tell: Callable[[str], None],
    ) -> None:
        self._session = session
        self._engine = engine
        self._database = engine._database
        self._write = engine._database.write
        self._reach = reach
        self._beat = beat
        self._tell = tell
        self._row_count = 0
        self._step_count = 0
        self._beaten_s = self._told_s = time.monotonic()

    def run(self) -> int:
        """See `fill`."""
        self._engine.commit_nowait()
        self._database.is_applying = True
        try:
            self._forget()
            self._reach("fill.begun")
            self._empty()
            self._reach("fill.emptied")
            number = self._read()
        finally:
            self._database.is_applying = False
            self._engine._cache.clear()
        self._reach("fill.done")
        return number

    # --- steps -----------------------------------------------------------------------------------
    def _begin_step(self) -> None:
        self._database.begin_change(grows=True)

    def _end_step(self) -> None:
        """Commit a step, and see to all that cannot wait for the end."""
        self._database.commit_nowait()
        self._step_count += 1
        if self._step_count % STEPS_A_CHECKPOINT == 0 and self._database.is_checkpointing:
            self._database.wait_for_checkpoint()
        now_s = time.monotonic()
        if now_s - self._beaten_s > BEAT_S:
            self._beaten_s = now_s
            self._beat()
        if now_s - self._told_s > TELL_S:
            self._told_s = now_s
            rows = format_count(self._row_count, "row")
            self._tell(f"the names of the mount are copied to this machine: {rows} so far")
        self._reach("fill.step")

    # --- what is there ---------------------------------------------------------------------------
    def _forget(self) -> None:
        """Have the tables tell of no change, durably."""
        if is_filled(self._engine):
            self._database.begin_change()
            self._write(sqlite.DELETE_SETTING, (APPLIED_SETTING,))
            self._database.commit_nowait()
            self._database.sync()

    def _empty(self) -> None:
        """Remove all that nodes share, with the raw files."""
        engine = self._engine
        while inodes := engine._rows(_SELECT_INODES, (ROWS_A_STEP,)):
            self._begin_step()
            for ino, raw in inodes:
                if raw:
                    engine._discard_raw(RawId(raw))
                # Their entries in the indexes go by their values.
                engine._delete_entries(ino)
                self._write(sqlite.DELETE_INODE, (ino,))
            self._end_step()
        for query, statement in _REMOVALS:
            while rows := engine._rows(query, (ROWS_A_STEP,)):
                self._begin_step()
                for row in rows:
                    self._write(statement, row)
                self._end_step()
        self._begin_step()
        self._write(sqlite.FORGET_HEAD, ())
        self._write(sqlite.UNMARK_FOREIGN, ())
        for name in sorted(FOLLOWED_SETTINGS):
            self._write(sqlite.DELETE_SETTING, (name,))
        self._note_indexes()
        self._end_step()
        engine._cache.clear()

    def _note_indexes(self) -> None:
        """Note that the indexes of xattrs lack no xattr, as there is no xattr."""
        engine = self._engine
        if engine._attributes.enabled:
            engine._take_note(IndexNote(None))
            position = engine._elements.take_position(None, 0)
            self._write(sqlite.PUT_SETTING, (ELEMENT_NOTE_NAME, position))

    # --- what comes ------------------------------------------------------------------------------
    def _read(self) -> int:
        """Take all rows, as of one instant; returns the number of the last change there."""
        with Instant(self._session) as instant:
            number = instant.read_seq()
            for table in TABLES:
                if table.name not in _LEFT_OUT:
                    self._read_table(instant, table)
        engine, database = self._engine, self._database
        database.begin_change()
        database.totals[:] = totals_of(engine._rows(RECOUNT)[0])
        self._write(sqlite.PUT_SETTING, (APPLIED_SETTING, str(number).encode()))
        database.commit_nowait()
        database.sync()
        return number

    def _read_table(self, instant: Instant, table: SharedTable) -> None:
        # A snapshot that is leaving comes before a live one of the same name.
        take = self._taker(table)
        for rows in instant.read(table, "state" if table.name == "snapshot" else ""):
            self._begin_step()
            take([local_row(table, row) for row in rows])
            self._row_count += len(rows)
            self._end_step()

    def _taker(self, table: SharedTable) -> Callable[[Iterable[Row]], None]:
        """Return what takes rows of a table, as SQLite has their values."""
        statement = _PLAIN.get(table.name)
        if statement is not None:
            return partial(self._take, statement)
        return {
            "inode": self._take_inodes,
            "xattr": self._take_xattrs,
            "form": self._take_forms,
            "setting": self._take_settings,
            "snapshot": self._take_snapshots,
            "kept": self._take_kept,
            "source": self._take_sources,
        }[table.name]

    def _take(self, statement: int, rows: Iterable[Row]) -> None:
        write = self._write
        for row in rows:
            write(statement, row)

    def _take_inodes(self, rows: Iterable[Row]) -> None:
        # Without a raw file, and nobody has opened them here.
        self._take(sqlite.INSERT_INODE, ((*row[:13], NO_RAW, *row[13:], 0) for row in rows))

    def _take_xattrs(self, rows: Iterable[Row]) -> None:
        for ino, name, value in rows:
            self._engine._store_xattr(ino, name, value)

    def _take_forms(self, rows: Iterable[Row]) -> None:
        kind = FormKind.REMOTE.value
        self._take(sqlite.INSERT_FORM, ((row[0], kind, *row[1:]) for row in rows))

    def _take_settings(self, rows: Iterable[Row]) -> None:
        self._take(sqlite.PUT_SETTING, (row for row in rows if is_followed_setting(row[0])))

    def _take_snapshots(self, rows: Iterable[Row]) -> None:
        for *values, state in rows:
            self._write(sqlite.INSERT_SNAPSHOT, tuple(values))
            if state != "live":
                self._write(sqlite.LEAVE_SNAPSHOT, (values[0],))

    def _take_kept(self, rows: Iterable[Row]) -> None:
        self._take(
            sqlite.INSERT_KEPT,
            (
                (ino, generation, NO_RAW, blob, size, 0, mtime_ns, is_open)
                for ino, generation, blob, size, mtime_ns, is_open in rows
            ),
        )

    def _take_sources(self, rows: Iterable[Row]) -> None:
        self._write(sqlite.MARK_FOREIGN, ())
        self._take(sqlite.PUT_SOURCE, rows)
