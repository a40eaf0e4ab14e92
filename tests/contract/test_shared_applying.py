"""A node that reads: what it tells of changes, what it refuses, and how it finds out that it errs.

That its tables are the writer's is seen by random histories here, and by those of single kinds in
`test_shared_replay`.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from memfs.errors import CorruptDataError, ReadOnlyNodeError
from memfs.metadata.namespace import FrozenTree
from memfs.metadata.records import AttributeChanges
from memfs.metadata.shared.applying import Applying, Aspect, TakenName
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.types import ROOT_INODE, FormKind
from tests.contract.engine.making import (
    NOW_NS,
    hydrate,
    make_directory,
    make_file,
    make_sealed,
    new_directory,
    publish,
)
from tests.contract.engine.replica import Bodies, FollowedSite
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, run
from tests.contract.test_engine_machine import QUICK, EngineMachine
from tests.contract.test_engine_snapshot_machine import SnapshotMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from memfs.metadata.shared.applying import Effects
    from memfs.metadata.shared.bodies import Body


class Pair:
    """A writer, and a reader that takes in what it commits."""

    def __init__(self, root: Path) -> None:
        self.writer = SqliteEngine.open(root / "writer", CONFIG, BIRTH_NS, SMALL)
        self.reader = Applying.open(root / "reader", CONFIG, BIRTH_NS, SMALL)
        self._bodies = Bodies()
        self._number = 0
        self.writer._database.follow(self._bodies)

    def take_bodies(self) -> list[tuple[int, Body]]:
        """Return what the writer has changed since."""
        self.writer.commit_nowait()
        changes = [*enumerate(self._bodies.waiting, self._number + 1)]
        self._number += len(changes)
        self._bodies.waiting.clear()
        return changes

    def follow(self) -> Effects:
        """Have the reader take in what the writer has changed since."""
        return self.reader.apply(self.take_bodies())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.writer.close()
    made.reader.close()


def test_names_that_come_and_go_are_told(pair: Pair) -> None:
    writer = pair.writer
    directory = run(make_directory(writer, b"d"))
    inode = run(make_sealed(writer, b"f", size=3))
    effects = pair.follow()
    assert effects.made == [
        (ROOT_INODE, b"d", directory.ino),
        (ROOT_INODE, b"f", inode.ino),
    ]
    assert effects.taken == []
    assert effects.changed[ROOT_INODE] == Aspect.ATTRIBUTES

    run(writer.rename(ROOT_INODE, b"f", directory.ino, b"g", 0, NOW_NS))
    effects = pair.follow()
    assert effects.taken == [TakenName(ROOT_INODE, b"f", inode.ino, leads_on=False)]
    assert effects.made == [(directory.ino, b"g", inode.ino)]

    other = run(make_sealed(writer, b"new", size=3))
    run(writer.rename(ROOT_INODE, b"new", directory.ino, b"g", 0, NOW_NS))
    effects = pair.follow()
    assert TakenName(directory.ino, b"g", inode.ino, leads_on=False) in effects.taken
    assert (directory.ino, b"g", other.ino) in effects.made

    run(writer.rename(ROOT_INODE, b"d", ROOT_INODE, b"e", 0, NOW_NS))
    effects = pair.follow()
    assert effects.taken == [TakenName(ROOT_INODE, b"d", directory.ino, leads_on=True)]

    new = new_directory(writer)._replace(mode=stat.S_IFLNK | 0o777, target=b"f")
    link = run(writer.create(ROOT_INODE, b"s", new))
    run(writer.unlink(ROOT_INODE, b"s", NOW_NS))
    effects = pair.follow()
    assert effects.taken == [TakenName(ROOT_INODE, b"s", link.ino, leads_on=True)]

    run(writer.unlink(directory.ino, b"g", NOW_NS))
    effects = pair.follow()
    assert effects.taken == [TakenName(directory.ino, b"g", other.ino, leads_on=False)]
    assert Aspect.ATTRIBUTES in effects.changed[other.ino]


def test_what_of_an_inode_has_changed_is_told(pair: Pair) -> None:
    writer = pair.writer
    inode = run(make_file(writer, b"f"))
    pair.follow()
    run(writer.set_attributes(inode.ino, AttributeChanges(mode=0o600)))
    assert pair.follow().changed == {inode.ino: Aspect.ATTRIBUTES}
    run(writer.set_xattr(inode.ino, b"user.a", b"1", 0, NOW_NS))
    changed = pair.follow().changed[inode.ino]
    assert Aspect.XATTRS in changed
    assert Aspect.POLICY in changed
    assert run(pair.reader.get_xattr(inode.ino, b"user.a")) == b"1"


def test_trees_that_are_frozen_are_frozen_here(pair: Pair) -> None:
    writer, reader = pair.writer, pair.reader
    tree = run(make_directory(writer, b"tree"))
    file = run(make_sealed(writer, b"f", size=3))
    run(writer.rename(ROOT_INODE, b"f", tree.ino, b"f", 0, NOW_NS))
    assert not pair.follow().frozen
    assert run(reader.find_frozen(file.ino)) is None
    for change, expected in (
        (writer.freeze(tree.ino), FrozenTree(tree.ino, False)),
        (writer.begin_thaw(tree.ino), FrozenTree(tree.ino, True)),
        (writer.freeze(tree.ino), FrozenTree(tree.ino, False)),
        (writer.thaw(tree.ino), None),
    ):
        run(change)
        assert pair.follow().frozen
        assert run(reader.find_frozen(file.ino)) == expected
    run(writer.set_attributes(file.ino, AttributeChanges(mode=0o600)))
    assert not pair.follow().frozen


def test_bytes_that_can_be_had_now_are_told(pair: Pair) -> None:
    writer = pair.writer
    inode = run(make_sealed(writer, b"f", size=3))
    effects = pair.follow()
    assert Aspect.CONTENT in effects.changed[inode.ino]
    assert run(pair.reader.list_all_forms(run(pair.reader.get_inode(inode.ino)))) == []
    assert run(publish(writer, inode, FormKind.REMOTE))
    effects = pair.follow()
    assert Aspect.CONTENT in effects.changed[inode.ino]
    [form] = run(pair.reader.list_all_forms(run(pair.reader.get_inode(inode.ino))))
    assert form.kind is FormKind.REMOTE


def test_a_raw_file_of_a_generation_that_ends_becomes_garbage(pair: Pair) -> None:
    writer, reader = pair.writer, pair.reader
    inode = run(make_sealed(writer, b"f", size=3))
    assert run(publish(writer, inode, FormKind.REMOTE))
    gone = run(make_sealed(writer, b"g", size=3))
    assert run(publish(writer, gone, FormKind.REMOTE))
    pair.follow()
    raws = []
    for ino in (inode.ino, gone.ino):
        assert run(hydrate(reader, run(reader.get_inode(ino))))
        raws.append(run(reader.get_inode(ino)).raw)
    usage = run(reader.usage())
    assert usage.raw_count == 2
    assert usage.raw_bytes > 0
    _, raw = writer.reserve_ids()
    run(writer.unseal(inode.ino, raw))
    run(writer.unlink(ROOT_INODE, b"g", NOW_NS))
    run(writer.reap([gone.ino]))
    pair.follow()
    assert run(reader.get_inode(inode.ino)).raw == 0
    garbage = run(reader.list_garbage(9))
    assert [(item.kind, item.location) for item in garbage] == [
        (FormKind.RAW, str(raw)) for raw in raws
    ]
    usage = run(reader.usage())
    assert (usage.raw_count, usage.raw_bytes, usage.garbage_count) == (0, 0, 2)
    assert reader.check() == []


def test_a_reader_changes_nothing_that_is_shared(pair: Pair) -> None:
    """Whatever calls the engine: what it has alone passes, all else is EROFS and leaves nothing."""
    writer, reader = pair.writer, pair.reader
    inode = run(make_sealed(writer, b"f", size=3))
    pair.follow()
    calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: make_file(reader, b"new"),
        lambda: make_directory(reader, b"new"),
        lambda: reader.freeze(ROOT_INODE),
        lambda: reader.unlink(ROOT_INODE, b"f", NOW_NS),
        lambda: reader.rename(ROOT_INODE, b"f", ROOT_INODE, b"g", 0, NOW_NS),
        lambda: reader.set_attributes(inode.ino, AttributeChanges(mode=0)),
        lambda: reader.set_xattr(inode.ino, b"user.a", b"", 0, NOW_NS),
        lambda: reader.unseal(inode.ino, reader.reserve_ids()[1]),
        lambda: publish(reader, inode, FormKind.REMOTE),
        lambda: reader.create_snapshot("s", NOW_NS, "", [], None),
        lambda: reader.put_setting("policy.pools", b"{}"),
    ]
    before = reader._rows("select count(*), max(ino) from inode"), [*reader._totals]
    for call in calls:
        with pytest.raises(ReadOnlyNodeError, match="another one writes"):
            run(call())
        assert reader.check() == []
    after = reader._rows("select count(*), max(ino) from inode"), [*reader._totals]
    assert after == before
    run(reader.put_setting("recheck.boot", b"1"))
    reader.commit_nowait()
    # It follows on.
    run(make_directory(writer, b"d"))
    pair.follow()
    assert run(reader.lookup(ROOT_INODE, b"d")) is not None


def test_tables_that_are_not_the_writers_are_found_out(pair: Pair) -> None:
    writer, reader = pair.writer, pair.reader
    run(make_sealed(writer, b"f", size=3))
    lost = pair.take_bodies()
    other = run(make_sealed(writer, b"g", size=3))
    before = reader._rows("select count(*) from dentry")
    with pytest.raises(CorruptDataError, match="not the writer's"):
        pair.follow()
    # Nothing of it was done, and nothing was taken for done.
    assert reader._rows("select count(*) from dentry") == before
    assert reader.read_applied() == 0
    reader.apply(lost)
    run(writer.set_attributes(other.ino, AttributeChanges(mode=0o600)))
    with pytest.raises(CorruptDataError, match=f"inode {other.ino}, which this node lacks"):
        pair.follow()
    assert reader.check() == []


@pytest.mark.parametrize("machine", [EngineMachine, SnapshotMachine])
def test_a_reader_has_what_the_writer_has(machine: type[EngineMachine]) -> None:
    """Names, contents, forms, batches, xattrs, snapshots, crashes of both."""

    class Machine(machine):  # type: ignore[misc, valid-type]  # a base that is chosen
        pass

    Machine.site_class = FollowedSite
    run_state_machine_as_test(Machine, settings=settings(QUICK, max_examples=10))
