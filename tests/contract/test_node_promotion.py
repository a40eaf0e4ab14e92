"""A node that reads takes over from the one that writes, with a real server."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.content.file_syncs import REFUSED_SETTING
from memfs.errors import MetadataError, UnconfirmedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import node_table
from memfs.metadata.shared.engine import SharedEngine
from memfs.metadata.shared.writer import EPOCH_STEP_MAX
from memfs.metadata.sqlite.lease import FIRST_READER_ID
from memfs.moves import rechecking
from memfs.moves.faults import PROMOTE_POINTS
from memfs.types import ROOT_INODE, FormKind
from tests.contract.engine.making import (
    NOW_NS,
    hydrate,
    make_file,
    make_sealed,
    names_in,
    publish,
)
from tests.contract.engine.postgres_site import MountDatabase
from tests.contract.engine.replica import without_own
from tests.contract.engine.scene import Scene, send
from tests.contract.engine.site import run
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.killed import Killed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.shared.engine import SharedEngine
    from tests.servers.postgresql import Database

LOST = ["open", "d/only here"]
"""Files whose bytes the first writer has alone."""


@pytest.fixture
def scene(tmp_path: Path, postgres: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(node_table, "SILENT_S", 0.0)
    mount = MountDatabase(postgres)
    made = Scene(tmp_path, mount)
    yield made
    made.writer.close()
    mount.client.close()


def compare(engine: SharedEngine, scene: Scene) -> None:
    """See that the database has just what this node has."""
    send(engine)
    assert_same(local_tables(engine._rows), shared_tables(scene.mount.client))


def test_a_reader_writes_on_where_the_writer_has_ended(scene: Scene) -> None:
    ino = scene.fill()
    with_raw = scene.read("r")
    assert run(hydrate(with_raw, run(with_raw.get_inode(ino))))
    with_raw.commit_nowait()
    raw = run(with_raw.get_inode(ino)).raw
    assert raw >= FIRST_READER_ID
    with_raw.close()
    scene.read("other").close()
    identity = scene.writer.state_id
    highest = scene.writer._lease.next_id
    run(make_file(scene.writer, b"late"))
    run(scene.writer.set_xattr(ino, b"user.b", b"2", 0, NOW_NS))
    send(scene.writer)
    scene.writer.close()

    with pytest.raises(UsageError, match="3 files would be lost, of which node w") as caught:
        scene.promote("r")
    assert caught.value.exit_code == ExitCode.BUSY
    loss = scene.promote("r", accept_loss=True)
    assert (loss.file_count, loss.size_bytes, loss.open_count) == (3, 50, 2)
    assert {*loss.paths} == {*LOST, "late"}

    engine = scene.write("r")
    compare(engine, scene)
    assert engine.state_id == engine.object_state_id == identity
    assert run(names_in(engine)) == [b"d", b"open", b"late"]
    assert run(engine.get_inode(ino)).raw == raw
    assert run(engine.get_setting("generation")) == b"some mark"
    assert [item.kind for item in run(engine.list_garbage(9))] == [FormKind.REMOTE]
    assert run(engine.list_unsealed(ROOT_INODE, 9)) == []
    made = run(make_sealed(engine, b"new"))
    assert highest + (1 << 31) < made.ino < FIRST_READER_ID >> 1
    assert run(engine.drop_raw(ino, run(engine.get_inode(ino)).generation))
    compare(engine, scene)
    # What is not here is told, and nothing else.
    assert all("bytes" in each or "has no form" in each for each in engine.check())
    engine.close()

    # Others follow, and the same node comes back as any other.
    other = scene.read("other")
    here, there = local_tables(other._rows), shared_tables(scene.mount.client)
    assert_same(without_own(here, ()), without_own(there, ()))
    assert b"new" in run(names_in(other))
    other.close()
    engine = scene.write("r")
    compare(engine, scene)
    assert engine.state_id == identity
    engine.close()
    nodes = node_table.list_nodes(scene.mount.client, "db")
    assert [each[:3] for each in nodes] == [("r", "writer", "live"), ("other", "reader", "live")]


def test_who_was_replaced_changes_nothing_any_more(scene: Scene) -> None:
    """Nor is its state directory, or that of the node which has read, mounted as before."""
    scene.fill()
    scene.read("r").close()
    scene.promote("r", accept_loss=True)
    before = shared_tables(scene.mount.client)
    run(make_file(scene.writer, b"in vain"))
    scene.writer.commit_nowait()

    async def send_in_vain() -> None:
        with pytest.raises(MetadataError, match="node r writes in the place of node w"):
            await scene.writer.writer.send_all()

    trio.run(send_in_vain)
    assert_same(before, shared_tables(scene.mount.client))
    scene.writer.close()
    scene.write("r").close()
    with pytest.raises(UsageError, match=r"node r writes in the place of this state directory"):
        scene.write("w")
    assert scene.mount.client.query("select name from node where role = 'writer'") == [("r",)]
    with pytest.raises(UsageError, match="belongs to the node that writes"):
        scene.read("r")


def test_a_start_as_the_writer_needs_an_offer(scene: Scene) -> None:
    scene.read("r").close()
    with pytest.raises(UsageError, match="have this one take over, by `memfs node promote r`"):
        scene.write("r")
    scene.read("r").close()
    for name in ("w", "nobody"):
        with pytest.raises(UsageError, match=f"node {name}"):
            scene.promote(name)
    # Another node is offered it meanwhile.
    scene.read("s").close()
    scene.promote("r")
    scene.promote("s")
    with pytest.raises(UsageError, match="memfs node promote r"):
        scene.write("r")
    scene.write("s").close()


def test_a_writer_that_is_heard_of_is_not_replaced(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    scene.read("r").close()
    with pytest.raises(UsageError, match="unmount it there first") as caught:
        node_table.promote(scene.mount.client, "db", "r", accept_loss=True, rng=random.Random(1))
    assert caught.value.exit_code == ExitCode.BUSY
    run(make_file(scene.writer, b"f"))
    send(scene.writer)


def test_nodes_take_turns(scene: Scene) -> None:
    """Each one goes on with numbers that no former one has handed out."""
    scene.writer.close()
    highest = 0
    for name in ("a", "b", "c"):
        reader = scene.read(name)
        reader.close()
        scene.promote(name, accept_loss=True)
        engine = scene.write(name)
        made = run(make_sealed(engine, name.encode()))
        assert made.ino > highest + (1 << 31) * bool(highest)
        highest = made.ino
        compare(engine, scene)
        assert run(publish(engine, made, FormKind.REMOTE))
        assert engine.check() == []
        engine.close()
    reader = scene.read("last")
    assert run(names_in(reader)) == [b"a", b"b", b"c"]
    reader.close()


def test_a_reader_that_was_behind_reads_all_tables_before(scene: Scene) -> None:
    scene.read("r").close()
    scene.fill()
    scene.mount.client.query("delete from change")
    scene.mount.client.query("update node set state = 'behind' where role = 'reader'")
    scene.promote("r", accept_loss=True)
    engine = scene.write("r")
    compare(engine, scene)
    assert run(names_in(engine)) == [b"d", b"open"]
    engine.close()


@pytest.mark.parametrize("point", ["reader.taken", *PROMOTE_POINTS, "node.taken"])
def test_a_node_that_is_killed_as_it_takes_over_goes_on(scene: Scene, point: str) -> None:
    """From the files that it has left, each time anew."""
    ino = scene.fill()
    reader = scene.read("r")
    assert run(hydrate(reader, run(reader.get_inode(ino))))
    reader.commit_nowait()
    assert run(reader.drop_raw(ino, run(reader.get_inode(ino)).generation))
    reader.commit_nowait()
    reader.close()
    scene.promote("r", accept_loss=True)
    left = scene.root / "left"
    points: list[str] = []

    def reach(reached: str) -> None:
        points.append(reached)
        if reached == point and not left.exists():
            shutil.copytree(scene.root / "r", left)
            raise Killed

    with pytest.raises(Killed):
        scene.write("r", reach)
    shutil.rmtree(scene.root / "r")
    left.rename(scene.root / "r")
    left.mkdir()
    engine = scene.write("r", reach)
    compare(engine, scene)
    assert run(engine.list_unsealed(ROOT_INODE, 9)) == []
    kinds = sorted(item.kind for item in run(engine.list_garbage(9)))
    assert kinds == [FormKind.RAW, FormKind.REMOTE]
    assert run(make_file(engine, b"new")).ino < FIRST_READER_ID >> 1
    compare(engine, scene)
    engine.close()
    scene.write("r").close()
    # One state directory at most has the place.
    assert {*PROMOTE_POINTS} <= {*points}


def test_who_takes_over_while_another_one_is_promoted_does_not_write(scene: Scene) -> None:
    """The row is looked at again before the tables become a writer's."""
    scene.fill()
    scene.read("r").close()
    scene.read("s").close()
    scene.promote("r", accept_loss=True)

    def reach(point: str) -> None:
        if point == "promote.taken":
            scene.promote("s", accept_loss=True)

    with pytest.raises(UsageError, match="another node is to write since"):
        scene.write("r", reach)
    engine = scene.write("s")
    compare(engine, scene)
    engine.close()
    with pytest.raises(UsageError, match="node s writes"):
        scene.write("r")


