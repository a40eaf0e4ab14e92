"""Random calls with snapshots among them: each equals a copy of the tree of its instant."""

from __future__ import annotations

import copy
import stat
from collections import defaultdict
from contextlib import suppress
from typing import cast

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, precondition, rule

from memfs.errors import MemfsError
from memfs.metadata.records import (
    AttributeChanges,
    Difference,
    Inode,
    InodeFlags,
    KeptContent,
    MoveKind,
    NewInode,
    OpenContent,
)
from memfs.metadata.sqlite.namespace import RENAME_EXCHANGE
from memfs.policy.marks import SNAPSHOT_XATTR
from memfs.types import (
    NO_BLOB,
    NO_RAW,
    NOW,
    ROOT_INODE,
    BlobId,
    Generation,
    InodeNo,
    RawId,
    SnapshotId,
)
from tests.contract.engine.making import NOW_NS, Seen, Tree, live_tree, make_file, tree_at
from tests.contract.engine.model import Node
from tests.contract.engine.postgres_site import PostgresSite
from tests.contract.engine.site import SqliteSite, SuspendingSite, run
from tests.contract.test_engine_machine import (
    INDEXES,
    NAMES,
    QUICK,
    EngineMachine,
    GivenUpError,
)


class SnapshotMachine(EngineMachine):
    """The rules of `EngineMachine`, and snapshots that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.name_count = 0
        self.raws: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        """Raw files that had the bytes of a generation."""
        self.stocked: list[tuple[InodeNo, RawId]] = []
        self.absent: set[tuple[int, int]] = set()
        """Generations that were open at a snapshot, and of which no copy was made."""
        self.emptied: set[tuple[int, int]] = set()
        """Generations that were sealed empty: who had them open has cut them to nothing."""

    @property
    def trees(self) -> dict[SnapshotId, Tree]:
        """The trees that the snapshots have to show."""
        return cast("dict[SnapshotId, Tree]", self.model.snapshots)

    def teardown(self) -> None:
        with suppress(MemfsError):
            self.engine.commit_nowait()
        try:
            self.compare_all()
            for snap in list(self.trees):
                self.delete_snapshot(snap)
            while run(self.engine.delete_snapshot_step(5)):
                pass
            assert self.site.undo_row_count() == 0
        finally:
            super().teardown()

    def compare_all(self) -> None:
        super().compare_all()
        assert list(self.trees) == [each.snap for each in run(self.engine.list_snapshots())]
        for snap, tree in self.trees.items():
            assert tree == run(tree_at(self.engine, snap))
            self.compare_bytes(snap, tree)
        self.compare_held()

    def compare_held(self) -> None:
        """See that what is kept is counted, and who shows it told."""
        assert run(self.engine.recount_snapshots()) == run(self.engine.snapshot_usage())
        shown: defaultdict[tuple[RawId, BlobId], set[SnapshotId]] = defaultdict(set)
        for snap, tree in self.trees.items():
            for seen in tree.values():
                inode = run(self.engine.inode_at(snap, seen.inode.ino))
                shown[NO_RAW if inode.blob else inode.raw, inode.blob].add(snap)
        files = run(self.engine.list_files(InodeNo(0), 1000))
        live = {(inode.ino, inode.generation) for inode in files}
        blobs = {inode.blob for inode in files if inode.blob}
        after = (InodeNo(0), Generation(0))
        while page := run(self.engine.list_held(after, 2)):
            for held in page:
                after = (held.ino, held.generation)
                [kept] = run(self.engine.list_kept((held.ino, Generation(held.generation - 1)), 1))
                assert held.raw_bytes == (kept.blocks * 512 if kept.raw else 0)
                stored_bytes = held.packed_bytes + held.remote_bytes
                if kept.blob in blobs:
                    assert not stored_bytes
                elif kept.blob:
                    assert stored_bytes == sum(
                        form.stored_bytes
                        for form in run(self.engine.list_forms(kept.blob))
                        if form.owned
                    )
                if after not in live and (kept.raw or kept.blob):
                    snaps = shown[kept.raw, kept.blob]
                    span = (min(snaps), max(snaps)) if snaps else (None, None)
                    assert (held.oldest, held.newest) == span
                blobs.add(kept.blob)

    def compare_bytes(self, snap: SnapshotId, tree: Tree) -> None:
        """See that something has the bytes of each file, and nothing else's.

        Files that were left out at the instant may have lost theirs.
        """
        self.raws_are_noted()
        left_out = {seen.inode.ino for path, seen in tree.items() if is_left_out(tree, path)}
        for seen in tree.values():
            ino, generation = seen.inode.ino, seen.inode.generation
            if not stat.S_ISREG(seen.inode.mode) or not seen.inode.size:
                continue
            inode = run(self.engine.inode_at(snap, ino))
            if (ino, generation) in self.absent:
                assert not inode.raw
                assert not inode.blob
                assert inode.flags & InodeFlags.UNSEALED
                continue
            if (ino, generation) in self.emptied:
                # It had a size at the instant, so it was open then; nothing is left to be kept.
                continue
            assert inode.raw or inode.blob or ino in left_out
            if inode.raw:
                assert inode.raw in self.raws[ino, generation]

    def pick_snapshot(self, index: int) -> SnapshotId:
        snaps = [*self.trees, NOW]
        return snaps[index % len(snaps)]

    # --- more of what changes --------------------------------------------------------------------
    @rule()
    def stock(self) -> None:
        """Numbers are taken long before they are used."""
        self.stocked.append(self.engine.reserve_ids())

    @rule(parent=INDEXES, name=NAMES)
    @precondition(lambda self: self.stocked)
    def create_of_stock(self, parent: int, name: bytes) -> None:
        ino, raw = self.stocked.pop()
        xattrs = ((b"user.a", b"inherited"),)
        new = NewInode(
            InodeNo(ino),
            stat.S_IFREG | 0o600,
            1,
            1,
            NOW_NS,
            raw=raw,
            xattrs=xattrs,
        )
        where = self.pick(parent)

        def create() -> None:
            self.model.create(where, name, ino, directory=False)
            self.model.nodes[ino].xattrs.update(xattrs)

        self.both(self.engine.create(where, name, new), create)

    @rule(parent=INDEXES, name=NAMES, text=st.binary(min_size=1, max_size=9))
    def symlink(self, parent: int, name: bytes, text: bytes) -> None:
        where = self.pick(parent)
        ino, _raw = self.engine.reserve_ids()
        new = NewInode(ino, stat.S_IFLNK | 0o777, 1, 1, NOW_NS, target=text)

        def create() -> None:
            self.model.create(where, name, ino, directory=False)
            self.model.nodes[ino] = Node(False, 1, size=len(text), symlink=True)

        self.both(self.engine.create(where, name, new), create)

    @rule(index=INDEXES, value=st.sampled_from([b"off", b"off", b"on", None]))
    def mark(self, index: int, value: bytes | None) -> None:
        """Leave bytes out of snapshots from now on, or no longer."""
        ino = self.pick(index)
        if value is None:
            self.remove_xattr(index, SNAPSHOT_XATTR)
            return
        self.both(
            self.engine.set_xattr(ino, SNAPSHOT_XATTR, value, 0, NOW_NS),
            lambda: self.model.set_xattr(ino, SNAPSHOT_XATTR, value, 0),
        )

    @rule(index=INDEXES, uid=st.integers(0, 2))
    def own(self, index: int, uid: int) -> None:
        """A mark of a directory holds for files of its own user, or if it is root's."""
        ino = self.pick(index)
        self.site.run(self.engine.set_attributes(ino, AttributeChanges(uid=uid)))

    @rule(index=INDEXES, mode=st.integers(0, 0o7777), mtime_ns=st.integers(0, 9))
    def set_attributes(self, index: int, mode: int, mtime_ns: int) -> None:
        ino = self.pick(index)
        changes = AttributeChanges(mode=mode, mtime_ns=mtime_ns, ctime_ns=NOW_NS)
        if run(self.engine.get_inode(ino)).flags & InodeFlags.UNSEALED:
            # Its time is that of its raw file; what it was at a snapshot is told by `part_open`.
            changes = changes._replace(mtime_ns=None)
        self.site.run(self.engine.set_attributes(ino, changes))

    # --- snapshots -------------------------------------------------------------------------------
    @rule(
        acts=st.lists(st.tuples(st.integers(0, 7), INDEXES, INDEXES), min_size=4, max_size=12),
        leaving=st.lists(INDEXES, max_size=3),
        limit=st.integers(1, 4),
    )
    def days(self, acts: list[tuple[int, int, int]], leaving: list[int], limit: int) -> None:
        """Changes with snapshots among them, of which some go: what chance alone rarely makes."""
        for count, (act, first, second) in enumerate(acts):
            if count % 3 == 0 and len(self.trees) < 5:
                self.create_snapshot()
            self.act(act, first, second)
        for index in leaving:
            if self.trees:
                self.delete_snapshot(list(self.trees)[index % len(self.trees)])
                self.act(index % 8, index, limit)
            self.delete_step(limit)
        for snap, tree in self.trees.items():
            assert tree == run(tree_at(self.engine, snap))

    def act(self, act: int, first: int, second: int) -> None:
        """Do one of the changes that come most often."""
        name = (b"a", b"b", b"c")[second % 3]
        where, entry = self.pick_entry(first)
        match act:
            case 0:
                self.create(first, name, directory=bool(second % 2))
            case 1:
                self.unlink(first)
            case 2:
                self.rmdir(first)
            case 3:
                self.rename(where, entry, self.pick(second), name, second % 3)
            case 4:
                self.rename(where, entry, *self.pick_entry(second), second % 3)
            case 5:
                self.set_xattr(first, b"user.a", name, 0)
            case 6:
                self.remove_xattr(first, b"user.a")
            case 7:
                self.reap(first)

    @rule(index=INDEXES, size=st.integers(0, 1 << 40))
    def seal(self, index: int, size: int) -> None:
        super().seal(index, size)
        ino = self.pick_file(index)
        if not size:
            self.emptied.add((ino, self.site.run(self.engine.get_inode(ino)).generation))

    @rule()
    @precondition(lambda self: len(self.trees) < 5)
    def create_snapshot(self) -> None:
        self.name_count += 1
        tree = run(live_tree(self.engine))
        made = self.site.run(self.engine.create_snapshot(f"s{self.name_count}", NOW_NS))
        self.model.snapshots[made.snap] = tree

    @rule(name=NAMES, kept=st.booleans())
    @precondition(lambda self: len(self.trees) < 5)
    def snapshot_within_a_change(self, name: bytes, kept: bool) -> None:
        """A snapshot between two calls of one step, which is kept or given up."""
        before = copy.deepcopy(self.model)
        self.name_count += 1

        async def step() -> None:
            await self.engine.set_xattr(ROOT_INODE, b"user.a", b"before", 0, NOW_NS)
            self.model.set_xattr(ROOT_INODE, b"user.a", b"before", 0)
            tree = await live_tree(self.engine)
            made = await self.engine.create_snapshot(f"s{self.name_count}", NOW_NS)
            self.model.snapshots[made.snap] = tree
            await self.engine.set_xattr(ROOT_INODE, b"user.a", name, 0, NOW_NS)
            self.model.set_xattr(ROOT_INODE, b"user.a", name, 0)
            if not kept:
                raise GivenUpError

        async def change() -> None:
            with suppress(GivenUpError):
                async with self.engine.change():
                    await step()

        self.site.run(change())
        if kept:
            self.committed = copy.deepcopy(self.model)
        else:
            self.model = before

    @rule(copied=st.booleans(), late=st.booleans())
    @precondition(lambda self: len(self.trees) < 5)
    def snapshot_of_open_files(self, copied: bool, late: bool) -> None:
        """Each file that may have a writer begins a new generation at the instant."""
        self.name_count += 1
        tree = run(live_tree(self.engine))

        async def part() -> tuple[SnapshotId, list[Inode]]:
            async with self.engine.change():
                made = await self.engine.create_snapshot(f"s{self.name_count}", NOW_NS)
                files = await self.engine.list_unsealed(InodeNo(0), 1000)
                contents = [OpenContent(each.ino, each.size, each.mtime_ns) for each in files]
                parted = await self.engine.part_open(contents)
                assert [each.ino for each in parted] == [each.ino for each in files if each.nlink]
            return made.snap, parted

        snap, parted = self.site.run(part())
        self.model.snapshots[snap] = tree
        for inode in parted:
            node = self.model.nodes[inode.ino]
            node.generation += 1
            self.raws[inode.ino, node.generation].add(node.raw)
            self.absent.add((inode.ino, inode.generation))
        self.committed = copy.deepcopy(self.model)
        if late:
            self.delete_snapshot(snap)
            while self.site.run(self.engine.delete_snapshot_step(3)):
                pass
        for inode in parted if copied else ():
            kept = self.site.run(self.copy_open(inode))
            assert kept == any(
                seen.inode.ino == inode.ino and seen.inode.generation == inode.generation
                for each in self.trees.values()
                for seen in each.values()
            )

    async def copy_open(self, inode: Inode) -> bool:
        _, raw = self.engine.reserve_ids()
        content = KeptContent(
            *(inode.ino, inode.generation, raw, NO_BLOB),
            *(inode.size, 3, inode.mtime_ns),
            open=True,
        )
        async with self.engine.change():
            intent = await self.engine.begin_intent(
                MoveKind.HYDRATE, inode.ino, inode.generation, str(raw), NOW_NS
            )
            kept = await self.engine.keep_open(content, intent)
        if kept:
            self.absent.discard((inode.ino, inode.generation))
            self.raws[inode.ino, inode.generation] = {raw}
        self.model.garbage.add(("raw", str(raw)))
        self.committed = copy.deepcopy(self.model)
        return kept

    @rule(index=INDEXES)
    @precondition(lambda self: self.trees)
    def delete_one(self, index: int) -> None:
        snap = self.pick_snapshot(index)
        if snap != NOW:
            self.delete_snapshot(snap)

    def delete_snapshot(self, snap: SnapshotId) -> None:
        self.site.run(self.engine.delete_snapshot(snap))
        del self.model.snapshots[snap]

    @rule(limit=st.integers(1, 4))
    def delete_step(self, limit: int) -> None:
        self.site.run(self.engine.delete_snapshot_step(limit))

    @rule(first=INDEXES, second=INDEXES, under=INDEXES, limit=st.integers(1, 5))
    def compare_two(self, first: int, second: int, under: int, limit: int) -> None:
        before, after = sorted([self.pick_snapshot(first), self.pick_snapshot(second)])
        trees = {**self.trees, NOW: run(live_tree(self.engine))}
        directory = self.pick(under) if under % 3 == 0 else ROOT_INODE
        expected = differences(trees[before], trees[after], directory)
        found: dict[InodeNo, Difference] = {}
        position: InodeNo | None = InodeNo(0)
        while position is not None:
            page = self.site.run(self.engine.diff(before, after, directory, position, limit))
            assert all(each.ino not in found for each in page.differences)
            found |= {each.ino: each for each in page.differences}
            position = page.position
        assert expected == {
            ino: (set(each.paths_before), set(each.paths_after)) for ino, each in found.items()
        }

    @rule(index=INDEXES)
    @precondition(lambda self: self.trees)
    def look_back(self, index: int) -> None:
        snap = self.pick_snapshot(index)
        if snap != NOW:
            assert self.trees[snap] == run(tree_at(self.engine, snap))

    @invariant()
    def raws_are_noted(self) -> None:
        for ino, node in self.model.nodes.items():
            self.raws[ino, node.generation].add(node.raw)
        for each in run(self.engine.list_kept((InodeNo(0), Generation(0)), 1000)):
            # A copy that was just made; what it may not be is the raw file of anything else.
            if not any(each.raw in raws for raws in self.raws.values()):
                self.raws[each.ino, each.generation].add(each.raw)

    @rule(index=INDEXES, size=st.integers(1, 1 << 20))
    def rewrite(self, index: int, size: int) -> None:
        """A sealed file between two snapshots is written in place, and may be replaced."""
        self.seal(index, size)
        if len(self.trees) < 5:
            self.create_snapshot()
        self.raws_are_noted()
        self.unseal(index, fresh=False)
        self.seal(index, size + 1)

    @rule(index=INDEXES, size=st.integers(1, 1 << 20), fresh=st.booleans())
    def mark_late(self, index: int, size: int, fresh: bool) -> None:
        """A mark that comes after a snapshot takes nothing from it."""
        self.seal(index, size)
        if len(self.trees) < 5:
            self.create_snapshot()
        self.raws_are_noted()
        self.mark(index, b"off")
        self.unseal(index, fresh=fresh)
        self.seal(index, size + 1)

    @invariant()
    def newest_is_exact(self) -> None:
        if self.trees:
            snap = max(self.trees)
            assert self.trees[snap] == run(tree_at(self.engine, snap))
            self.compare_bytes(snap, self.trees[snap])


