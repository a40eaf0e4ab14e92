"""The client of PostgreSQL against a real server."""

from __future__ import annotations

import contextlib
import datetime
import gc
import itertools
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from memfs.metadata.shared import address as address_module
from memfs.metadata.shared import client as client_module
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client, DatabaseError, DisconnectedError
from tests.servers.postgresql import CLEAR, GUARDED, ONLY_TLS, PASSWORD, USER
from tests.waiting import WAIT_S, join, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg.pq.abc import PGconn

    from tests.servers.postgresql import Database

SHORT_S = 0.3
"""A limit that is to pass."""
PUT = "insert into item values ($1::bigint, $2::bytea)"
Statement = tuple[str, tuple[int | bytes, ...]]


@pytest.fixture
def connect(postgres: Database) -> Iterator[Callable[..., Client]]:
    """Connects to the test's database; the clients are closed after the test."""
    with contextlib.ExitStack() as stack:

        def connected(url: str = postgres.url, timeout_s: float = WAIT_S) -> Client:
            client = Client.connect(Address.parse(url), timeout_s)
            stack.callback(client.close)
            return client

        yield connected


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    """A client whose database has the table `item (number bigint primary key, data bytea)`."""
    connected = connect()
    connected.query("create table item (number bigint primary key, data bytea)")
    return connected


def _count(client: Client) -> int:
    [(count,)] = client.query("select count(*) from item")
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize(
    ("text", "params", "row"),
    [
        ("select $1", (-(2**63),), (-(2**63),)),
        ("select $1", (2**63 - 1,), (2**63 - 1,)),
        ("select $1", (True,), (1,)),
        ("select $1", (b"\0\xff",), (b"\0\xff",)),
        ("select $1", ("ä\n\N{SNOWMAN}",), ("ä\n\N{SNOWMAN}",)),
        ("select $1, $2", ("", b""), ("", b"")),
        ("select $1", (0.1,), (0.1,)),
        ("select $1::bigint, $2::bytea, $3::text", (None, None, None), (None, None, None)),
        ("select $2::double precision", (5, 2), (2.0,)),
        ("select ($1::bigint[])[2], ($2::bigint[])[1]", ("{4,5}", None), (5, None)),
        ("select $3", (None, b"not used", 3), (3,)),
        (
            "select 1::smallint, 2::int, 3::oid, 4::real, true, false",
            (),
            (1, 2, 3, 4.0, True, False),
        ),
        ("select current_user, 'x'::varchar, pg_sleep(0)", (), (USER, "x", None)),
        (
            "select '2026-02-03 04:05:06.000007+00'::timestamptz, '1999-12-31+00'::timestamptz",
            (),
            (
                datetime.datetime(2026, 2, 3, 4, 5, 6, 7, datetime.UTC),
                datetime.datetime(1999, 12, 31, tzinfo=datetime.UTC),
            ),
        ),
    ],
)
async def test_values_come_back_as_they_went(
    connect: Callable[..., Client],
    text: str,
    params: tuple[float | str | bytes | None],
    row: object,
) -> None:
    client = connect()
    assert client.query(text, params) == [row]
    for _ in range(2):
        assert await client.transact([(text, params)]) == [[row]]


async def test_parameters_of_one_text_may_change_their_types(client: Client) -> None:
    """SQLite's values have types of their own; a statement is prepared for each of them."""
    text = "select pg_typeof($1)::text, $1 is null"
    values = (1, "x", 1, b"x", 0.5, "y", 2)
    answers = await client.transact([(text, (value,)) for value in values])
    names = ("bigint", "text", "bigint", "bytea", "double precision", "text", "bigint")
    assert answers == [[(name, False)] for name in names]
    assert client.query("select count(*) from pg_prepared_statements") == [(4,)]


@pytest.mark.parametrize("count", [1, 100, 5000])
async def test_a_transaction_is_all_of_its_statements(client: Client, count: int) -> None:
    """What is sent and what is answered are larger than the buffers of the sockets."""
    data = b"x" * 200
    returning = f"{PUT} returning number, data"
    for _ in range(2):
        client.query("delete from item")
        answers = await client.transact([(returning, (n, data)) for n in range(count)])
        assert answers == [[(n, data)] for n in range(count)]
        assert client.query("select count(*), count(distinct xmin::text) from item") == [(count, 1)]
    # That of the transaction only: what is asked while blocking is not prepared.
    assert client.query("select count(*) from pg_prepared_statements") == [(1,)]


