"""The names of a mount of one machine move into PostgreSQL: all of them, or the mount goes on."""

from __future__ import annotations

import contextlib
import random
import shutil
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from memfs.errors import DatabaseError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import instant, moving_in, node_table
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.shared.moving_in import Moved, MovingIn
from memfs.metadata.shared.reader_engine import ReaderEngine, ReaderSettings
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import read_is_shared
from memfs.moves.faults import MOVE_IN_POINTS
from memfs.types import ROOT_INODE
from tests.contract.engine.everything import LONG, write_everything
from tests.contract.engine.making import NOW_NS, make_file, make_sealed, names_in
from tests.contract.engine.postgres_site import STORE, MountDatabase
from tests.contract.engine.replica import without_own
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, SqliteSite, run
from tests.contract.engine.tables import Tables, assert_same, local_tables, shared_tables
from tests.contract.test_engine_machine import QUICK, EngineMachine
from tests.contract.test_engine_snapshot_machine import SnapshotMachine
from tests.killed import Killed
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from tests.servers.postgresql import Database

NAME = "moved"


def open_alone(state_dir: Path) -> SqliteEngine:
    """Open a state directory as a mount of one machine does."""
    return SqliteEngine.open(state_dir, CONFIG, BIRTH_NS, SMALL)


def move_in(
    state_dir: Path,
    mount: MountDatabase,
    reach: Callable[[str], None] = lambda _point: None,
    show: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> Moved:
    """Do what the command does."""
    engine = SqliteEngine.open(state_dir, CONFIG, BIRTH_NS, SMALL, shared=True)
    with contextlib.closing(engine):
        return MovingIn(engine, state_dir, mount.client, "db", NAME, reach=reach, show=show).run()


def join(state_dir: Path, mount: MountDatabase) -> SharedEngine:
    """Start the node that writes."""
    return SharedEngine.join(
        state_dir,
        CONFIG,
        mount.connector,
        NodeSettings(NAME, WAIT_S),
        now_ns=BIRTH_NS,
        limits=SMALL,
        rng=random.Random(1),
    )


def read(state_dir: Path, mount: MountDatabase) -> ReaderEngine:
    """Start a node that reads."""
    settings = ReaderSettings("reader", WAIT_S)
    return ReaderEngine.join(state_dir, CONFIG, mount.connector, settings, limits=SMALL)


def require_same(engine: SqliteEngine, mount: MountDatabase) -> None:
    """See that the database has just the rows of a state directory."""
    assert_same(local_tables(engine._rows), shared_tables(mount.client))


def row_count(tables: Tables) -> int:
    """Return how many rows there are in all tables that nodes share."""
    return sum(map(len, tables.rows.values()))


class MovedSite(SqliteSite):
    """Copies of the state directory move into the database again and again."""

    mount: ClassVar[MountDatabase]

    def _move_copy(self) -> None:
        copy = self._root / "copy"
        shutil.copytree(self.state_dir, copy)
        self.mount.clear()
        moved = move_in(copy, self.mount)
        node = join(copy, self.mount)
        require_same(node, self.mount)
        assert moved.row_count == moved.sent_count == row_count(local_tables(node._rows))
        run(make_file(node, b"made after the move"))
        node.commit_nowait()
        node._send_left()
        require_same(node, self.mount)
        assert node.check() == []
        node.close()
        shutil.rmtree(copy)

    def reopen(self) -> Engine:
        """Close the engine and open it again."""
        self.engine.close()
        self._move_copy()
        return super().reopen()

    def close(self) -> None:
        """Close the engine."""
        super().close()
        self._move_copy()


@pytest.mark.parametrize("machine", [EngineMachine, SnapshotMachine])
def test_histories_move_as_they_are(
    machine: type[EngineMachine], postgres_mount: MountDatabase
) -> None:
    """Names, contents, forms, batches, xattrs, settings, snapshots."""

    class Site(MovedSite):
        mount = postgres_mount

    class Machine(machine):  # type: ignore[misc, valid-type]  # a base that is chosen
        site_class: ClassVar = Site

    run_state_machine_as_test(Machine, settings=settings(QUICK, max_examples=10))


@pytest.fixture
def mount(postgres: Database) -> Iterator[MountDatabase]:
    made = MountDatabase(postgres)
    yield made
    made.client.close()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """That of a mount of one machine with some of everything."""
    made = tmp_path / "state"
    engine = open_alone(made)
    write_everything(engine)
    tables = local_tables(engine._rows)
    assert [name for name, rows in tables.rows.items() if not rows] == []
    engine.close()
    return made


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are many."""
    monkeypatch.setattr(instant, "ROWS_A_STEP", 3)
    monkeypatch.setattr(instant, "LONG_ROWS_A_STEP", 2)


class Attempt:
    """An attempt that is killed when a point is reached for the n-th time.

    Args:
        state_dir: That of the mount.
        left: Gets the files as SIGKILL leaves them.
        point: One of the points.
        count: Which time.
    """

    def __init__(self, state_dir: Path, left: Path, point: str, count: int) -> None:
        self._state_dir = state_dir
        self._left = left
        self._point = point
        self._count = count
        self.reached: list[str] = []

    def reach(self, point: str) -> None:
        """Be killed, perhaps."""
        self.reached.append(point)
        if point == self._point and self.reached.count(point) == self._count:
            shutil.copytree(self._state_dir, self._left)
            raise Killed


def _change(engine: SqliteEngine) -> None:
    """Exchange two names, and rewrite, make and remove files."""
    run(engine.rename(ROOT_INODE, b"f4", ROOT_INODE, b"f5", 2, NOW_NS))
    gone = run(engine.unlink(ROOT_INODE, b"f6", NOW_NS))
    run(engine.reap([gone.ino]))
    run(make_sealed(engine, b"f6"))
    inode = run(engine.lookup(ROOT_INODE, b"f7"))
    run(engine.set_xattr(inode.ino, b"user.n", LONG[:5000], 0, NOW_NS))
    engine.commit_nowait()


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("is_changed", [False, True], ids=["at once", "served between"])
@pytest.mark.parametrize("point", MOVE_IN_POINTS)
def test_an_attempt_that_is_killed_goes_on(
    mount: MountDatabase, state_dir: Path, tmp_path: Path, point: str, is_changed: bool
) -> None:
    """Also if the mount of one machine was served meanwhile, as it may be before the mark."""
    is_marked = MOVE_IN_POINTS.index(point) >= MOVE_IN_POINTS.index("move_in.marked")
    for count in (1, 4, 20):
        mount.clear()
        first, left = tmp_path / f"first-{count}", tmp_path / f"left-{count}"
        shutil.copytree(state_dir, first)
        if point == "move_in.removed":
            # An attempt before has left rows, and something has changed since.
            before = Attempt(first, tmp_path / f"before-{count}", "move_in.compared", 1)
            with pytest.raises(Killed):
                move_in(first, mount, before.reach)
            engine = open_alone(first)
            for number in range(60 if count > 1 else 1):
                run(make_file(engine, b"more%d" % number))
            _change(engine)
            engine.close()
            mount.client.query("update inode set size = size + 1")
        attempt = Attempt(first, left, point, count)
        try:
            move_in(first, mount, attempt.reach)
        except Killed:
            pass
        else:
            assert 0 < attempt.reached.count(point) < count
            return
        assert read_is_shared(left) == is_marked
        if point != "move_in.done":
            for start in (join, read):
                with pytest.raises(UsageError, match="memfs migrate"):
                    start(tmp_path / f"other-{count}" if start is read else left, mount)
        if is_marked:
            with pytest.raises(UsageError, match="belongs to a node"):
                open_alone(left)
        elif is_changed:
            engine = open_alone(left)
            _change(engine)
            engine.close()
        moved = move_in(left, mount)
        assert (moved.row_count == 0) == (point == "move_in.done")
        node = join(left, mount)
        require_same(node, mount)
        assert node.check() == []
        node.close()
        reader = read(tmp_path / f"reader-{count}", mount)
        assert_same(
            without_own(local_tables(reader._rows), ()),
            without_own(shared_tables(mount.client), ()),
        )
        reader.close()


def test_a_second_attempt_sends_what_is_missing(
    mount: MountDatabase, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not all again; steps are short also where single rows are long."""
    monkeypatch.setattr(moving_in, "STEP_BYTES", 1)
    attempt = Attempt(state_dir, tmp_path / "left", "move_in.step", 60)
    with pytest.raises(Killed):
        move_in(state_dir, mount, attempt.reach)
    there = row_count(shared_tables(mount.client))
    told: list[tuple[str, int, int]] = []
    moved = move_in(state_dir, mount, show=lambda *each: told.append(each))
    assert there >= 60
    assert moved == (NAME, there + moved.sent_count, moved.sent_count)
    assert {stage for stage, *_ in told} == {"sent", "compared"}
    for stage in ("sent", "compared"):
        assert [each for each in told if each[0] == stage][-1][1:] == (moved.row_count,) * 2
    assert move_in(state_dir, mount) == (NAME, 0, 0)
    node = join(state_dir, mount)
    require_same(node, mount)
    node.close()
    # A mount has changed the epoch since.
    assert move_in(state_dir, mount) == (NAME, 0, 0)


CHANGES = {
    "missing": ("delete from symlink_was", "symlink_was ino=.*: not in PostgreSQL"),
    "more": ("insert into head values (77)", "head snap=77: in PostgreSQL alone"),
    "other": ("update inode set uid = 5, gid = 6 where ino = 1", "inode ino=1: another uid, gid"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_differ_are_found_and_nothing_is_marked(
    mount: MountDatabase, state_dir: Path, change: str
) -> None:
    statement, message = CHANGES[change]

    def show(stage: str, done: int, total: int) -> None:
        if stage == "compared" and not done and total:
            mount.client.query(statement)

    with pytest.raises(UsageError, match=message):
        move_in(state_dir, mount, show=show)
    engine = open_alone(state_dir)
    assert b"f4" in run(names_in(engine))
    engine.close()
    assert move_in(state_dir, mount).sent_count < 5
    node = join(state_dir, mount)
    require_same(node, mount)
    node.close()


def test_what_belongs_to_somebody_else_is_refused(
    mount: MountDatabase, state_dir: Path, tmp_path: Path
) -> None:
    """A database with rows or another node, a node that reads, an older copy."""
    mount.client.query("insert into head values (7)")
    with pytest.raises(UsageError, match=r"have rows \(head\) of a mount"):
        move_in(state_dir, mount)
    mount.client.query("delete from head")
    shutil.copytree(state_dir, tmp_path / "older")
    move_in(state_dir, mount)
    with pytest.raises(UsageError, match="is an older copy"):
        move_in(tmp_path / "older", mount)
    open_alone(tmp_path / "other").close()
    before = shared_tables(mount.client)
    with pytest.raises(UsageError, match=f"names of node {NAME}, whose state directory is another"):
        move_in(tmp_path / "other", mount)
    read(tmp_path / "reader", mount).close()
    with pytest.raises(UsageError, match="belongs to a node that reads"):
        move_in(tmp_path / "reader", mount)
    assert_same(before, shared_tables(mount.client))
    mount.clear()
    with pytest.raises(UsageError, match="a node, which this database does not know"):
        move_in(state_dir, mount)
    schema_id = "update mount set mount_id = repeat('0', 32)"
    mount.client.query(schema_id)
    with pytest.raises(UsageError, match="belongs to a node of another mount"):
        move_in(state_dir, mount)


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        (None, None),
        (STORE + "/", None),
        ("s3://bucket/x", "are in s3://bucket/x: format another database"),
        ("", "are in the default, glacier/ in the state directory: copy them"),
    ],
)
def test_the_objects_have_to_be_where_others_look_for_them(
    mount: MountDatabase, state_dir: Path, recorded: str | None, message: str | None
) -> None:
    engine = open_alone(state_dir)
    if recorded is not None:
        run(engine.put_setting("store", recorded.encode()))
    engine.close()
    if message is None:
        assert move_in(state_dir, mount).row_count
        return
    with pytest.raises(UsageError, match=message):
        move_in(state_dir, mount)
    assert node_table.find_nodes(mount.client) == []


def test_the_default_store_can_be_named(mount: MountDatabase, state_dir: Path) -> None:
    """By its path, which other machines may have by a network file system."""
    engine = open_alone(state_dir)
    run(engine.put_setting("store", b""))
    engine.close()
    place = f"file://{state_dir / 'glacier'}"
    mount.client.query("update mount set store = $1", (place,))
    assert move_in(state_dir, mount).row_count


def test_no_node_takes_over_meanwhile(
    mount: MountDatabase, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_table, "SILENT_S", 0.0)
    attempt = Attempt(state_dir, tmp_path / "left", "move_in.compared", 1)
    with pytest.raises(Killed):
        move_in(state_dir, mount, attempt.reach)
    with pytest.raises(UsageError, match="are on their way there") as caught:
        node_table.promote(mount.client, "db", "reader", accept_loss=True, rng=random.Random(1))
    assert caught.value.exit_code == ExitCode.STATE_UNUSABLE
    with pytest.raises(UsageError, match=f"written by node {NAME}, whose state directory is an"):
        join(tmp_path / "new", mount)


def test_a_database_that_refuses_leaves_the_mount_as_it_was(
    mount: MountDatabase, state_dir: Path
) -> None:
    mount.client.query("alter table dentry add check (cookie = 0)")
    with pytest.raises(DatabaseError):
        move_in(state_dir, mount)
    engine = open_alone(state_dir)
    assert b"f4" in run(names_in(engine))
    engine.close()