def is_left_out(tree: Tree, path: bytes) -> bool:
    """Return whether a mark at the instant of a tree leaves out the bytes of what has a path."""
    user, above = tree[path].inode.uid, path
    while True:
        mark = dict(tree[above].xattrs).get(SNAPSHOT_XATTR)
        if mark is not None and (above == path or tree[above].inode.uid in (0, user)):
            return mark == b"off"
        if not above:
            return False
        above = above.rpartition(b"/")[0]


def differences(
    before: Tree, after: Tree, under: InodeNo
) -> dict[InodeNo, tuple[set[bytes], set[bytes]]]:
    """Return the paths of each inode that differs, at both instants, from whole trees."""
    places = [by_inode(tree) for tree in (before, after)]
    found = {}
    for ino in {*places[0], *places[1]}:
        was, now = (each.get(ino) for each in places)
        paths = tuple(set() if each is None else each[1] for each in (was, now))
        above = {
            tree[path[: index if index > 0 else 0]].inode.ino
            for tree, group in ((before, paths[0]), (after, paths[1]))
            for path in group
            for index in [i for i, letter in enumerate(path) if letter == ord("/")] + [len(path)]
        }
        if under in above and looks(was) != looks(now):
            found[ino] = (
                {path or b"/" for path in paths[0]},
                {path or b"/" for path in paths[1]},
            )
    return found