class Counting:
    """A connection that counts the statements that are handed to it."""

    def __init__(self, connection: PGconn) -> None:
        self._connection = connection
        self.sent_count = 0

    def __getattr__(self, name: str) -> object:
        self.sent_count += name == "send_query_prepared"
        return getattr(self._connection, name)


async def test_others_have_their_turns_while_a_large_transaction_is_sent(client: Client) -> None:
    counting = Counting(client._connection)
    client._connection = cast("PGconn", counting)
    seen = [0]

    async def look() -> None:
        while True:
            seen.append(counting.sent_count)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await client.transact([(PUT, (n, b"")) for n in range(2000)])
        nursery.cancel_scope.cancel()
    steps = [after - before for before, after in itertools.pairwise(seen)]
    assert sum(steps) == 2000
    # Which of two tasks goes first is chance each time.
    assert max(steps) <= 2 * client_module.STATEMENTS_PER_TURN


async def test_a_parameter_may_be_larger_than_all_buffers(client: Client) -> None:
    """The server has nothing to say before it has all of it."""
    large = os.urandom(1 << 20) * 16
    assert (await client.transact([(f"{PUT} returning data", (1, large))])) == [[(large,)]]


async def test_null_has_the_type_that_its_place_has(client: Client) -> None:
    text = "insert into item values ($1, $2) returning data"
    answers = await client.transact([(text, (1, None)), (text, (2, b"x"))])
    assert answers == [[(None,)], [(b"x",)]]
    # Where the statement says it, a value and NULL are one statement.
    await client.transact([(PUT, (3, None)), (PUT, (4, b"x"))])
    prepared = client.query("select statement from pg_prepared_statements")
    assert sorted(prepared) == sorted([(PUT,), (text,), (text,)])


@pytest.mark.parametrize("bad", [0, 150, 299])
async def test_an_error_in_the_middle_undoes_all_and_the_connection_goes_on(
    client: Client, bad: int
) -> None:
    """A statement that was to be prepared behind the error is prepared the next time."""
    statements: list[Statement] = [(PUT, (n, b"")) for n in range(300)]
    statements[bad] = ("insert into item values ($1, null), ($1, null)", (999,))
    statements.append(("select $1", (5,)))
    with pytest.raises(DatabaseError, match=r"duplicate key.*23505") as failure:
        await client.transact(statements)
    assert (failure.value.sqlstate, failure.value.index) == ("23505", bad)
    assert failure.value.statement == statements[bad][0]
    assert (client.is_usable, _count(client)) == (True, 0)
    del statements[bad]
    assert (await client.transact(statements))[-1] == [(5,)]
    assert _count(client) == 299


async def test_an_error_of_the_commit_is_one_of_the_transaction(client: Client) -> None:
    """A constraint that is checked at the commit is answered after all statements."""
    client.query("create table one (number bigint unique deferrable initially deferred)")
    put = ("insert into one values (1)", ())
    for _ in range(2):
        with pytest.raises(DatabaseError, match="23505") as failure:
            await client.transact([(PUT, (1, b"")), put, put])
        assert (failure.value.index, failure.value.statement) == (-1, "commit")
        assert (client.is_usable, _count(client)) == (True, 0)
    await client.transact([(PUT, (1, b"")), put])
    assert _count(client) == 1


@pytest.mark.parametrize(
    ("value", "sqlstate"), [(2**63, "22003"), ("\ud800", "22021"), ("a\0b", "22021")]
)
async def test_a_value_that_does_not_fit_undoes_all(
    client: Client, value: int | str, sqlstate: str
) -> None:
    with pytest.raises(DatabaseError) as failure:
        await client.transact([(PUT, (1, b"")), ("select $1", (value,))])
    assert failure.value.sqlstate == sqlstate
    assert (client.is_usable, _count(client)) == (True, 0)


async def test_types_that_have_no_place_are_told(client: Client) -> None:
    with pytest.raises(TypeError, match="a parameter is list"):
        await client.transact([(PUT, (1, b"")), ("select $1", ([1],))])  # type: ignore[list-item]
    assert _count(client) == 0
    with pytest.raises(TypeError, match=r"column sum has type 1700: cast it"):
        await client.transact([(PUT, (1, b"")), ("select sum(number) from item", ())])
    assert _count(client) == 1


