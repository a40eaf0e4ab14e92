"""The names of a mount of one machine move into a database; the state directory stays where it is.

The mount is not served meanwhile. Its tables are only read, until they are in the database:

1. The row of the node that writes is made, with the state `behind`: its tables do not count, and no
   node starts with this database (`move_in.registered`). The tables are empty before.
2. Rows that the tables must not have go, in steps (`move_in.removed`). *Killed before the end*: the
   next attempt finds rows of this one, and the mount may have been served in between.
3. Rows that they lack come, in steps, by key (`move_in.step`).
4. All rows of both are compared (`move_in.compared`).
5. The format file says that the state directory is a node's (`move_in.marked`). This is the step:
   before, the directory is that of one machine and nothing else; from here on, only a mount with
   this database changes it, which is refused before the last step.
6. The file `node` names the mount (`move_in.named`), and entries of the journal count from now on
   (`move_in.counted`).
7. The row of the node gets the state `live` (`move_in.done`).

Killed at any point, the same command goes on: it walks all rows again and sends those that are
missing.

Invariant: a database with a writer that is `live` has exactly the rows of its state directory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs import __version__
from memfs.errors import DatabaseError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import comparing, instant, node_table, schema
from memfs.metadata.shared.comparing import (
    SHOWN_COUNT,
    Counter,
    Difference,
    differences,
)
from memfs.metadata.shared.node_file import Membership, NodeFile, Role
from memfs.metadata.shared.node_table import NodeState
from memfs.metadata.shared.tables import TABLES, TYPES, array_text
from memfs.metadata.sqlite.format import read_is_shared, write_format
from memfs.metadata.store_record import SETTING, describe_store
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.metadata.shared.client import Client
    from memfs.metadata.shared.node_table import NodeRow
    from memfs.metadata.shared.schema import Mount
    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.engine import SqliteEngine
    from memfs.metadata.sqlite.statements import Row

STEP_BYTES = 1 << 20
"""So many bytes of rows go at once, but for a single row that has more."""
TIMEOUT_S = 60.0
"""For each step. Guess."""

_REGISTER = """
    insert into node (node, name, state_id, role, epoch, state, seq, applied, beat, version)
    values ($1::bigint, $2::text, $3::bytea, 'writer', 0, 'behind', 0, 0, now(), $4::text)
"""
_COUNT = """
    update node set state = 'live', beat = now()
    where node = $1 and state = 'behind' and epoch = 0 and state_id = $2 returning node