@pytest.mark.parametrize("point", ["promote.taken", "promote.marked", "promote.changed"])
def test_tables_that_are_taking_over_are_no_readers(scene: Scene, point: str) -> None:
    """Whatever they were killed in: what a reader writes there would be sent as changes."""
    scene.fill()
    scene.read("r").close()
    scene.promote("r", accept_loss=True)

    def reach(reached: str) -> None:
        if reached == point:
            raise Killed

    with pytest.raises(Killed):
        scene.write("r", reach)
    with pytest.raises(UsageError, match=r"role = .writer.|with nodes.role=.writer.|that writes"):
        scene.read("r")
    engine = scene.write("r")
    compare(engine, scene)
    engine.close()


def test_what_the_former_machine_knew_of_its_disk_goes(scene: Scene) -> None:
    """The heir looks at the raw files that it has fetched itself."""
    scene.fill()
    for name in (rechecking.SETTING, rechecking.CLEAN_SETTING, REFUSED_SETTING):
        run(scene.writer.put_setting(name, b"drained"))
    send(scene.writer)
    reader = scene.read("r")
    reader._lease.close(clean=False)
    reader.close()
    scene.promote("r", accept_loss=True)
    engine = scene.write("r")
    assert run(engine.get_setting(rechecking.SETTING)) == rechecking.FETCHED
    for name in (rechecking.CLEAN_SETTING, REFUSED_SETTING):
        assert run(engine.get_setting(name)) is None
    assert run(engine.get_setting("generation")) == b"some mark"
    compare(engine, scene)
    # Raw files that the reader may have made without a record are still looked for.
    start, end = engine.unrecorded_raw_range()
    assert FIRST_READER_ID <= start < end
    engine.close()