async def test_copy_has_no_way_out_of_a_pipeline(client: Client) -> None:
    with pytest.raises(DisconnectedError, match="COPY_OUT"):
        await client.transact([("copy item to stdout", ())])
    assert not client.is_usable


async def test_more_statements_than_are_kept_are_run_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PREPARED_COUNT_MAX", 3)
    texts = [f"select {n} + $1" for n in range(6)]
    for _ in range(2):
        answers = await client.transact([(text, (1,)) for text in texts])
        assert answers == [[(n + 1,)] for n in range(6)]
    assert client.query("select count(*) from pg_prepared_statements") == [(3,)]


def test_a_schema_is_one_transaction_that_blocks(connect: Callable[..., Client]) -> None:
    client = connect()
    made = [("create table a (n int)", ()), ("insert into a values ($1)", (1,))]
    with pytest.raises(DatabaseError, match="42P01"):
        client.transact_blocking([*made, ("insert into b values ($1)", (1,))])
    assert client.query("select to_regclass('a')::text") == [(None,)]
    assert client.transact_blocking([*made, ("select n from a", ())])[2] == [(1,)]


# --- lost connections ----------------------------------------------------------------------------
async def test_a_session_that_was_ended_before_is_told(client: Client, postgres: Database) -> None:
    postgres.server.terminate(client.backend_pid)
    with pytest.raises(DisconnectedError, match="terminating connection due to administrator"):
        await client.transact([(PUT, (1, b""))])
    assert not client.is_usable
    for _ in range(2):
        with pytest.raises(DisconnectedError, match="given up: terminating connection"):
            await client.transact([(PUT, (1, b""))])


@pytest.mark.parametrize("count", [1, 3000])
async def test_a_session_that_is_ended_amid_a_transaction_is_told(
    client: Client, postgres: Database, count: int
) -> None:
    """The statements are run, and wait for a lock that another session holds.

    What the server said is lost where it had not read all.
    """
    with _locked(postgres):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_lost, client, count)
            pid = client.backend_pid
            await trio.to_thread.run_sync(_wait_until_blocked, postgres, pid)
            await trio.to_thread.run_sync(postgres.server.terminate, pid)
    assert postgres.execute("select count(*) from item") == [(0,)]


async def _lost(client: Client, count: int) -> None:
    with pytest.raises(DisconnectedError, match="is lost: "):
        await client.transact([(PUT, (n, b"x" * 1000)) for n in range(count)])


@contextlib.contextmanager
def _locked(postgres: Database) -> Iterator[None]:
    """Another session holds the table for the block."""
    import psycopg

    with psycopg.connect(postgres.server.url(postgres.name, "postgres")) as connection:
        connection.execute("lock table item")
        yield
        connection.rollback()


def _wait_until_blocked(postgres: Database, pid: int) -> None:
    text = "select wait_event_type from pg_stat_activity where pid = %s"
    wait_for(lambda: postgres.execute(text, pid) == [("Lock",)], "its session waits for no lock")


class Relay:
    """Stands between client and server, and can keep the server's answers to itself."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._target = port
        self.is_silent = False
        self.swallowed_count = 0
        """Bytes that the client did not get."""
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        self._sockets = [near, far]
        back = threading.Thread(target=self._carry, args=(far, near))
        back.start()
        self._carry(near, far)
        join(back)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.is_silent and source is self._sockets[1]:
                    self.swallowed_count += len(data)
                else:
                    sink.sendall(data)

    def close(self) -> None:
        """End both connections."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        join(self._thread)
        for each in (*self._sockets, self._listener):
            each.close()


async def test_a_commit_whose_answer_is_lost_is_not_told_as_undone(
    client: Client, connect: Callable[..., Client], postgres: Database
) -> None:
    relay = Relay(postgres.server.port)
    with contextlib.closing(relay):
        url = f"postgresql://{USER}@127.0.0.1:{relay.port}/{postgres.name}?sslmode=disable"
        beyond = connect(url)
        relay.is_silent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_lost, beyond, 10)
            await trio.to_thread.run_sync(wait_for, lambda: _count(client) == 10, "no commit")
            await trio.to_thread.run_sync(wait_for, lambda: relay.swallowed_count, "no answer")
            await trio.to_thread.run_sync(relay.close)
    assert _count(client) == 10


