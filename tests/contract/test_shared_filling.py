"""A node that reads takes all tables of the mount: its own are the same."""

from __future__ import annotations

import contextlib
import random
import shutil
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from memfs.errors import DatabaseError
from memfs.metadata.shared import bodies, filling, instant
from memfs.metadata.shared.applying import Applying
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.filling import fill, is_filled
from memfs.metadata.shared.node_table import NODE, READ_LOG, join_reader
from memfs.metadata.shared.tables import TABLES, local_row, stored_row
from memfs.moves.faults import FILL_POINTS
from memfs.query.parsing import parse
from memfs.types import ROOT_INODE, FormKind
from tests.contract.engine.making import NOW_NS, hydrate, make_sealed, publish
from tests.contract.engine.postgres_site import MountDatabase, PostgresSite
from tests.contract.engine.replica import without_own
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, run
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.contract.test_engine_machine import QUICK, EngineMachine
from tests.contract.test_engine_snapshot_machine import SnapshotMachine
from tests.killed import Killed
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.metadata.sqlite.limits import Limits
    from memfs.metadata.sqlite.statements import Row, SqlValue
    from tests.servers.postgresql import Database


def open_reader(state_dir: Path) -> Applying:
    return Applying.open(state_dir, CONFIG, BIRTH_NS, SMALL)


def require_same(reader: Applying, mount: MountDatabase) -> None:
    """See that a node that reads has what the mount has, and that its own tables agree."""
    expected = without_own(shared_tables(mount.client), ())
    assert_same(without_own(local_tables(reader._rows), ()), expected)
    assert run(reader.usage()) == run(reader.recount())
    assert reader.check() == []


def fill_from(
    mount: MountDatabase, reader: Applying, reach: Callable[[str], None] = lambda _point: None
) -> int:
    with contextlib.closing(Client.connect(mount.address, WAIT_S)) as client:
        return fill(client, reader, reach=reach)


class FilledSite(PostgresSite):
    """A node that reads takes all tables again and again, over those of the past."""

    def __init__(self, root: Path, limits: Limits = SMALL) -> None:
        self._reader = open_reader(root / "reader")
        super().__init__(root, limits)

    def compare(self) -> None:
        """Fill the tables of a reader, which has raw files of its own, and compare."""
        super().compare()
        reader = self._reader
        if self._rng.random() < 0.7:
            query = "select ino from inode where blob <> 0 and raw = 0 and flags = 0 limit 2"
            for (ino,) in reader._rows(query):
                assert run(hydrate(reader, run(reader.get_inode(ino))))
        ((seq,),) = self.mount.client.query("select seq from node where role = 'writer'")
        assert fill_from(self.mount, reader) == seq == reader.read_applied()
        require_same(reader, self.mount)

    def close(self) -> None:
        """Close both engines."""
        super().close()
        self._reader.close()


@pytest.mark.parametrize("machine", [EngineMachine, SnapshotMachine])
@pytest.mark.usefixtures("postgres_mount")
def test_histories_are_taken_as_they_are(machine: type[EngineMachine]) -> None:
    """Names, contents, forms, batches, xattrs, settings, snapshots."""

    class Machine(machine):  # type: ignore[misc, valid-type]  # a base that is chosen
        site_class: ClassVar = FilledSite

    run_state_machine_as_test(Machine, settings=settings(QUICK, max_examples=10))


@pytest.fixture
def mount(postgres: Database) -> Iterator[MountDatabase]:
    made = MountDatabase(postgres)
    yield made
    made.client.close()


@pytest.fixture
def written(mount: MountDatabase, tmp_path: Path) -> Iterator[PostgresSite]:
    """A mount with some of everything, and the node that writes it."""

    class Site(PostgresSite):
        pass

    Site.mount = mount
    site = Site(tmp_path / "writer")
    _write_some(site.engine)
    site.compare()
    yield site
    site.close()


