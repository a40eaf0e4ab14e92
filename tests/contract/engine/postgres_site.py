"""A site whose engine is a node's: after each test PostgreSQL has what the state directory has.

Invariant: each shared table has exactly the rows of its local one, seen through
`SharedTable.select_local`, after every crash, reopening and end.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, ClassVar

from memfs.errors import DisconnectedError, MemfsError
from memfs.metadata.shared import schema
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.connector import PostgresConnector
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.shared.tables import TABLES
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.journal import Journal
from memfs.metadata.sqlite.journals import JOURNAL_NAMES
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, SqliteSite, watch_undo_rows
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.metadata.sqlite.limits import Limits
    from tests.servers.postgresql import Database

STORE = "file:///objects"
_NAMES = (*(table.name for table in TABLES), "node", "change")


class MountDatabase:
    """A database with a mount, emptied for each test: to make one anew takes longer.

    Args:
        database: Empty.
    """

    def __init__(self, database: Database) -> None:
        self.address = Address.parse(database.url)
        self.client = Client.connect(self.address, WAIT_S)
        schema.create(self.client, database.url, STORE, "0")

    @property
    def connector(self) -> PostgresConnector:
        """What an engine is given."""
        return PostgresConnector(self.address, STORE, WAIT_S)

    def clear(self) -> None:
        """Take all rows out but that of the mount; the server may have been restarted since."""
        deletions = [(f"delete from {name}", ()) for name in _NAMES]
        try:
            self.client.transact_blocking(deletions)
        except DisconnectedError:
            self.client.close()
            self.client = Client.connect(self.address, WAIT_S)
            self.client.transact_blocking(deletions)


def drop_unsynced(state_dir: Path, durable_sequence: int) -> None:
    """Take the end of the journals away, as power loss does.

    Args:
        state_dir: That of no process.
        durable_sequence: What is left.
    """
    for name in JOURNAL_NAMES:
        journal = Journal(state_dir / name, create=False)
        data = journal._read_all()
        ends = [end for sequence, _, _, end in journal._walk(data) if sequence <= durable_sequence]
        begin = max([*ends, journal._entries_offset])
        journal.close()
        (state_dir / name).write_bytes(data[:begin].ljust(len(data), b"\0"))


class PostgresSite(SqliteSite):
    """A state directory with a node's engine open, outside of an event loop."""

    mount: ClassVar[MountDatabase]
    """That of the test run; tests use it one after the other."""

    def __init__(self, root: Path, limits: Limits = SMALL) -> None:
        self._rng = random.Random(1)
        self.mount.clear()
        super().__init__(root, limits)

    def _open(self) -> Engine:
        self._shared = SharedEngine.join(
            self.state_dir,
            CONFIG,
            self.mount.connector,
            NodeSettings("a", WAIT_S),
            now_ns=BIRTH_NS,
            limits=self._limits,
            rng=self._rng,
        )
        self._sqlite = self._shared
        watch_undo_rows(self._sqlite)
        return self._shared

    def compare(self) -> None:
        """See that the database has what is committed here."""
        self._shared._send_left()
        assert self._shared._outbox.count == 0
        assert_same(local_tables(self._shared._rows), shared_tables(self.mount.client))

    def reopen(self) -> Engine:
        """Close the engine and open it again."""
        self._shared.commit_nowait()
        self.compare()
        return super().reopen()

    def crash(self) -> Engine:
        """Go on as after SIGKILL or power loss, at some point of what is sent."""
        kind = self._rng.choice(("unsent", "sent", "power"))
        if kind != "unsent":
            self._shared._send_left()
        self._durable_sequence = (
            self._shared._database.durable_sequence if kind == "power" else None
        )
        engine = super().crash()
        if not engine.uncommitted:
            self.compare()
        return engine

    def _abandon(self) -> None:
        """End the engine without a word to the database."""
        self._shared.writer.close()
        with contextlib.suppress(MemfsError):
            SqliteEngine.close(self._shared)

    def _after_crash(self) -> None:
        if self._durable_sequence is not None:
            drop_unsynced(self.state_dir, self._durable_sequence)

    def close(self) -> None:
        """Close the engine, check it and compare before."""
        with contextlib.suppress(MemfsError):
            self._shared.commit_nowait()
            self.compare()
        super().close()