async def test_a_session_that_ends_after_its_answer_has_committed(
    client: Client, postgres: Database
) -> None:
    await client.transact([(PUT, (1, b""))])
    postgres.server.terminate(client.backend_pid)
    assert postgres.execute("select count(*) from item") == [(1,)]


async def test_a_server_that_stops_loses_nothing_that_was_answered(
    client: Client, connect: Callable[..., Client], postgres: Database
) -> None:
    await client.transact([(PUT, (1, b""))])
    postgres.server.restart(signal.SIGQUIT)
    with pytest.raises(DisconnectedError):
        await client.transact([(PUT, (2, b""))])
    after = connect()
    await after.transact([(PUT, (2, b""))])
    assert _count(after) == 2


async def test_a_server_that_does_not_answer_is_waited_for_as_long_as_it_may_take(
    client: Client, postgres: Database
) -> None:
    with postgres.server.stopped(client.backend_pid):
        with pytest.raises(DisconnectedError, match=r"did not answer in 0\.3 s"):
            await client.transact([(PUT, (1, b""))], SHORT_S)
        with pytest.raises(DisconnectedError, match=r"given up: .*did not answer"):
            await client.transact([(PUT, (1, b""))], SHORT_S)


async def test_a_server_that_reads_nothing_is_waited_for_as_long_as_it_may_take(
    client: Client, postgres: Database
) -> None:
    """The sockets are full before all is sent."""
    large = [(PUT, (n, bytes(1 << 16))) for n in range(200)]
    with (
        postgres.server.stopped(client.backend_pid),
        pytest.raises(DisconnectedError, match="did not answer"),
    ):
        await client.transact(large, SHORT_S)


def test_a_blocking_call_has_a_limit_as_well(client: Client, postgres: Database) -> None:
    with (
        postgres.server.stopped(client.backend_pid),
        pytest.raises(DisconnectedError, match=r"did not answer in 0\.3 s"),
    ):
        client.query("select 1", timeout_s=SHORT_S)
    assert not client.is_usable


async def test_a_cancelled_transaction_leaves_a_client_that_says_so(
    client: Client, postgres: Database
) -> None:
    with postgres.server.stopped(client.backend_pid), trio.move_on_after(SHORT_S) as scope:
        await client.transact([(PUT, (1, b""))])
    assert scope.cancelled_caught
    assert not client.is_usable
    assert "nobody waited for its answer" in repr(client)
    with pytest.raises(DisconnectedError, match="given up: nobody waited for its answer"):
        await client.transact([(PUT, (1, b""))])


async def test_a_client_that_another_task_closes_ends_what_waits(
    client: Client, postgres: Database
) -> None:
    """Nobody would tell who waits for a socket that it is gone."""
    with _locked(postgres):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_lost, client, 1)
            pid = client.backend_pid
            await trio.to_thread.run_sync(_wait_until_blocked, postgres, pid)
            client.close()
    with pytest.raises(DisconnectedError, match="given up: it was closed"):
        await client.transact([])


async def test_a_call_that_was_cancelled_before_it_began_costs_nothing(client: Client) -> None:
    with trio.move_on_after(0) as scope:
        await client.transact([(PUT, (1, b""))])
    assert scope.cancelled_caught
    await client.transact([(PUT, (1, b""))])
    assert _count(client) == 1


async def test_a_transaction_that_waits_for_a_lock_ends_with_its_client(
    client: Client, connect: Callable[..., Client], postgres: Database
) -> None:
    """It would be committed later, by surprise.

    PostgreSQL 13 looks once it has the lock: the session ends, perhaps with a commit.
    """
    waiting = connect()
    pid = waiting.backend_pid
    looks = client.server_version >= 140_000
    if looks:
        waiting.query("set client_connection_check_interval = '20ms'")

    def is_gone() -> bool:
        text = "select count(*) from pg_stat_activity where pid = %s"
        return postgres.execute(text, pid) == [(0,)]

    with _locked(postgres):
        with trio.move_on_after(SHORT_S):
            await waiting.transact([(PUT, (1, b""))])
        if looks:
            wait_for(is_gone, "its session is there")
    wait_for(is_gone, "its session is there")
    assert _count(client) == 0 or not looks