"""


class Moved(NamedTuple):
    """What was done."""

    node: str
    """Name of the node."""
    row_count: int
    """Rows that the database has of the mount; 0: they had moved before."""
    sent_count: int
    """Those of them that were sent now: an attempt before may have sent the others."""


class MovingIn:
    """One attempt; blocks, perhaps for long.

    Args:
        engine: That of the state directory, just opened; nobody else uses it.
        state_dir: The directory.
        client: Connected to the database.
        database: How messages name it, without secrets.
        name: The node's.
        reach: Told of each fault point (`moves.faults.MOVE_IN_POINTS`).
        show: Told the stage, rows done, and rows in all.
    """

    def __init__(
        self,
        engine: SqliteEngine,
        state_dir: Path,
        client: Client,
        database: str,
        name: str,
        *,
        reach: Callable[[str], None] = lambda _point: None,
        show: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
    ) -> None:
        self._engine = engine
        self._state_dir = state_dir
        self._client = client
        self._database = database
        self._name = name
        self._reach = reach
        self._show = show
        self._file = NodeFile(state_dir)
        self._sent_count = 0

    def run(self) -> Moved:
        """Do the steps.

        Raises:
            UsageError: The two do not belong together; nothing was changed.
            DatabaseError, DisconnectedError: The database refuses, or does not answer; the next
                attempt goes on.
            StateDamagedError, MetadataError, OSError: The state directory cannot be used.
        """
        mount = schema.find_mount(self._client, self._database)
        writer = node_table.find_writer(self._client)
        if self._has_moved(mount, writer):
            assert writer is not None, "looked at"
            return Moved(writer.name, 0, 0)
        self._require_store(mount)
        if writer is None:
            self._register()
        self._reach("move_in.registered")
        connection = self._engine._database.connection
        comparing.prepare(connection)
        total = comparing.count_local(connection)
        for table in TABLES:
            self._remove(table)
        note = Counter("sent", total, self._show)
        for table in TABLES:
            self._send(table, note)
        note = Counter("compared", total, self._show)
        found = comparing.first_differences(connection, self._client, note, SHOWN_COUNT)
        if found:
            raise UsageError(
                f"{self._database} has other rows than {self._state_dir} ({'; '.join(found)}): "
                "somebody else changes its tables; the state directory is as it was, so end that "
                "and try again, or go on with the mount without metadata.url",
                ExitCode.PROBLEMS,
            )
        self._reach("move_in.compared")
        self._mark(mount)
        if not self._client.query(_COUNT, (node_table.NODE, bytes(self._engine.state_id))):
            raise UsageError(
                f"{self._database}: the row of this node was changed meanwhile: try again",
                ExitCode.STATE_IN_USE,
            )
        self._reach("move_in.done")
        return Moved(self._name, total, self._sent_count)

    # --- what may move ---------------------------------------------------------------------------
    def _has_moved(self, mount: Mount, writer: NodeRow | None) -> bool:
        """Return whether the names have moved already; UsageError: they must not."""
        known = self._file.read()
        number, _ = self._engine._database.read_followed()
        if known is not None and (known.role is Role.READER or known.mount_id != mount.mount_id):
            what = "a node that reads" if known.role is Role.READER else "a node of another mount"
            raise self._refusal(f"{self._state_dir} belongs to {what}, and stays there")
        if writer is None:
            if number is not None:
                raise self._refusal(
                    f"{self._state_dir} belongs to a node, which this database does not know: put "
                    "the database back as it was"
                )
            return False
        if writer.state_id != self._engine.state_id:
            raise self._refusal(
                f"it has the names of node {writer.name}, whose state directory is another one (id "
                f"{writer.state_id.hex()}, here {self._engine.state_id.hex()}): make another "
                "database, and format that"
            )
        if writer.state != NodeState.BEHIND:
            if number is None:
                raise self._refusal(
                    f"{self._state_dir} is an older copy: its names have moved there before; use "
                    "the one that was mounted last"
                )
            return True
        if writer.epoch:
            raise self._refusal(
                "it has the names from before they moved out of it: make another database, and "
                "format that, or drop all tables of this one and format it again"
            )
        return False

    def _refusal(self, reason: str) -> UsageError:
        return UsageError(f"{self._database}: {reason}", ExitCode.STATE_UNUSABLE)

    def _require_store(self, mount: Mount) -> None:
        """See that the objects are where the other nodes look for them."""
        row = self._engine._database.row("select value from setting where name = ?", (SETTING,))
        if row is None:
            # No mount has had a store: there are no objects.
            return
        url = row[0].decode()
        place = url or f"file://{self._state_dir.resolve() / 'glacier'}"
        if url_without_secrets(place).rstrip("/") == mount.store:
            return
        told = describe_store(url_without_secrets(url))
        remedy = (
            "format another database with that as --store"
            if url
            else "copy them there and mount once with that as glacier.url"
        )
        raise self._refusal(
            f"it was formatted for the object store {mount.store}, and the objects of "
            f"{self._state_dir} are in {told}: {remedy}"
        )

    def _register(self) -> None:
        """Make the row of the node, in a database without rows."""
        used = [
            table.name
            for table in TABLES
            if self._client.query(f"select 1 from {table.name} limit 1")
        ]
        if used:
            raise self._refusal(
                f"its tables have rows ({', '.join(used)}) of a mount that it does not know: make "
                "another database, and format that"
            )
        row = (node_table.NODE, self._name, bytes(self._engine.state_id), __version__)
        node_table.check_name(self._name)
        try:
            self._client.query(_REGISTER, row)
        except DatabaseError as error:
            if error.sqlstate not in schema.TAKEN:
                raise
            raise UsageError(
                f"{self._database}: another node has just begun to write there",
                ExitCode.STATE_IN_USE,
            ) from None

    # --- rows ------------------------------------------------------------------------------------
    def _differences(
        self, table: SharedTable, note: Callable[[int], None] = lambda _count: None
    ) -> Iterator[Difference]:
        connection = self._engine._database.connection
        return differences(connection, self._client, table, note)

    def _remove(self, table: SharedTable) -> None:
        """Remove what the table must not have, before what it lacks: others may have its names."""
        if not self._client.query(f"select 1 from {table.name} limit 1"):
            return
        expressions = comparing.key_expressions(table)
        letters = [column.letter for column in table.columns if column.name in table.key]
        long = [column == f"sha256({table.long_key})" for column in expressions]
        types = [
            f"${at}::{'bytea' if is_long else TYPES[letter]}[]"
            for at, (letter, is_long) in enumerate(zip(letters, long, strict=True), 1)
        ]
        names = [f"k{at}" for at in range(len(types))]
        same = " and ".join(f"{one} = {two}" for one, two in zip(expressions, names, strict=True))
        text = (
            f"delete from {table.name} using unnest({', '.join(types)})"
            f" as gone({', '.join(names)}) where {same}"
        )
        keys: list[comparing.Key] = []
        for each in self._differences(table):
            if each.there is not None:
                keys.append(each.key)
            if len(keys) == instant.rows_a_step(table):
                self._delete(text, keys)
        if keys:
            self._delete(text, keys)

    def _delete(self, text: str, keys: list[comparing.Key]) -> None:
        arrays = tuple(map(array_text, zip(*keys, strict=True)))
        self._client.query(text, arrays, TIMEOUT_S)
        keys.clear()
        self._reach("move_in.removed")

    def _send(self, table: SharedTable, note: Callable[[int], None]) -> None:
        """Send what the table lacks, in steps."""
        rows: list[Row] = []
        size = 0
        for each in self._differences(table, note):
            assert each.here is not None, "removed before"
            rows.append(each.here)
            size += sum(len(value) for value in each.here if isinstance(value, (bytes, str)))
            if len(rows) == instant.ROWS_A_STEP or size >= STEP_BYTES:
                self._insert(table, rows)
                size = 0
        if rows:
            self._insert(table, rows)

    def _insert(self, table: SharedTable, rows: list[Row]) -> None:
        self._client.query(table.insert_many, table.arrays_of(rows), TIMEOUT_S)
        self._sent_count += len(rows)
        rows.clear()
        self._reach("move_in.step")

    # --- the state directory ---------------------------------------------------------------------
    def _mark(self, mount: Mount) -> None:
        """Make a node's of the state directory, durably."""
        engine = self._engine
        if not read_is_shared(self._state_dir):
            write_format(self._state_dir, engine._state_id, shared=True)
        self._reach("move_in.marked")
        self._file.write(Membership(mount.mount_id, (0,), state_id=engine.former_state_id))
        self._reach("move_in.named")
        engine._database.begin_following()
        self._reach("move_in.counted")