def by_inode(tree: Tree) -> dict[InodeNo, tuple[Seen, set[bytes], set[tuple[int, bytes]]]]:
    """Return for each inode its place, its paths, and its names in directories."""
    found: dict[InodeNo, tuple[Seen, set[bytes], set[tuple[int, bytes]]]] = {}
    for path, place in tree.items():
        above, _, name = path.rpartition(b"/")
        _place, paths, names = found.setdefault(place.inode.ino, (place, set(), set()))
        paths.add(path)
        if path:
            names.add((tree[above].inode.ino, name))
    return found


def looks(found: tuple[Seen, set[bytes], set[tuple[int, bytes]]] | None) -> object:
    """Return what makes an inode differ in a user's eyes."""
    if found is None:
        return None
    place, _paths, names = found
    inode = place.inode._replace(nlink=0, ctime_ns=0)
    if stat.S_ISDIR(inode.mode):
        inode = inode._replace(mtime_ns=0, size=0)
    return inode, place.xattrs, place.target, names


class SuspendingSnapshotMachine(SnapshotMachine):
    """The engine suspends at random and commits late."""

    site_class = SuspendingSite


class PostgresSnapshotMachine(SnapshotMachine):
    """The engine of a node, whose changes a database has as well."""

    site_class = PostgresSite