def test_a_commit_is_durable_whatever_the_role_has_by_default(
    connect: Callable[..., Client], postgres: Database
) -> None:
    def told() -> object:
        return connect().query("show synchronous_commit")[0][0]

    def set_for_all(value: str) -> None:
        postgres.execute(f"alter database {postgres.name} set synchronous_commit = {value}")

    assert told() == "on"
    set_for_all("off")
    assert told() == "on"
    set_for_all("remote_apply")
    assert told() == "remote_apply"


def test_the_server_looks_whether_a_client_is_still_there(connect: Callable[..., Client]) -> None:
    client = connect()
    [(told,)] = client.query("select current_setting('client_connection_check_interval', true)")
    assert told == ("10s" if client.server_version >= 140_000 else None)


# --- connecting ----------------------------------------------------------------------------------
def test_a_server_that_is_not_there_is_told_at_once(postgres: Database) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://memfs@127.0.0.1:{closed.getsockname()[1]}/names"
        with pytest.raises(
            DisconnectedError,
            match=r"^no connection to \S+@127.0.0.1:\d+/names: 127.0.0.1:\d+: Connection refused",
        ):
            Client.connect(Address.parse(url), WAIT_S)
    url = f"postgresql://memfs@/names?host={postgres.server.directory}/nowhere"
    with pytest.raises(DisconnectedError, match=r"nowhere:5432: No such file or directory"):
        Client.connect(Address.parse(url), WAIT_S)


