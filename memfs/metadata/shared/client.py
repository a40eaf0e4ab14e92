"""One connection to PostgreSQL: whole transactions in one round trip, without a blocked loop.

Beside `connect`, `query` and `transact` there is `transact_blocking`, for a schema; each takes a
limit of its own, `timeout_s`; a `DatabaseError` has `index` and `statement`.

libpq's pipeline mode sends all statements of a transaction at once. They end with one Sync, which
is the commit: the server undoes all of them if one fails, and the connection goes on.

A parameter has the type of its value: int is bigint, bytes is bytea, str is text, float is double
precision. None has the type that the statement casts it to (`$1::bigint`), else the one that the
server infers. A parameter that a statement does not use may have any value, and is not sent.

Invariant: a connection that does not answer, or whose answers nobody waited for, is closed and
never used again, so that no answer is taken for another one's.
"""

from __future__ import annotations

import contextlib
import select
import struct
import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import trio
from psycopg import Error as LibpqError
from psycopg import pq

from memfs.errors import DatabaseError, DisconnectedError
from memfs.linux.readiness import await_ready
from memfs.metadata.shared import values
from memfs.metadata.shared.address import one_line
from memfs.metadata.shared.connecting import NotConnectedError, connect_by

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence

    from psycopg.pq.abc import PGconn, PGresult

    from memfs.metadata.shared.address import Address, Way
    from memfs.metadata.shared.values import Row, SqlValue

__all__ = ["Client", "DatabaseError", "DisconnectedError"]

TIMEOUT_S = 10.0
PREPARED_COUNT_MAX = 1000
"""Far above the number of statements there are; one beyond is parsed each time."""
STATEMENTS_PER_TURN = 100
"""About 1 ms of work, after which other tasks have a turn."""
VERSION_MIN = 130_000
"""PostgreSQL 13."""

_TLS_LOOK_S = 0.1
"""libpq may hold bytes that are decrypted and not read, which no poll of the socket tells."""

_KEEP_DURABLE = """
select set_config('synchronous_commit', 'on', false)
where current_setting('synchronous_commit') = 'off'"""
"""A commit that was answered must not be lost; other values are the administrator's choice."""
_FIND_BY_KEY = """
select set_config(name, 'off', false)
from unnest(array['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'jit']) as name"""
"""A plan is made once for a statement, perhaps while the tables are small, and then read whole ones
that have grown. 60,000 creates in groups of 8 into tables that were analyzed with 40 rows: at last
0.9 ms of the server's CPU for each and growing, and 0.03 ms all the time with these. What has no
other way than to read a whole table looks so expensive that it would be compiled, for 0.1 s."""
_NOTICE_A_LOST_CLIENT = """
select set_config(name, '10s', false) from pg_settings
where name = 'client_connection_check_interval'"""
"""From PostgreSQL 14 on: a transaction that waits for a lock ends with its client."""

_ERROR_FIELDS = (
    pq.DiagnosticField.SEVERITY_NONLOCALIZED,
    pq.DiagnosticField.SQLSTATE,
    pq.DiagnosticField.MESSAGE_PRIMARY,
)


class _Wait(Enum):
    """What an exchange waits for."""

    TURN = 0
    """Nothing; others may go first."""
    ANSWER = 1
    BOTH = 2
    """An answer, or room to send more."""


_Exchange: TypeAlias = "Generator[_Wait, None, list[list[Row]]]"


class _Plan:
    """A statement with the types of its parameters, as the server may have prepared it."""

    __slots__ = ("decoders", "is_prepared", "name", "oids", "text")

    def __init__(self, text: str, oids: tuple[int, ...], name: bytes) -> None:
        self.text = text.encode()
        self.oids = oids
        self.name = name
        """Empty: it is parsed each time."""
        self.is_prepared = False
        self.decoders: tuple[values.Decoder, ...] | None = None
        """By column; None: not known yet."""


class _Call(NamedTuple):
    plan: _Plan
    data: list[bytes | None]
    """The parameters."""


class _Expected(NamedTuple):
    """A result that is to come; those of a pipeline come in order."""

    number: int
    """Which statement it is of; -1: the Sync."""
    plan: _Plan | None
    is_parse: bool