SnapshotMachine.TestCase.settings = settings(QUICK, max_examples=60)
TestSnapshotMachine = SnapshotMachine.TestCase
SuspendingSnapshotMachine.TestCase.settings = settings(QUICK, max_examples=20)
TestSuspendingSnapshotMachine = SuspendingSnapshotMachine.TestCase
PostgresSnapshotMachine.TestCase.settings = settings(QUICK, max_examples=10)
TestPostgresSnapshotMachine = pytest.mark.usefixtures("postgres_mount")(
    PostgresSnapshotMachine.TestCase
)


async def test_a_name_that_led_to_a_younger_inode_goes_with_its_snapshot(
    engine_site: SqliteSite,
) -> None:
    """It was handed to a snapshot that was leaving as well and older than the inode, for good."""
    engine = engine_site.engine
    await make_file(engine, b"name")
    first = await engine.create_snapshot("first", NOW_NS)
    second = await engine.create_snapshot("second", NOW_NS)
    await engine.delete_snapshot(second.snap)
    for number, name in enumerate((b"younger", b"youngest")):
        await make_file(engine, name)
        await engine.rename(ROOT_INODE, name, ROOT_INODE, b"name", RENAME_EXCHANGE, NOW_NS)
        if not number:
            third = await engine.create_snapshot("third", NOW_NS)
    await engine.delete_snapshot(third.snap)
    while await engine.delete_snapshot_step(1):
        assert not engine.check()
    await engine.delete_snapshot(first.snap)
    while await engine.delete_snapshot_step(1):
        assert not engine.check()
    assert engine_site.undo_row_count() == 0


async def test_a_symlink_of_a_leaving_snapshot_may_go_before_its_rows(
    engine_site: SqliteSite,
) -> None:
    """It was taken for damage that its target was gone, which no snapshot shows any longer."""
    engine = engine_site.engine
    first = await engine.create_snapshot("first", NOW_NS)
    ino = engine.reserve_ids()[0]
    new = NewInode(ino, stat.S_IFLNK | 0o777, 1, 1, NOW_NS, target=b"target")
    await engine.create(ROOT_INODE, b"link", new)
    second = await engine.create_snapshot("second", NOW_NS)
    await engine.set_attributes(ino, AttributeChanges(mode=0o700))
    await engine.delete_snapshot(second.snap)
    await engine.unlink(ROOT_INODE, b"link", NOW_NS)
    await engine.reap([ino])
    assert engine.check() == []
    await engine.delete_snapshot(first.snap)
    while await engine.delete_snapshot_step(1):
        assert engine.check() == []
    assert engine_site.undo_row_count() == 0