def test_a_server_that_accepts_and_says_nothing_is_left_in_time(
    postgres: Database, connect: Callable[..., Client]
) -> None:
    """The next one has its share of the time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DisconnectedError, match=r"no answer in 0\.3 s"):
            Client.connect(Address.parse(f"postgresql://memfs@127.0.0.1:{port}/x"), SHORT_S)
        own = postgres.server.port
        url = f"postgresql://memfs@127.0.0.1:{port},127.0.0.1:{own}/{postgres.name}"
        assert connect(url, 4.0).query("select 1") == [(1,)]


def test_a_connection_that_fails_leaves_no_descriptor(postgres: Database) -> None:
    url = f"postgresql://memfs@/{postgres.name}?host={postgres.server.directory}&port=1"
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(DisconnectedError):
            Client.connect(Address.parse(url), WAIT_S)
    with pytest.raises(DisconnectedError, match='"nobody" does not exist'):
        Client.connect(Address.parse(postgres.server.url(postgres.name, "nobody")), WAIT_S)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_server_that_takes_no_changes_is_passed_over(
    postgres: Database, connect: Callable[..., Client]
) -> None:
    postgres.execute(f"alter database {postgres.name} set default_transaction_read_only = on")
    with pytest.raises(DisconnectedError, match="session is read-only"):
        connect()


def test_passwords_are_taken_from_a_password_file_a_service_and_a_credential(
    postgres: Database,
    connect: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    url = postgres.tcp_url(GUARDED)
    with pytest.raises(DisconnectedError, match="no password supplied"):
        connect(url)
    passwords = tmp_path / "passwords"
    passwords.write_text(f"127.0.0.1:*:*:{GUARDED}:{PASSWORD}\n")
    passwords.chmod(0o600)
    asked = "select current_user::text"
    assert connect(f"{url}?passfile={passwords}").query(asked) == [(GUARDED,)]
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    assert connect(url).query(asked) == [(GUARDED,)]
    monkeypatch.delenv("PGPASSFILE")

    services = tmp_path / "services"
    services.write_text(
        f"[names]\nhost=127.0.0.1\nport={postgres.server.port}\nuser={GUARDED}\n"
        f"password={PASSWORD}\ndbname={postgres.name}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    by_service = connect("postgresql://?service=names")
    assert by_service.query(asked) == [(GUARDED,)]
    assert PASSWORD not in repr(by_service)

    (tmp_path / "pg").write_text(PASSWORD)
    address = Address.parse(
        f"{url}?password=credential:pg", {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    )
    with contextlib.closing(Client.connect(address, WAIT_S)) as client:
        assert client.query(asked) == [(GUARDED,)]
    (tmp_path / "pg").write_text("wrong-secret")
    with pytest.raises(DisconnectedError, match="password authentication failed") as refusal:
        Client.connect(address, WAIT_S)
    assert "wrong-secret" not in str(refusal.value)


@pytest.fixture
def _password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(f"*:*:*:*:{PASSWORD}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))


ASK_TLS = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"


@pytest.mark.usefixtures("_password")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_tls_with_a_certificate_that_is_checked(
    postgres: Database, connect: Callable[..., Client], host: str
) -> None:
    certificate = str(postgres.server.certificate)
    url = postgres.tcp_url(ONLY_TLS, host, sslmode="verify-full", sslrootcert=certificate)
    client = connect(url)
    assert client.query(ASK_TLS) == [(True,)]
    client.query("create temporary table item (number bigint, data bytea)")
    large = [(f"{PUT} returning data", (n, bytes(50_000))) for n in range(100)]
    assert await client.transact(large) == [[(bytes(50_000),)]] * 100


@pytest.mark.usefixtures("_password")
def test_a_certificate_of_another_is_refused(
    postgres: Database, connect: Callable[..., Client], tmp_path: Path
) -> None:
    from tests.servers.postgresql import self_signed

    other = tmp_path / "other.crt"
    other.write_bytes(self_signed()[0])
    url = postgres.tcp_url(ONLY_TLS, sslmode="verify-full", sslrootcert=str(other))
    with pytest.raises(DisconnectedError, match="certificate verify failed"):
        connect(url)


@pytest.mark.usefixtures("_password")
@pytest.mark.parametrize("user", [GUARDED, CLEAR, ONLY_TLS])
def test_over_a_network_tls_is_taken_where_the_server_has_it(
    postgres: Database,
    connect: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    user: str,
) -> None:
    monkeypatch.setattr(address_module, "is_private", lambda *_: False)
    assert connect(postgres.tcp_url(user)).query(ASK_TLS) == [(True,)]


@pytest.mark.usefixtures("_password")
def test_on_this_machine_a_password_may_go_without_tls(
    postgres: Database, connect: Callable[..., Client]
) -> None:
    assert connect(postgres.tcp_url(CLEAR, sslmode="disable")).query(ASK_TLS) == [(False,)]


@pytest.mark.usefixtures("_password")
@pytest.mark.parametrize("user", [GUARDED, CLEAR])
def test_over_a_network_no_password_goes_without_tls(
    postgres: Database,
    connect: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    user: str,
) -> None:
    monkeypatch.setattr(address_module, "is_private", lambda *_: False)
    with pytest.raises(DisconnectedError, match="sends no password over a network without TLS"):
        connect(postgres.tcp_url(user, sslmode="disable"))
    # A server that asks for no password is another matter.
    assert connect(postgres.tcp_url(sslmode="disable")).query(ASK_TLS) == [(False,)]


@pytest.mark.usefixtures("_password")
@pytest.mark.parametrize("asked", [3, 5, 10], ids=["clear", "md5", "scram"])
def test_a_server_without_tls_that_asks_for_a_password_learns_nothing(
    monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """What a listener between, who says that there is no TLS, would be."""
    monkeypatch.setattr(address_module, "is_private", lambda *_: False)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_pretend, args=(listener, asked, heard))
        thread.start()
        url = f"postgresql://memfs@127.0.0.1:{listener.getsockname()[1]}/names"
        with pytest.raises(DisconnectedError, match="sends no password over a network"):
            Client.connect(Address.parse(url), WAIT_S)
        join(thread)
    # The wish for TLS, and at the second time who it is and nothing after that.
    assert [len(each) for each in heard[:1]] == [8]
    assert heard[1].count(b"memfs\0") == 2
    assert len(heard) == 2
    assert PASSWORD.encode() not in b"".join(heard)


def _pretend(listener: socket.socket, asked: int, heard: list[bytes]) -> None:
    """Be a server without TLS; protocol 3.0 of PostgreSQL."""
    salt = {3: b"", 5: b"salt", 10: b"SCRAM-SHA-256\0\0"}[asked]
    with contextlib.closing(listener.accept()[0]) as first:
        heard.append(first.recv(1000))
        first.sendall(b"N")
        assert first.recv(1000) == b""
    with contextlib.closing(listener.accept()[0]) as second:
        heard.append(second.recv(1000))
        body = asked.to_bytes(4, "big") + salt
        second.sendall(b"R" + (len(body) + 4).to_bytes(4, "big") + body)
        while said := second.recv(1000):
            heard.append(said)
