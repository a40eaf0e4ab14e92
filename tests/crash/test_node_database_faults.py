"""A node under load whose database restarts, loses sessions, or whose answers get lost.

Each change that was answered is in the database at that time. In the end both have the same rows of
all shared tables: nothing is lost, nothing is there twice.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
import trio.testing

from memfs.errors import MemfsError
from memfs.metadata.shared import node_table, schema
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.connector import PostgresConnector
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.types import ROOT_INODE
from tests.contract.engine.making import NOW_NS, make_directory, make_file, seal
from tests.contract.engine.site import CONFIG, SMALL
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.servers.postgresql import running_postgresql
from tests.servers.relay import relaying
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from memfs.types import InodeNo
    from tests.servers.postgresql import Database, PostgresServer

STORE = "file:///objects"
CLIENT_COUNT = 6
_FAULT_COUNT = 12
_LOOK_EACH = 7
"""So many changes are answered between two looks whether the database has the last one."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One of this module's own, since it restarts."""
    with running_postgresql() as running:
        yield running


@pytest.fixture
def database(server: PostgresServer) -> Iterator[Database]:
    """Has a mount."""
    with server.database() as made:
        client = Client.connect(Address.parse(made.url), WAIT_S)
        with contextlib.closing(client):
            schema.create(client, "the database", STORE, "0")
        yield made


class Load:
    """Clients that change a mount at the same time, each in a directory of its own.

    Args:
        engine: That of the mount.
        database: Has it as well.
    """

    def __init__(self, engine: SharedEngine, database: Database) -> None:
        self._engine = engine
        self._database = database
        self.answered_count = 0
        """Changes that were answered."""
        self._is_over = False
        self._answered = trio.Event()

    async def run(self, inject: Callable[[Load], Awaitable[None]]) -> None:
        """Make changes until some faults were injected and all of it is answered."""
        engine = self._engine
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.writer.run)
            # Without a writer nobody waits for the database.
            await trio.testing.wait_all_tasks_blocked()
            assert engine._outbox.server is not None
            async with trio.open_nursery() as clients:
                for number in range(CLIENT_COUNT):
                    clients.start_soon(self._work, number)
                await inject(self)
                self._is_over = True
            await engine.commit()
            nursery.cancel_scope.cancel()

    async def go_on(self, count: int) -> None:
        """Return once so many more changes were answered."""
        wanted = self.answered_count + count
        with trio.fail_after(WAIT_S):
            while self.answered_count < wanted:
                self._answered = trio.Event()
                await self._answered.wait()

    async def _work(self, number: int) -> None:
        engine = self._engine
        async with engine.change():
            directory = (await make_directory(engine, b"d%d" % number)).ino
        await engine.commit()
        names: list[bytes] = []
        for turn in itertools.count():
            if self._is_over:
                return
            await self._change(directory, turn, names)
            # Only then a program is answered.
            await engine.commit()
            self.answered_count += 1
            self._answered.set()
            if turn % _LOOK_EACH == 0:
                await self._look(directory, names[-1])

    async def _change(self, directory: InodeNo, turn: int, names: list[bytes]) -> None:
        """Make a change; the last one of the names is there after it."""
        engine, name = self._engine, b"f%d" % turn
        async with engine.change():
            inode = await make_file(engine, name, directory)
            if turn % 2:
                await seal(engine, inode, turn)
            if turn % 3 == 0:
                await engine.set_xattr(inode.ino, b"user.turn", b"%d" % turn, 0, NOW_NS)
            if turn % 5 == 0:
                between, after = b"%d-%d" % (directory, turn), b"moved-%d" % turn
                await engine.rename(directory, name, ROOT_INODE, between, 0, NOW_NS)
                await engine.rename(ROOT_INODE, between, directory, after, 0, NOW_NS)
                name = after
            names.append(name)
            if turn % 4 == 3:
                gone = await engine.unlink(directory, names.pop(0), NOW_NS)
                await engine.reap([gone.ino])

    async def _look(self, directory: InodeNo, name: bytes) -> None:
        """See that the database has a name that was answered, once it can be asked."""
        query = "select count(*) from dentry where parent = %s and name = %s"
        ask = partial(self._database.execute, query, directory, name)
        with trio.fail_after(WAIT_S):
            while True:
                try:
                    rows = await trio.to_thread.run_sync(ask)
                except psycopg.Error:
                    await trio.sleep(0.1)
                else:
                    assert rows == [(1,)], f"{name!r} was answered, and is not there"
                    return


def _live(
    root: Path, database: Database, url: str, inject: Callable[[Load], Awaitable[None]]
) -> int:
    """Run a load with faults, and compare; returns how many changes were answered."""
    engine = SharedEngine.join(
        root / "state",
        CONFIG,
        PostgresConnector(Address.parse(url), STORE, WAIT_S),
        NodeSettings("a", WAIT_S),
        now_ns=1,
        limits=SMALL,
        rng=random.Random(1),
    )
    load = Load(engine, database)
    try:
        trio.run(load.run, inject)
        client = Client.connect(Address.parse(database.url), WAIT_S)
        with contextlib.closing(client):
            assert_same(local_tables(engine._rows), shared_tables(client))
            node = node_table.find_writer(client)
            assert node is not None
            assert node.seq == engine._outbox.number
        assert engine.check() == []
    finally:
        with contextlib.suppress(MemfsError):
            engine.close()
    return load.answered_count


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_that_restarts_loses_and_doubles_nothing(
    tmp_path: Path, database: Database, number: signal.Signals
) -> None:
    """In order, at once, and by a crash, each time amid changes."""

    async def restart(load: Load) -> None:
        for _ in range(2):
            await load.go_on(40)
            await trio.to_thread.run_sync(database.server.restart, number)
        await load.go_on(40)

    assert _live(tmp_path, database, database.tcp_url(), restart) >= 120


def test_sessions_that_are_terminated_lose_and_double_nothing(
    tmp_path: Path, database: Database
) -> None:
    """At any time of a group: before, amid and after its commit."""
    rng = random.Random(2)
    terminate = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where usename = 'memfs' and datname = current_database()"
    )

    async def end_sessions(load: Load) -> None:
        for _ in range(_FAULT_COUNT):
            await load.go_on(rng.randrange(1, 12))
            await trio.to_thread.run_sync(database.execute, terminate)
        await load.go_on(10)

    _live(tmp_path, database, database.url, end_sessions)


def test_answers_that_are_lost_lose_and_double_nothing(tmp_path: Path, database: Database) -> None:
    """The database has committed, and nobody here knows."""
    rng = random.Random(3)

    with relaying(database.server.port) as relay:

        async def lose_answers(load: Load) -> None:
            for _ in range(_FAULT_COUNT):
                await load.go_on(rng.randrange(1, 12))
                await trio.to_thread.run_sync(relay.lose_an_answer)
            await load.go_on(10)

        url = database.tcp_url().replace(f":{database.server.port}/", f":{relay.port}/")
        _live(tmp_path, database, url, lose_answers)
        assert relay.lost_count == _FAULT_COUNT
