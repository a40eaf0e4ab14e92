"""A node that is killed while the server has a group under way: the next start waits for it."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.metadata.shared.client import Client
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.sqlite.engine import SqliteEngine
from tests.contract.engine.making import make_file
from tests.contract.engine.postgres_site import MountDatabase
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.shared.connector import PostgresConnector
    from tests.servers.postgresql import Database


@pytest.fixture
def mount(postgres: Database) -> Iterator[MountDatabase]:
    made = MountDatabase(postgres)
    yield made
    made.client.close()


def start(state_dir: Path, connector: PostgresConnector) -> SharedEngine:
    return SharedEngine.join(
        state_dir,
        CONFIG,
        connector,
        NodeSettings("a", WAIT_S),
        now_ns=BIRTH_NS,
        limits=SMALL,
        rng=random.Random(1),
    )


def compare(engine: SharedEngine, mount: MountDatabase) -> None:
    assert_same(local_tables(engine._rows), shared_tables(mount.client))


async def test_group_under_way_when_the_node_is_killed(
    tmp_path: Path, mount: MountDatabase, postgres: Database
) -> None:
    """The next start waits for it, and is told that it is committed."""
    engine = start(tmp_path / "state", mount.connector)
    await make_file(engine, b"a")
    engine.commit_nowait()
    # Another session holds a row that the group needs.
    blocker = Client.connect(mount.address, WAIT_S)
    with contextlib.closing(blocker):
        blocker.query("select pg_advisory_lock(1)")
        session = engine.writer._session
        assert session is not None
        statements = engine.writer._group(engine._outbox.first(10, 1 << 20), 1)
        statements.insert(1, ("select pg_advisory_lock(1)", ()))
        with trio.move_on_after(0.2) as scope:
            await session.transact(statements, WAIT_S)
        assert scope.cancelled_caught
        # Its client is gone, and it is not.
        starts: list[SharedEngine] = []
        engine.writer.close()
        SqliteEngine.close(engine)

        def waits_for_row() -> bool:
            text = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and %s"
            found = postgres.execute(text % "query like 'update node%'")
            return bool(found[0][0])

        async def start_again() -> None:
            joined = await trio.to_thread.run_sync(start, tmp_path / "state", mount.connector)
            starts.append(joined)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_again)
            await trio.to_thread.run_sync(wait_for, waits_for_row, "it waits for the group")
            blocker.query("select pg_advisory_unlock(1)")
    (again,) = starts
    assert again._outbox.confirmed in (0, 1)
    again._send_left()
    compare(again, mount)
    ((seq,),) = mount.client.query("select seq from node")
    assert seq == 1
    again.close()