def _write_some(engine: Engine) -> None:
    inodes = [run(make_sealed(engine, b"f%d" % number)) for number in range(12)]
    for number, inode in enumerate(inodes):
        run(engine.set_xattr(inode.ino, b"user.n", b"%d" % number, 0, NOW_NS))
        run(engine.set_xattr(inode.ino, b"user.list", b'["a", %d]' % number, 0, NOW_NS))
        if number % 2:
            run(publish(engine, inode, FormKind.REMOTE))
    run(engine.create_snapshot("one", NOW_NS))
    for inode in inodes[:4]:
        run(engine.set_xattr(inode.ino, b"user.n", b"other", 0, NOW_NS))
    run(engine.rename(ROOT_INODE, b"f1", ROOT_INODE, b"g1", 0, NOW_NS))
    [snapshot] = run(engine.list_snapshots())
    run(engine.delete_snapshot(snapshot.snap))
    run(engine.create_snapshot("one", NOW_NS))
    engine.commit_nowait()


@pytest.mark.parametrize("is_filled_before", [False, True], ids=["new", "behind"])
@pytest.mark.parametrize("point", FILL_POINTS)
def test_a_node_that_is_killed_as_it_fills_begins_anew(
    written: PostgresSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    is_filled_before: bool,
) -> None:
    """At each step, with steps of few rows."""
    monkeypatch.setattr(filling, "ROWS_A_STEP", 7)
    monkeypatch.setattr(instant, "ROWS_A_STEP", 7)
    monkeypatch.setattr(instant, "LONG_ROWS_A_STEP", 7)
    first = tmp_path / "first"
    reader = open_reader(first)
    if is_filled_before:
        fill_from(written.mount, reader)
        run(written.engine.unlink(ROOT_INODE, b"f2", NOW_NS))
        written.engine.commit_nowait()
        written.compare()
    reader.close()
    # Not at each of the steps: they are alike.
    for count in (1, 2, 11, 17):
        state_dir, left = tmp_path / f"reader-{count}", tmp_path / f"left-{count}"
        shutil.copytree(first, state_dir)
        reader = open_reader(state_dir)
        reached: list[str] = []

        def reach(
            at: str,
            reached: list[str] = reached,
            reader: Applying = reader,
            state_dir: Path = state_dir,
            left: Path = left,
            count: int = count,
        ) -> None:
            reached.append(at)
            if reached.count(point) == count and at == point:
                # As SIGKILL leaves the files.
                reader.wait_for_checkpoint()
                shutil.copytree(state_dir, left)
                raise Killed

        try:
            fill_from(written.mount, reader, reach)
        except Killed:
            pass
        else:
            assert reached.count(point) == count - 1 > 0
            reader.close()
            return
        reader.close()
        again = open_reader(left)
        assert is_filled(again) == (point == "fill.done")
        fill_from(written.mount, again)
        require_same(again, written.mount)
        again.close()
    assert point == "fill.step"


