"""Starts of nodes that read, with a real server: the first one, further ones, and those refused."""

from __future__ import annotations

import random
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import BehindError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.shared.reader_engine import ReaderEngine, ReaderSettings
from memfs.types import ROOT_INODE, FormKind
from tests.contract.engine.making import (
    NOW_NS,
    hydrate,
    make_directory,
    make_file,
    make_sealed,
    names_in,
    publish,
)
from tests.contract.engine.postgres_site import MountDatabase
from tests.contract.engine.replica import without_own
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, run
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.shared.applying import Effects
    from tests.servers.postgresql import Database


@pytest.fixture
def mount(postgres: Database) -> Iterator[MountDatabase]:
    made = MountDatabase(postgres)
    yield made
    made.client.close()


@pytest.fixture
def writer(tmp_path: Path, mount: MountDatabase) -> Iterator[SharedEngine]:
    made = SharedEngine.join(
        tmp_path / "writer",
        CONFIG,
        mount.connector,
        NodeSettings("w", WAIT_S),
        now_ns=BIRTH_NS,
        limits=SMALL,
        rng=random.Random(1),
    )
    yield made
    made.close()


def start(state_dir: Path, mount: MountDatabase, name: str = "r") -> ReaderEngine:
    return ReaderEngine.join(
        state_dir,
        CONFIG,
        mount.connector,
        ReaderSettings(name, WAIT_S),
        limits=SMALL,
        rng=random.Random(2),
    )


@contextmanager
def started(state_dir: Path, mount: MountDatabase, name: str = "r") -> Iterator[ReaderEngine]:
    engine = start(state_dir, mount, name)
    try:
        yield engine
    finally:
        engine.close()


def send(writer: SharedEngine) -> None:
    """Have the database get what the writer has changed."""
    writer.commit_nowait()
    writer._send_left()
    assert writer._outbox.count == 0


def compare(engine: ReaderEngine, mount: MountDatabase) -> None:
    assert_same(
        without_own(local_tables(engine._rows), ()), without_own(shared_tables(mount.client), ())
    )
    assert engine.check() == []


def test_a_new_reader_has_all_names_and_a_former_one_follows(
    tmp_path: Path, mount: MountDatabase, writer: SharedEngine
) -> None:
    directory = run(make_directory(writer, b"d"))
    inode = run(make_sealed(writer, b"f", directory.ino, 700))
    assert run(publish(writer, inode, FormKind.REMOTE))
    run(writer.set_xattr(inode.ino, b"user.a", b"[1]", 0, NOW_NS))
    run(writer.create_snapshot("s", NOW_NS, "", [], None))
    run(writer.unlink(directory.ino, b"f", NOW_NS))
    send(writer)
    with started(tmp_path / "r", mount) as engine:
        compare(engine, mount)
        assert engine.writer_state_id == writer.state_id
        assert engine.log.applied == engine.read_applied() > 0
    run(make_file(writer, b"g"))
    send(writer)
    with started(tmp_path / "r", mount) as engine:
        compare(engine, mount)
        assert run(names_in(engine)) == [b"d", b"g"]
    [node] = mount.client.query("select name, state, applied from node where role = 'reader'")
    assert node[:2] == ("r", "live")


async def test_a_reader_follows_while_it_runs(
    tmp_path: Path, mount: MountDatabase, writer: SharedEngine, nursery: trio.Nursery
) -> None:
    nursery.start_soon(writer.writer.run)
    engine = await trio.to_thread.run_sync(start, tmp_path / "r", mount)
    try:
        nursery.start_soon(engine.log.run)
        told: list[Effects] = []
        engine.log.tell = told.append
        for number in range(30):
            await make_sealed(writer, b"%d" % number)
            await writer.commit()
            # What the writer has answered is seen by what begins here afterwards.
            await engine.log.barrier()
            found = await engine.lookup(ROOT_INODE, b"%d" % number)
            assert found.size > 0
        compare(engine, mount)
        assert sum(len(effects.made) for effects in told) == 30
        # Connections end, and nothing is missed.
        mount.client.query(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid <> pg_backend_pid() and datname = current_database()"
        )
        await make_file(writer, b"after")
        await writer.commit()
        await engine.log.barrier()
        assert await engine.lookup(ROOT_INODE, b"after")
    finally:
        engine.close()


def test_a_reader_whose_changes_are_gone_reads_all_names_anew(
    tmp_path: Path, mount: MountDatabase, writer: SharedEngine
) -> None:
    inode = run(make_sealed(writer, b"f", size=700))
    assert run(publish(writer, inode, FormKind.REMOTE))
    send(writer)
    with started(tmp_path / "r", mount) as engine:
        assert run(hydrate(engine, run(engine.get_inode(inode.ino))))
        engine.commit_nowait()
    run(writer.unlink(ROOT_INODE, b"f", NOW_NS))
    run(make_sealed(writer, b"g"))
    send(writer)
    mount.client.query("delete from change")
    mount.client.query("update node set state = 'behind' where role = 'reader'")
    with started(tmp_path / "r", mount) as engine:
        compare(engine, mount)
        assert run(names_in(engine)) == [b"g"]
        # What was a raw file of the former names is known as garbage.
        assert [item.kind for item in run(engine.list_garbage(9))] == [FormKind.RAW]
        assert mount.client.query("select state from node where role = 'reader'") == [("live",)]


async def test_a_copy_of_a_readers_directory_is_told_from_it(
    tmp_path: Path, mount: MountDatabase, writer: SharedEngine, nursery: trio.Nursery
) -> None:
    await make_file(writer, b"f")
    await trio.to_thread.run_sync(send, writer)
    (await trio.to_thread.run_sync(start, tmp_path / "r", mount)).close()
    shutil.copytree(tmp_path / "r", tmp_path / "copy")
    engine = await trio.to_thread.run_sync(start, tmp_path / "r", mount)
    try:
        nursery.start_soon(engine.log.run)
        await engine.log.barrier()
        with pytest.raises(UsageError, match="a copy of this state directory") as caught:
            await trio.to_thread.run_sync(start, tmp_path / "copy", mount)
        assert caught.value.exit_code == ExitCode.STATE_UNUSABLE
        await engine.log.barrier()
        mount.client.query("update node set epoch = epoch + 1 where role = 'reader'")
        with pytest.raises(BehindError, match="another process has taken the place of node r"):
            await engine.log.barrier()
    finally:
        engine.close()


def test_starts_that_cannot_be_are_refused(
    tmp_path: Path, mount: MountDatabase, postgres: Database
) -> None:
    """And leave no trace in the database."""
    with pytest.raises(UsageError, match="no node has written this mount yet"):
        start(tmp_path / "r", mount)
    assert not (tmp_path / "r").exists()
    writer = SharedEngine.join(
        tmp_path / "writer", CONFIG, mount.connector, NodeSettings("w", WAIT_S), limits=SMALL
    )
    writer.close()
    with pytest.raises(UsageError, match="belongs to the node that writes"):
        start(tmp_path / "writer", mount)
    start(tmp_path / "r", mount).close()
    with pytest.raises(UsageError, match=r"(?i)reads|role"):
        SharedEngine.join(
            tmp_path / "r", CONFIG, mount.connector, NodeSettings("w", WAIT_S), limits=SMALL
        )
    with pytest.raises(UsageError, match="r"):
        start(tmp_path / "other", mount, "r")
    ((count,),) = mount.client.query("select count(*) from node")
    assert count == 2
    # Nothing has changed.
    with started(tmp_path / "r", mount) as engine:
        compare(engine, mount)
