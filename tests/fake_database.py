"""A database of a mount in memory, with all that can go wrong on the way to it.

It keeps the row of one node and its change log, as PostgreSQL does by the writer's statements, and
counts each statement on shared tables. Each transaction happens whole or not at all.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import trio

from memfs.errors import DatabaseError, DisconnectedError, UsageError
from memfs.metadata.shared import joining, node_table, writer
from memfs.metadata.shared.node_table import NodeRow
from memfs.metadata.shared.schema import Mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.shared.writer import Statement
    from memfs.metadata.sqlite.statements import Row


class FakeDatabase:
    """One server; tests set what goes wrong."""

    def __init__(self, epoch: int = 1, seq: int = 0) -> None:
        self.epoch = epoch
        self.seq = seq
        self.name = "postgresql://fake"
        self.mount_id = "m" * 32
        self.state_id: bytes | None = None
        """The state directory that takes part."""
        self.base: dict[str, list[Row]] = {}
        """Rows of tables that the node began with."""
        self.changes: dict[int, bytes] = {}
        self.applied: list[Statement] = []
        """Statements on shared tables that are committed, in order."""
        self.group_sizes: list[int] = []
        """Changes in each group that was committed and had any."""
        self.applied_by_reader: int | None = None
        """Number of the last change that a node has which reads; None: there is no such node."""
        self.is_up = True
        self.is_silent = False
        """It takes everything, and answers nothing."""
        self.is_answering = True
        """Without it a group is committed, and the connection lost before its answer."""
        self.lost_epoch_count = 0
        """So many answers to who takes an epoch are lost with their connections."""
        self.failures: list[str] = []
        """SQLSTATEs that the next groups meet, one each."""
        self.latency_s = 0.001
        self.attempt_count = 0
        """Attempts to connect."""
        self.sessions: list[FakeSession] = []
        self._pids = itertools.count(1)

    async def connect(self) -> FakeSession:
        """Return a connection."""
        self.attempt_count += 1
        await trio.sleep(self.latency_s)
        if not self.is_up:
            raise DisconnectedError("connection refused")
        session = FakeSession(self, next(self._pids))
        self.sessions.append(session)
        return session

    def connect_blocking(self) -> FakeSession:
        """Return a connection."""
        if not self.is_up:
            raise DisconnectedError("connection refused")
        session = FakeSession(self, next(self._pids))
        self.sessions.append(session)
        return session

    def stop(self) -> None:
        """End all connections, and take no new ones."""
        self.is_up = False
        for session in self.sessions:
            session.close()

    def start(self) -> None:
        """Take connections again."""
        self.is_up = True

    def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Do one transaction."""
        if self.failures and any(text == writer.ADVANCE for text, _ in statements):
            raise DatabaseError(self.failures.pop(0), "as the test says")
        before = self.epoch, self.seq, dict(self.changes), list(self.applied)
        try:
            answers = [self._run_one(text, parameters) for text, parameters in statements]
        except DatabaseError:
            self.epoch, self.seq, self.changes, self.applied = before
            raise
        count = sum(text == writer.INSERT_CHANGE for text, _ in statements)
        if count:
            self.group_sizes.append(count)
        return answers

    def _run_one(self, text: str, parameters: Sequence[object]) -> list[Row]:
        if text in (writer.END_FORMER, writer.READ_OTHERS, writer.NOTE_END):
            return []
        if text == writer.READ_NODE:
            return [(self.epoch, self.seq, "a")]
        if text == writer.TAKE_EPOCH:
            epoch, _, former = parameters
            if former != self.epoch:
                return []
            assert isinstance(epoch, int)
            self.epoch = epoch
            return [(self.seq,)]
        if text == writer.ADVANCE:
            last, _, epoch, before = parameters
            if (epoch, before) != (self.epoch, self.seq):
                raise DatabaseError(writer.NOT_MOVED, "division by zero")
            assert isinstance(last, int)
            self.seq = last
            return [(1,)]
        if text == writer.INSERT_CHANGE:
            _, number, body = parameters
            assert isinstance(number, int)
            assert isinstance(body, bytes)
            assert number not in self.changes
            self.changes[number] = body
            return []
        if text == joining.COUNT_BODIES:
            _, after, last = parameters
            assert isinstance(after, int)
            assert isinstance(last, int)
            return [(sum(after < number <= last for number in self.changes),)]
        if text == node_table.READ_LOG:
            _, after, count = parameters
            assert isinstance(after, int)
            assert isinstance(count, int)
            return sorted(each for each in self.changes.items() if each[0] > after)[:count]
        if text == writer.TRIM:
            _, durable = parameters
            assert isinstance(durable, int)
            applied = durable if self.applied_by_reader is None else self.applied_by_reader
            last = min(durable, applied)
            self.changes = {key: body for key, body in self.changes.items() if key > last}
            return [(applied,)]
        if text == writer.LEAVE_BEHIND:
            oldest, _ = parameters
            assert isinstance(oldest, int)
            if self.applied_by_reader is not None and self.applied_by_reader < oldest:
                self.applied_by_reader = None
            return []
        self.applied.append((text, parameters))  # type: ignore[arg-type]
        return []