def test_what_changes_meanwhile_is_in_the_log(
    written: PostgresSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are those of one instant, and the log goes on from there."""
    monkeypatch.setattr(instant, "ROWS_A_STEP", 3)
    rng = random.Random(1)
    names = [b"f%d" % number for number in range(12) if number != 1]

    def change(point: str) -> None:
        if point == "fill.step" and rng.random() < 0.5 and names:
            inode = run(written.engine.unlink(ROOT_INODE, names.pop(), NOW_NS))
            run(written.engine.reap([inode.ino]))
            written.engine.commit_nowait()
            written._shared._send_left()

    reader = open_reader(tmp_path / "reader")
    # Changes are kept for it, however long it takes.
    join_reader(written.mount.client, "db", "r", bytes(reader.state_id), "1")
    number = fill_from(written.mount, reader, change)
    changes = written.mount.client.query(READ_LOG, (NODE, number, 1000))
    assert changes
    reader.apply([(seq, bodies.decode(body)) for seq, body in changes])
    written.compare()
    require_same(reader, written.mount)
    reader.close()


def test_files_are_found_at_once(written: PostgresSite, tmp_path: Path) -> None:
    """The indexes of xattrs need no further look at all of them."""
    reader = open_reader(tmp_path / "reader")
    fill_from(written.mount, reader)
    assert reader.index_progress().is_whole
    assert reader.element_progress().is_whole
    page = run(reader.find_files(parse({"user.list": 7}), None, None, 9, None))
    assert page is not None
    assert len(page.inos) == 1
    reader.close()


def test_indexes_of_a_node_stay_and_are_right(written: PostgresSite, tmp_path: Path) -> None:
    """Those that users have added, as the node takes all names again."""
    reader = open_reader(tmp_path / "reader")
    fill_from(written.mount, reader)
    for field in ("$size", "$name", "user.n"):
        run(reader.add_index(field))
    reader.commit_nowait()
    assert run(reader.build_indexes(5))
    run(written.engine.unlink(ROOT_INODE, b"f3", NOW_NS))
    written.engine.commit_nowait()
    written.compare()
    fill_from(written.mount, reader)
    while run(reader.build_indexes(100)):
        reader.commit_nowait()
    assert [index.state.value for index in reader.field_indexes()] == ["whole"] * 3
    require_same(reader, written.mount)
    reader.close()


def test_the_node_is_heard_of_and_people_are_told_how_far_it_is(
    written: PostgresSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that copies for hours is not left behind."""
    monkeypatch.setattr(instant, "ROWS_A_STEP", 3)
    monkeypatch.setattr(filling, "BEAT_S", -1.0)
    monkeypatch.setattr(filling, "TELL_S", -1.0)
    beats: list[None] = []
    told: list[str] = []
    reader = open_reader(tmp_path / "reader")
    with contextlib.closing(Client.connect(written.mount.address, WAIT_S)) as client:
        fill(client, reader, beat=lambda: beats.append(None), tell=told.append)
    assert len(beats) == len(told) > 10
    assert told[-1].startswith("the names of the mount are copied to this machine: ")
    reader.close()


class Refusing:
    """A connection that ends after some answers."""

    def __init__(self, client: Client, count: int) -> None:
        self._client = client
        self._left = count

    def transact_blocking(
        self, statements: Sequence[tuple[str, Sequence[SqlValue]]], timeout_s: float | None = None
    ) -> list[list[Row]]:
        """See `Client`."""
        self._left -= 1
        if self._left < 0:
            raise DatabaseError("57P01", "terminating connection due to administrator command")
        return self._client.transact_blocking(statements, timeout_s)


def test_a_database_that_ends_meanwhile_leaves_nothing_that_counts(
    written: PostgresSite, tmp_path: Path
) -> None:
    """The next attempt of the same process begins anew."""
    reader = open_reader(tmp_path / "reader")
    with (
        contextlib.closing(Client.connect(written.mount.address, WAIT_S)) as client,
        pytest.raises(DatabaseError),
    ):
        fill(Refusing(client, 12), reader)
    assert not is_filled(reader)
    fill_from(written.mount, reader)
    require_same(reader, written.mount)
    reader.close()


@pytest.mark.parametrize(
    "text",
    ["", "a", "\0", "\x10", "\x10@", "\x10P", "\0@", "a\x10\0\x10Pb", "\x10\x10@@\0P"],
)
def test_texts_come_back_as_they_were(text: str) -> None:
    """PostgreSQL has no NUL, and keys that may be long are bytes there."""
    for table in TABLES:
        values: dict[str, SqlValue] = {"i": 7, "b": b"\0", "t": text, "u": text}
        here = tuple(values[column.letter] for column in table.columns)
        # What SQLite is asked for has such keys as bytes already.
        values["u"] = text.encode()
        asked = tuple(values[column.letter] for column in table.columns)
        assert local_row(table, stored_row(asked)) == here