class Client:
    """A connection; made by `connect`.

    One transaction at a time: who has several waiting puts them into one. No lock is held while it
    waits, so a request that is served on the fast path awaits `memfs.waiting.leave` first.
    """

    def __init__(self, connection: PGconn, address: Address, timeout_s: float) -> None:
        self._connection = connection
        self._address = address
        self._timeout_s = timeout_s
        self._is_tls = connection.ssl_in_use
        self._lost: str | None = None
        self._is_under_way = False
        self._is_answered = True
        self._forms: dict[tuple[object, ...], tuple[_Plan, tuple[values.Encoder, ...]]] = {}
        self._plans: dict[tuple[str, tuple[int, ...]], _Plan] = {}

    @classmethod
    def connect(cls, address: Address, timeout_s: float = TIMEOUT_S) -> Client:
        """Return a connection to a server that takes changes. Blocks; may run in a thread.

        Args:
            address: The ways to it are tried in order, and share the time.
            timeout_s: For this, > 0, but for the resolver's own limits; and for each transaction
                later that has no limit of its own.

        Raises:
            DisconnectedError: No server could be reached that takes this user; the message has
                what each of them said.
            UsageError: The password is not where the address says, or the server is too old.
        """
        deadline = time.monotonic() + timeout_s
        failures: list[str] = []
        ways: deque[Way] = deque()
        try:
            ways.extend(address.ways())
        except OSError as error:
            failures.append(str(error))
        while ways:
            way = ways.popleft()
            share_s = (deadline - time.monotonic()) / (len(ways) + 1)
            try:
                client = cls(connect_by(way, share_s), address, timeout_s)
                client._begin_session(max(deadline - time.monotonic(), 0.0))
            except NotConnectedError as failure:
                failures.append(f"{way.place}: {failure}")
                if failure.is_without_tls and way.fallback is not None:
                    ways.appendleft(way.fallback)
            except (DatabaseError, DisconnectedError) as failure:
                failures.append(str(failure))
            else:
                return client
        raise DisconnectedError(f"no connection to {address}: {'; '.join(failures)}")

    @property
    def is_usable(self) -> bool:
        """Whether it was not lost, as was known last."""
        return self._lost is None

    @property
    def backend_pid(self) -> int:
        """Process id of the server's process, as its views have it."""
        return self._connection.backend_pid

    @property
    def server_version(self) -> int:
        """As 150018: 15.18."""
        return self._connection.server_version

    def __repr__(self) -> str:
        return f"<Client of {self._address}: {self._lost or 'connected'}>"

    def close(self) -> None:
        """Close it. What is under way ends with DisconnectedError, and may be committed."""
        if self._is_under_way and self._lost is None:
            # Another task waits for the socket. Without a loop there is no other task.
            with contextlib.suppress(RuntimeError):
                trio.lowlevel.notify_closing(self._connection.socket)
        self._lose("it was closed")

    def query(
        self, text: str, params: Sequence[SqlValue] = (), timeout_s: float | None = None
    ) -> list[Row]:
        """Run one statement as its own transaction; returns its rows. Blocks.

        Raises:
            DatabaseError: Refused; nothing happened.
            DisconnectedError: No answer in time, or the connection is lost.
            TypeError: A parameter or a column has a type that has no place here.
        """
        return self.transact_blocking([(text, params)], timeout_s)[0]

    def transact_blocking(
        self,
        statements: Sequence[tuple[str, Sequence[SqlValue]]],
        timeout_s: float | None = None,
    ) -> list[list[Row]]:
        """As `transact`, but blocks, and prepares nothing."""
        calls = [self._call(text, params, is_kept=False) for text, params in statements]
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        with self._under_way():
            return self._finish_blocking(self._exchange(calls), limit_s)

    async def transact(
        self,
        statements: Sequence[tuple[str, Sequence[SqlValue]]],
        timeout_s: float | None = None,
    ) -> list[list[Row]]:
        """Run statements as one transaction, in one round trip. Checkpoint: always.

        Cancel: safe for the caller, but the client is unusable after it, unless nothing was sent.
        Each statement is prepared once by its text, and the types of its parameters.

        Args:
            statements: Texts with `$1` to `$65535`, and their parameters; not `begin` or `commit`.
            timeout_s: Until the answer; by default that of `connect`.

        Returns:
            The rows of each statement; integers, bools, floats, texts, bytes and times by column.

        Raises:
            DatabaseError: A statement, or the commit, was refused: nothing happened, and the client
                goes on. 40001 and 40P01 are worth another attempt.
            DisconnectedError: No answer in time, or the connection is lost: it may have happened.
            TypeError: A parameter has a type that has no place here: nothing happened. A column
                has one: the transaction is committed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        calls = [self._call(text, params, is_kept=True) for text, params in statements]
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        with self._under_way():
            with trio.move_on_after(limit_s):
                return await self._finish(self._exchange(calls))
            raise self._silent(limit_s)

    async def _finish(self, exchange: _Exchange) -> list[list[Row]]:
        while True:
            try:
                wanted = next(exchange)
            except StopIteration as end:
                rows: list[list[Row]] = end.value
                return rows
            if wanted is _Wait.TURN:
                await trio.lowlevel.checkpoint()
            elif wanted is _Wait.BOTH:
                await _wait_for_both(self._connection.socket)
            elif self._is_tls:
                with trio.move_on_after(_TLS_LOOK_S):
                    await trio.lowlevel.wait_readable(self._connection.socket)
            else:
                await trio.lowlevel.wait_readable(self._connection.socket)

    def _finish_blocking(self, exchange: _Exchange, timeout_s: float) -> list[list[Row]]:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                wanted = next(exchange)
            except StopIteration as end:
                rows: list[list[Row]] = end.value
                return rows
            left_s = deadline - time.monotonic()
            if wanted is _Wait.TURN:
                continue
            if left_s <= 0:
                raise self._silent(timeout_s)
            events = select.POLLIN | (select.POLLOUT if wanted is _Wait.BOTH else 0)
            limit_s = min(left_s, _TLS_LOOK_S) if self._is_tls else left_s
            await_ready([self._connection.socket], limit_s, events)

    def _exchange(self, calls: Sequence[_Call]) -> _Exchange:
        """Send a transaction and take what is answered; yields what it waits for."""
        connection = self._connection
        expected: deque[_Expected] = deque()
        answers = _Answers(expected, [[] for _ in calls])
        self._is_answered = False
        sent: set[_Plan] = set()
        for index, (plan, data) in enumerate(calls):
            formats = [pq.Format.BINARY] * len(data)
            if not plan.name:
                connection.send_query_params(plan.text, data, plan.oids, formats, pq.Format.BINARY)
            else:
                if not plan.is_prepared and plan not in sent:
                    connection.send_prepare(plan.name, plan.text, plan.oids)
                    expected.append(_Expected(index, plan, True))
                    sent.add(plan)
                connection.send_query_prepared(plan.name, data, formats, pq.Format.BINARY)
            expected.append(_Expected(index, plan, False))
            if (index + 1) % STATEMENTS_PER_TURN == 0:
                connection.flush()
                yield _Wait.TURN
                self._receive(answers)
        connection.pipeline_sync()
        expected.append(_Expected(-1, None, False))
        while expected:
            yield _Wait.BOTH if connection.flush() else _Wait.ANSWER
            self._receive(answers)
        self._is_answered = True
        if answers.error is not None:
            raise answers.error
        return answers.rows

    def _receive(self, answers: _Answers) -> None:
        """Take what has come, without a wait."""
        connection, failure = self._connection, None
        try:
            connection.consume_input()
        except LibpqError as error:
            # What came before the end is still there: the answer of the commit, it may be.
            failure = error
        nothing_count = 0
        # libpq answers None after each statement, and where it has nothing.
        while answers.expected and nothing_count < 2 and not connection.is_busy():
            result = connection.get_result()
            if result is None:
                nothing_count += 1
                continue
            nothing_count = 0
            answers.take(result)
        if failure is not None and answers.expected:
            raise failure

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        """Guard a transaction: one at a time, and one that is left unanswered ends the client."""
        if self._lost is not None:
            raise DisconnectedError(f"the connection to {self._address} was given up: {self._lost}")
        assert not self._is_under_way, "another transaction is under way"
        self._is_under_way = True
        try:
            yield
        except (LibpqError, _LostError, trio.ClosedResourceError) as error:
            self._lose(one_line(str(error)))
            raise DisconnectedError(
                f"the connection to {self._address} is lost: {self._lost}"
            ) from None
        except DisconnectedError as error:
            self._lose(str(error))
            raise
        finally:
            self._is_under_way = False
            if not self._is_answered:
                self._lose("nobody waited for its answer")

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
            self._connection.finish()

    def _silent(self, limit_s: float) -> DisconnectedError:
        return DisconnectedError(f"{self._address} did not answer in {limit_s:g} s")

    def _begin_session(self, timeout_s: float) -> None:
        """Set what a session of ours has.

        Raises:
            DatabaseError: Refused.
            DisconnectedError: No answer, or a server that is too old.
        """
        try:
            if self.server_version < VERSION_MIN:
                raise DisconnectedError(
                    f"{self._address} is PostgreSQL {self.server_version // 10_000}; memfs needs "
                    f"{VERSION_MIN // 10_000} or later"
                )
            self.transact_blocking([(_KEEP_DURABLE, ()), (_FIND_BY_KEY, ())], timeout_s)
            # Not every system can tell that a client is gone.
            with contextlib.suppress(DatabaseError):
                self.query(_NOTICE_A_LOST_CLIENT, (), timeout_s)
        except BaseException:
            self.close()
            raise

    def _call(self, text: str, params: Sequence[SqlValue], *, is_kept: bool) -> _Call:
        key = (text, is_kept, *map(type, params))
        form = self._forms.get(key)
        if form is None:
            form = self._form(text, params, is_kept=is_kept)
            if form[0].name:
                self._forms[key] = form
        plan, encoders = form
        try:
            return _Call(
                plan,
                [
                    None if encode is None else encode(value)
                    for encode, value in zip(encoders, params, strict=True)
                ],
            )
        except struct.error:
            raise DatabaseError("22003", "an integer has more than 64 bits", text) from None
        except UnicodeEncodeError:
            raise DatabaseError("22021", "a text cannot be UTF-8", text) from None

    def _form(
        self, text: str, params: Sequence[SqlValue], *, is_kept: bool
    ) -> tuple[_Plan, tuple[values.Encoder, ...]]:
        oids, encoders = values.encoders(text, params)
        if not is_kept or len(self._forms) >= PREPARED_COUNT_MAX:
            return _Plan(text, oids, b""), encoders
        plan = self._plans.get((text, oids))
        if plan is None:
            plan = self._plans[text, oids] = _Plan(text, oids, b"s%d" % len(self._plans))
        return plan, encoders


class _Answers:
    """The results of one transaction that have come so far."""

    def __init__(self, expected: deque[_Expected], rows: list[list[Row]]) -> None:
        self.expected = expected
        self.rows = rows
        """By statement."""
        self.error: DatabaseError | TypeError | None = None
        """The first one."""

    def take(self, result: PGresult) -> None:
        """Take the next result.

        Raises:
            _LostError: It says that the connection ends.
        """
        index, plan, is_parse = self.expected[0]
        match result.status:
            case pq.ExecStatus.FATAL_ERROR:
                self._take_error(result)
                if plan is None:
                    # The commit was refused; the Sync itself is answered after that.
                    return
            case pq.ExecStatus.PIPELINE_SYNC:
                assert plan is None, "an answer is missing"
            case pq.ExecStatus.TUPLES_OK:
                assert plan is not None
                self._take_rows(result, index, plan)
            case pq.ExecStatus.COMMAND_OK if plan is not None:
                plan.is_prepared = plan.is_prepared or is_parse
            case pq.ExecStatus.PIPELINE_ABORTED | pq.ExecStatus.EMPTY_QUERY:
                pass
            case status:
                # COPY, for instance, for which there is no way out.
                raise _LostError(f"a statement is answered by {pq.ExecStatus(status).name}")
        self.expected.popleft()

    def _take_error(self, result: PGresult) -> None:
        index, plan, _ = self.expected[0]
        severity, sqlstate, primary = (
            (result.error_field(field) or b"").decode(errors="replace") for field in _ERROR_FIELDS
        )
        if severity != "ERROR":
            # Without one it is libpq's own, of a connection that ended.
            raise _LostError(one_line(primary or result.error_message.decode(errors="replace")))
        if self.error is None:
            text = plan.text.decode() if plan is not None else "commit"
            self.error = DatabaseError(sqlstate, one_line(primary), text, index)

    def _take_rows(self, result: PGresult, index: int, plan: _Plan) -> None:
        try:
            if plan.decoders is None:
                plan.decoders = values.decoders(result)
            self.rows[index] = values.rows(result, plan.decoders)
        except TypeError as error:
            self.error = self.error or error


class _LostError(Exception):
    """The connection is of no use any longer."""


async def _wait_for_both(fd: int) -> None:
    """Return when a socket can be read from or written to."""
    async with trio.open_nursery() as nursery:

        async def wait(ready: Callable[[int], Awaitable[None]]) -> None:
            await ready(fd)
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, trio.lowlevel.wait_readable)
        nursery.start_soon(wait, trio.lowlevel.wait_writable)