class FakeSession:
    """One connection."""

    def __init__(self, database: FakeDatabase, pid: int) -> None:
        self._database = database
        self._is_open = True
        self.backend_pid = pid

    async def transact(
        self, statements: Sequence[Statement], timeout_s: float | None = None
    ) -> list[list[Row]]:
        """See `writer.Session`."""
        database = self._database
        await trio.sleep(database.latency_s)
        if database.is_silent:
            await trio.sleep(float("inf") if timeout_s is None else timeout_s)
            self._is_open = False
            raise DisconnectedError("no answer in time")
        if not self._is_open:
            raise DisconnectedError("the connection is lost")
        answers = database.run(statements)
        is_lost = not database.is_answering
        if database.lost_epoch_count and statements[0][0] == writer.TAKE_EPOCH:
            database.lost_epoch_count -= 1
            is_lost = True
        if is_lost:
            self._is_open = False
            raise DisconnectedError("the connection was lost before the answer")
        return answers

    def transact_blocking(
        self, statements: Sequence[Statement], timeout_s: float | None = None
    ) -> list[list[Row]]:
        """See `joining.FirstSession`."""
        if not self._database.is_up:
            raise DisconnectedError("the connection is lost")
        return self._database.run(statements)

    def check(self) -> Mount:
        """See `joining.FirstSession`."""
        return Mount(self._database.mount_id, "file:///store", "1", "now")

    def find_nodes(self) -> list[NodeRow]:
        """See `joining.FirstSession`."""
        writer = self.find_writer()
        return [] if writer is None else [writer]

    def join_reader(self, name: str, state_id: bytes, version: str) -> NodeRow:
        """See `joining.FirstSession`."""
        raise NotImplementedError

    def come_back(self, present: NodeRow, name: str, version: str) -> None:
        """See `joining.FirstSession`."""

    def find_writer(self) -> NodeRow | None:
        """See `joining.FirstSession`."""
        database = self._database
        if database.state_id is None:
            return None
        return NodeRow(1, "a", database.state_id, database.epoch, database.seq, "1")

    def join(self, node: NodeRow, rows: Iterable[tuple[SharedTable, Iterable[Row]]]) -> NodeRow:
        """See `joining.FirstSession`."""
        database = self._database
        if database.state_id is None:
            database.state_id, database.epoch, database.seq = node.state_id, 0, 0
            database.base = {table.name: list(some) for table, some in rows}
        if database.state_id != node.state_id:
            raise UsageError("its state directory is another one")
        found = self.find_writer()
        assert found is not None
        return found

    def close(self) -> None:
        """End it."""
        self._is_open = False
