"""The state directory of a writer that was replaced becomes a reader's, with a real server."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.encryption.keys import NO_KEYS
from memfs.errors import UsageError
from memfs.metadata.shared import node_table
from memfs.metadata.shared.demoting import demote
from memfs.metadata.shared.node_file import Membership, NodeFile, Role
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.lease import FIRST_READER_ID
from memfs.moves.faults import DEMOTE_POINTS
from memfs.moves.rescuing import Rescue
from memfs.stores.lost_found import LostFound
from memfs.stores.raw import RawStore
from memfs.types import ROOT_INODE, FormKind
from memfs_daemon.state_dir import prepare_state
from tests.contract.engine.making import (
    NOW_NS,
    make_directory,
    make_file,
    names_in,
    publish,
    seal,
)
from tests.contract.engine.postgres_site import MountDatabase
from tests.contract.engine.replica import without_own
from tests.contract.engine.scene import Nodes
from tests.contract.engine.site import CONFIG, SMALL, run
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.killed import Killed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.metadata.shared.engine import SharedEngine
    from memfs.types import InodeNo, StateId
    from tests.servers.postgresql import Database


class Scene(Nodes):
    """A mount whose writer `w` was replaced by `heir`."""

    @property
    def state(self) -> Path:
        """The state directory that was replaced."""
        return self.root / "w"

    def demote(self, name: str = "w", reach: Callable[[str], None] = lambda _point: None) -> bool:
        """Do what a start as a reader does first."""
        state = self.root / name

        def holdings(epoch: int, state_id: StateId) -> Rescue:
            return Rescue(state, epoch, state_id, NO_KEYS, reach)

        return demote(state, CONFIG, self.mount.connector, holdings, limits=SMALL, reach=reach)

    def replace(self) -> None:
        """Have another node write."""
        self.read("heir").close()
        node_table.promote(self.mount.client, "db", "heir", accept_loss=True, rng=random.Random(1))
        heir = self.write("heir")
        run(make_file(heir, b"of the heir"))
        send(heir)
        heir.close()

    def found(self) -> dict[str, bytes]:
        """Return what lies in lost+found, by its path below the directory of its own."""
        lost = LostFound(self.state)
        return {name.partition("/")[2]: (lost.root / name).read_bytes() for name in lost.names()}


@pytest.fixture
def scene(tmp_path: Path, postgres: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(node_table, "SILENT_S", 0.0)
    mount = MountDatabase(postgres)
    yield Scene(tmp_path, mount)
    mount.client.close()


def send(engine: SharedEngine) -> None:
    """Have the database get what an engine has changed."""
    engine.commit_nowait()
    engine._send_left()
    assert engine._outbox.count == 0


def written(
    state: Path, engine: SharedEngine, name: bytes, content: bytes, parent: InodeNo = ROOT_INODE
) -> Inode:
    """Make a file that is being written, with a raw file."""
    inode = run(make_file(engine, name, parent))
    store = RawStore(state)
    fd = store.create(inode.raw)
    with open(fd, "wb") as file:
        file.write(content)
    store.close()
    return inode


def sealed(
    state: Path, engine: SharedEngine, name: bytes, content: bytes, parent: InodeNo = ROOT_INODE
) -> Inode:
    """Make a file that was closed, with a raw file as its inode says."""
    inode = run(seal(engine, written(state, engine, name, content, parent), len(content)))
    store = RawStore(state)
    store.set_times(inode.raw, inode.atime_ns, inode.mtime_ns)
    store.close()
    return inode


def fill(scene: Scene) -> None:
    """Have the writer make all kinds of files, end without a word, and be replaced."""
    state, writer = scene.state, scene.write("w")
    directory = run(make_directory(writer, b"d"))
    stored = sealed(state, writer, b"stored", b"in the store", directory.ino)
    assert run(publish(writer, stored, FormKind.REMOTE))
    forgotten = sealed(state, writer, b"written since", b"as it was", directory.ino)
    assert run(publish(writer, forgotten, FormKind.REMOTE))
    removed = sealed(state, writer, b"removed", b"by a program", directory.ino)
    run(writer.unlink(directory.ino, b"removed", NOW_NS))
    run(writer.reap([removed.ino]))
    former = sealed(state, writer, b"former", b"of a snapshot")
    run(writer.create_snapshot("s", NOW_NS, "", [], None))
    run(writer.unlink(ROOT_INODE, b"former", NOW_NS))
    run(writer.reap([former.ino]))
    sealed(state, writer, b"only here", b"sealed", directory.ino)
    written(state, writer, b"open", b"being written")
    written(state, writer, b"empty", b"")
    send(writer)
    scene.replace()
    # The writer is not heard of, and goes on.
    late = sealed(state, writer, b"late", b"in the store, and nobody knows", directory.ino)
    assert run(publish(writer, late, FormKind.REMOTE))
    writer.commit_nowait()
    writer.close()
    next((state / "raw").rglob(f"{forgotten.raw:x}")).write_bytes(b"as it is now")


ALONE = {
    "files/d/only here": b"sealed",
    "files/d/late": b"in the store, and nobody knows",
    "files/d/written since": b"as it is now",
    "files/open": b"being written",
}
"""What `fill` has left there alone, but for what only a snapshot has."""


def check_rescued(scene: Scene) -> None:
    found = scene.found()
    text = found.pop("README.txt").decode()
    assert found.pop("metadata.db").startswith(b"SQLite")
    former = [name for name in found if name.startswith("snapshots/")]
    assert [found.pop(name) for name in former] == [b"of a snapshot"]
    assert found == ALONE
    for name in (*former, *ALONE):
        assert name in text
    assert "files/open (was being written)" in text
    assert "1 change of names and attributes had not come" in text


def check_reader(scene: Scene) -> None:
    """See that the state directory is that of a reader as any other."""
    reader = scene.read("w")
    here, there = local_tables(reader._rows), shared_tables(scene.mount.client)
    assert_same(without_own(here, ()), without_own(there, ()))
    assert b"of the heir" in run(names_in(reader))
    assert reader.reserve_ids()[1] >= FIRST_READER_ID
    assert reader.check() == []
    reader.close()
    assert [each for each in (scene.state / "raw").rglob("*") if each.is_file()] == []
    assert not scene.demote()


def test_what_it_alone_has_is_put_away_and_it_reads(scene: Scene) -> None:
    fill(scene)
    with pytest.raises(UsageError, match=r"role = .reader. in .nodes., which puts what it alone"):
        scene.write("w")
    assert scene.demote()
    check_rescued(scene)
    check_reader(scene)
    usage = LostFound(scene.state).usage()
    assert usage.count == len(ALONE) + 3
    # It may take over again, and be replaced again.
    node_table.promote(scene.mount.client, "db", "w", accept_loss=True, rng=random.Random(2))
    writer = scene.write("w")
    sealed(scene.state, writer, b"second life", b"again")
    send(writer)
    writer.close()
    scene.read("third").close()
    node_table.promote(scene.mount.client, "db", "third", accept_loss=True, rng=random.Random(3))
    scene.write("third").close()
    assert scene.demote()
    assert scene.found()["files/second life"] == b"again"
    assert scene.found()["files/open"] == b"being written"
    reader = scene.read("w")
    assert b"second life" in run(names_in(reader))
    reader.close()


def test_one_that_writes_or_reads_stays_as_it_is(scene: Scene) -> None:
    """Nor is one demoted whose database is older than itself."""
    assert not scene.demote("new")
    scene.write("w").close()
    assert not scene.demote()
    scene.read("r").close()
    assert not scene.demote("r")
    writer = scene.write("w")
    sealed(scene.state, writer, b"f", b"kept")
    send(writer)
    writer.close()
    scene.mount.client.query("update node set epoch = 1 where role = 'writer'")
    with pytest.raises(UsageError, match="put back from a backup"):
        scene.demote()
    assert not LostFound(scene.state).names()


@pytest.mark.parametrize(
    ("point", "occasion"), [*((point, 1) for point in DEMOTE_POINTS), ("demote.moved", 3)]
)
def test_a_start_that_is_killed_goes_on(scene: Scene, point: str, occasion: int) -> None:
    """From the files that it has left."""
    fill(scene)
    left = scene.root / "left"
    points: list[str] = []

    def reach(reached: str) -> None:
        points.append(reached)
        if points.count(point) == occasion and not left.exists():
            shutil.copytree(scene.state, left)
            raise Killed

    with pytest.raises(Killed):
        scene.demote(reach=reach)
    shutil.rmtree(scene.state)
    left.rename(scene.state)
    left.mkdir()
    if point in ("demote.marked", "demote.emptied"):
        with pytest.raises(UsageError, match='mount it once with role = "reader"'):
            scene.write("w")
    assert scene.demote(reach=reach) == (point != "demote.done")
    check_rescued(scene)
    check_reader(scene)
    assert {*DEMOTE_POINTS} <= {*points}


def test_a_new_reader_that_is_killed_before_its_tables_goes_on(scene: Scene) -> None:
    """And is no mount of one machine meanwhile: what that makes would be emptied."""
    scene.write("w").close()
    state = scene.root / "r"
    state.mkdir(mode=0o700)
    [(mount_id,)] = scene.mount.client.query("select mount_id from mount")
    NodeFile(state).write(Membership(str(mount_id), (0,), Role.READER))
    prepare_state(state)
    with pytest.raises(UsageError, match="belongs to a node of a mount"):
        SqliteEngine.open(state, CONFIG)
    assert [path.name for path in state.iterdir()] == ["node"]
    scene.read("r").close()
