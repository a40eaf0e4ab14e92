"""The names of a mount leave PostgreSQL: its state directory is that of one machine again."""

from __future__ import annotations

import contextlib
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import moving_out, node_table
from memfs.metadata.shared.moving_out import MovedOut, MovingOut
from memfs.metadata.shared.node_file import NodeFile
from memfs.metadata.shared.reader_engine import ReaderEngine, ReaderSettings
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import read_is_shared, read_state_id, write_format
from memfs.moves.faults import MOVE_OUT_POINTS
from tests.contract.engine.everything import write_everything
from tests.contract.engine.making import make_file, make_sealed, names_in
from tests.contract.engine.postgres_site import MountDatabase
from tests.contract.engine.scene import Scene
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, run
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.contract.test_moving_in import (
    NAME,
    Attempt,
    join,
    move_in,
    open_alone,
    read,
    row_count,
)
from tests.killed import Killed
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.metadata.shared.engine import SharedEngine
    from tests.servers.postgresql import Database


def move_out(
    state_dir: Path, mount: MountDatabase, reach: Callable[[str], None] = lambda _point: None
) -> MovedOut:
    """Do what the command does."""
    engine = SqliteEngine.open(state_dir, CONFIG, BIRTH_NS, SMALL, shared=True)
    with contextlib.closing(engine):
        moving = MovingOut(engine, state_dir, mount.client, "db", random.Random(1), reach=reach)
        return moving.run()


@pytest.fixture
def mount(postgres: Database) -> Iterator[MountDatabase]:
    made = MountDatabase(postgres)
    yield made
    made.client.close()


@pytest.fixture
def state_dir(tmp_path: Path, mount: MountDatabase) -> Path:
    """That of a node that has written some of everything."""
    made = tmp_path / "state"
    node = join(made, mount)
    write_everything(node)
    end(node)
    return made


def end(node: SharedEngine) -> None:
    """Unmount, with all changes sent."""
    node.commit_nowait()
    node._send_left()
    node.close()


def require_alone(state_dir: Path, mount: MountDatabase, other: Path) -> SqliteEngine:
    """See that a mount of one machine goes on, with the rows that the database has, and alone."""
    assert not read_is_shared(state_dir)
    assert not (state_dir / "node").exists()
    for start in (lambda: join(other / "copy", mount), lambda: read(other / "reader", mount)):
        with pytest.raises(UsageError, match=r"have moved out|state directory is another one"):
            start()
    with pytest.raises(UsageError, match="have moved out") as caught:
        node_table.promote(mount.client, "db", "reader", accept_loss=True, rng=random.Random(1))
    assert caught.value.exit_code == ExitCode.STATE_UNUSABLE
    engine = open_alone(state_dir)
    assert engine._database.read_followed() == (None, [])
    assert_same(local_tables(engine._rows), shared_tables(mount.client))
    assert engine.check() == []
    return engine


def test_a_state_directory_is_that_of_one_machine_again(
    mount: MountDatabase, state_dir: Path, tmp_path: Path
) -> None:
    """And moves into another database."""
    moved = move_out(state_dir, mount)
    assert moved == (NAME, row_count(shared_tables(mount.client)), ())
    with pytest.raises(UsageError, match="have moved out"):
        join(state_dir, mount)
    engine = require_alone(state_dir, mount, tmp_path)
    run(make_file(engine, b"alone"))
    engine.close()
    assert move_out(state_dir, mount) == (NAME, 0, ())
    with pytest.raises(UsageError, match="from before they moved out of it: make another"):
        move_in(state_dir, mount)
    mount.clear()
    move_in(state_dir, mount)
    node = join(state_dir, mount)
    assert b"alone" in run(names_in(node))
    assert_same(local_tables(node._rows), shared_tables(mount.client))
    node.close()


@pytest.mark.parametrize("point", MOVE_OUT_POINTS)
def test_an_attempt_that_is_killed_goes_on(
    mount: MountDatabase, state_dir: Path, tmp_path: Path, point: str
) -> None:
    left = tmp_path / "left"
    attempt = Attempt(state_dir, left, point, 1)
    with pytest.raises(Killed):
        move_out(state_dir, mount, attempt.reach)
    place = MOVE_OUT_POINTS.index(point)
    if place < MOVE_OUT_POINTS.index("move_out.left"):
        # Nothing has changed: the node may go on.
        node = join(left, mount)
        run(make_file(node, b"more"))
        end(node)
    elif point != "move_out.done":
        with pytest.raises(UsageError, match="belongs to a node"):
            open_alone(left)
        with pytest.raises(UsageError, match="have moved out"):
            join(left, mount)
    moved = move_out(left, mount)
    assert (moved.row_count > 0) == (place < MOVE_OUT_POINTS.index("move_out.left"))
    require_alone(left, mount, tmp_path).close()
    assert {*attempt.reached} == {*MOVE_OUT_POINTS[: place + 1]}