def test_former_contents_that_a_snapshot_would_lose_are_told(scene: Scene) -> None:
    writer = scene.writer
    inode = run(make_sealed(writer, b"f"))
    run(writer.create_snapshot("s", NOW_NS, "", [], None))
    run(writer.unlink(ROOT_INODE, b"f", NOW_NS))
    run(writer.reap([inode.ino]))
    send(writer)
    scene.read("r").close()
    before = writer.writer.report().epoch
    with pytest.raises(UsageError, match="would lose 1 former content of files, which node w"):
        scene.promote("r")
    loss = scene.promote("r", accept_loss=True)
    assert (loss.file_count, loss.kept_count) == (0, 1)
    # No epoch is beyond that the former writer may have been about to take.
    [(epoch,)] = scene.mount.client.query("select epoch from node where role = 'writer'")
    assert epoch > before + EPOCH_STEP_MAX


def test_a_writer_that_has_ended_in_order_is_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it begins again, or if its changes did not come to the database."""
    monkeypatch.setattr(node_table, "SILENT_S", 1e6)
    client = scene.mount.client
    scene.read("r").close()

    def refuse() -> None:
        [writer, _] = node_table.list_nodes(client, "db")
        assert not writer.has_ended
        with pytest.raises(UsageError, match="unmount it there first"):
            scene.promote("r")

    refuse()
    scene.writer.close()
    [writer, reader] = node_table.list_nodes(client, "db")
    assert (writer.has_ended, reader.has_ended) == (True, False)
    scene.writer = scene.write("w")
    refuse()
    scene.writer.close()
    node_table.await_silence(client, "db", pytest.fail)
    scene.promote("r")
    scene.write("r").close()


def test_a_writer_that_ends_with_changes_left_is_waited_for(scene: Scene) -> None:
    scene.read("r").close()
    scene.promote("r")
    run(make_file(scene.writer, b"in vain"))
    scene.writer.close()
    [writer, _] = scene.mount.client.query("select applied, epoch from node order by node")
    assert writer[0] != writer[1]


async def test_what_is_sent_on_the_way_is_refused(scene: Scene) -> None:
    """A program of the former writer is told, and its change is nowhere."""
    await trio.to_thread.run_sync(scene.fill)
    (await trio.to_thread.run_sync(scene.read, "r")).close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.writer.writer.run)
        while scene.writer._outbox.server is None:
            await trio.lowlevel.checkpoint()
        await make_file(scene.writer, b"before")
        await scene.writer.commit()
        await trio.to_thread.run_sync(lambda: scene.promote("r", accept_loss=True))

        async def change() -> None:
            await make_file(scene.writer, b"after")
            await scene.writer.commit()

        with pytest.raises((UnconfirmedError, MetadataError)):
            await change()
        nursery.cancel_scope.cancel()
    engine = await trio.to_thread.run_sync(scene.write, "r")
    names = await names_in(engine)
    assert b"before" in names
    assert b"after" not in names
    engine.close()