def test_changes_that_were_not_sent_are_refused(mount: MountDatabase, state_dir: Path) -> None:
    node = join(state_dir, mount)
    run(make_file(node, b"late"))
    node.commit_nowait()
    node.writer.close()
    SqliteEngine.close(node)
    with pytest.raises(UsageError, match="mount it once more and unmount it"):
        move_out(state_dir, mount)
    end(join(state_dir, mount))
    assert move_out(state_dir, mount).row_count


def test_rows_that_differ_are_found_and_nothing_is_changed(
    mount: MountDatabase, state_dir: Path
) -> None:
    mount.client.query("update xattr set value = 'x' where name = 'user.k'")
    with pytest.raises(UsageError, match=r"xattr ino=\d+ name=b'user.k': another value"):
        move_out(state_dir, mount)
    join(state_dir, mount).close()


def test_machines_that_read_are_unmounted_before(
    mount: MountDatabase, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = read(tmp_path / "replica", mount)
    with pytest.raises(UsageError, match="reader read this mount") as caught:
        move_out(state_dir, mount)
    assert caught.value.exit_code == ExitCode.BUSY
    reader.close()
    with pytest.raises(UsageError, match=r"is not that of the node that writes|does not have"):
        move_out(tmp_path / "replica", mount)
    monkeypatch.setattr(moving_out, "AWAY_S", 0.0)
    assert move_out(state_dir, mount).readers == ("reader",)
    with pytest.raises(UsageError, match="have moved out"):
        read(tmp_path / "replica", mount)


def test_copies_are_refused(mount: MountDatabase, state_dir: Path, tmp_path: Path) -> None:
    """Nobody but the state directory that was mounted last."""
    shutil.copytree(state_dir, tmp_path / "older")
    end(join(state_dir, mount))
    with pytest.raises(UsageError, match="or a copy of it was mounted"):
        move_out(tmp_path / "older", mount)
    shutil.copytree(state_dir, tmp_path / "before")
    open_alone(tmp_path / "other").close()
    with pytest.raises(UsageError, match="does not have the names of"):
        move_out(tmp_path / "other", mount)
    ((mount_id,),) = mount.client.query("select mount_id from mount")
    mount.client.query("update mount set mount_id = repeat('0', 32)")
    with pytest.raises(UsageError, match="is not that of the node that writes there"):
        move_out(state_dir, mount)
    mount.client.query("update mount set mount_id = $1", (mount_id,))
    move_out(state_dir, mount)
    with pytest.raises(UsageError, match=r"have left it, and .*before is an older copy"):
        move_out(tmp_path / "before", mount)
    assert read_is_shared(tmp_path / "before")


def test_the_identity_of_a_former_node_stays(
    mount: MountDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its objects are sealed with it: in a state of one machine, and in the next database."""
    monkeypatch.setattr(node_table, "SILENT_S", 0.0)
    monkeypatch.setattr(moving_out, "AWAY_S", 0.0)
    scene = Scene(tmp_path, mount)
    scene.fill()
    scene.read("r").close()
    identity = scene.writer.state_id
    scene.writer.close()
    scene.promote("r", accept_loss=True)
    end(scene.write("r"))
    state_dir = tmp_path / "r"
    for point in ("move_out.identified", "move_out.unnamed"):
        attempt = Attempt(state_dir, tmp_path / point, point, 1)
        with pytest.raises(Killed):
            move_out(state_dir, mount, attempt.reach)
        state_dir = tmp_path / point
    move_out(state_dir, mount)
    own = read_state_id(state_dir)
    assert own is not None
    assert own != identity
    # A migration or a repair writes the format file anew, and does not know of it.
    write_format(state_dir, own)
    engine = open_alone(state_dir)
    assert engine.state_id == engine.object_state_id == identity
    run(make_sealed(engine, b"alone"))
    engine.close()
    mount.clear()
    move_in(state_dir, mount)
    node = join(state_dir, mount)
    assert node.state_id == node.object_state_id == identity
    known = NodeFile(state_dir).read()
    assert known is not None
    assert known.state_id == identity
    reader = ReaderEngine.join(
        tmp_path / "reader", CONFIG, mount.connector, ReaderSettings("b", WAIT_S), limits=SMALL
    )
    assert reader.object_state_id == identity
    assert reader.state_id != identity
    reader.close()
    node.close()
