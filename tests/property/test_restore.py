"""A restore makes the tree equal to what it was, bytes included, whatever has become of it."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, Phase, example, given, settings

from memfs.content.past import PastReader, PastState
from memfs.errors import MemfsError
from memfs.filesystem.operations import AttributeRequest
from memfs.jobs.restoring import BEFORE_PREFIX, RestoreMethods
from memfs.jobs.snapshot_removal import SnapshotRemoval
from memfs.jobs.snapshots import SnapshotMethods
from memfs.moves.dropping import drop_raw
from memfs.moves.open_files import OpenFiles
from memfs.moves.packing import pack
from memfs.namespace.xattrs import XATTRS_BYTES_MAX
from memfs.types import ROOT_INODE, InodeNo
from tests.moving import compressible
from tests.property.world import ROOMY, Refusal, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SET_NS = 10**18
NAMES = (b"a", b"b", b"c")
INDEXES = st.integers(0, 11)
ACTS = st.lists(st.tuples(st.integers(0, 11), INDEXES, INDEXES), min_size=3, max_size=14)
POINTS = ("copy.begun", "copy.created", "copy.written", "copy.published")


class Seen(NamedTuple):
    """What a user sees of a path."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    """0 of a directory."""
    xattrs: dict[bytes, bytes]
    target: bytes
    content: bytes
    links: frozenset[bytes]
    """All paths of the same inode."""


Tree = dict[bytes, Seen]


@contextmanager
def a_world() -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="memfs-restore-"))
    try:
        world = World(root, ROOMY, passthrough=True)
        yield world
        world.close()
    finally:
        shutil.rmtree(root)


def see(world: World, below: bytes = b"") -> Tree:
    """Return all below a path of the present."""
    return {path: seen for path, seen in world.run(_see(world)).items() if path.startswith(below)}


async def _see(world: World) -> Tree:
    engine = world.engine
    found: Tree = {}
    paths: dict[InodeNo, set[bytes]] = {}
    stack: list[tuple[bytes, InodeNo]] = [(b"", ROOT_INODE)]
    while stack:
        path, ino = stack.pop()
        inode = await engine.get_inode(ino)
        is_directory = stat.S_ISDIR(inode.mode)
        live = (await world.filesystem.get_attributes(ino)).inode
        xattrs = {name: await engine.get_xattr(ino, name) for name in await engine.list_xattrs(ino)}
        found[path] = Seen(
            inode.mode,
            (inode.uid, inode.gid),
            0 if is_directory else live.mtime_ns,
            xattrs,
            await engine.read_link(ino) if stat.S_ISLNK(inode.mode) else b"",
            await world.read_all(ino) if stat.S_ISREG(inode.mode) else b"",
            frozenset(),
        )
        paths.setdefault(ino, set()).add(path)
        if is_directory:
            entries = await engine.list_directory(ino, 0, 1000)
            stack += [(path + b"/" + entry.name, entry.inode.ino) for entry in entries]
    for group in paths.values():
        for path in group:
            found[path] = found[path]._replace(links=frozenset(group))
    return found


class Programs:
    """What programs do to a tree, as numbers say."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = 0

    def do(self, acts: list[tuple[int, int, int]]) -> None:
        for act, first, second in acts:
            self.count += 1
            with suppress(Refusal, MemfsError):
                self._act(act, first, second)
        for _ in range(3):
            self.world.step()

    def _entries(self) -> list[tuple[InodeNo, bytes, InodeNo, int]]:
        async def collect() -> list[tuple[InodeNo, bytes, InodeNo, int]]:
            found, stack = [], [ROOT_INODE]
            while stack:
                parent = stack.pop()
                for entry in await self.world.engine.list_directory(parent, 0, 1000):
                    inode = entry.inode
                    found.append((parent, entry.name, inode.ino, inode.mode))
                    if stat.S_ISDIR(inode.mode):
                        stack.append(inode.ino)
            return found

        return self.world.run(collect())

    def _act(self, act: int, first: int, second: int) -> None:
        world, filesystem = self.world, self.world.filesystem
        entries = self._entries()
        directories = [ROOT_INODE, *(ino for _, _, ino, mode in entries if stat.S_ISDIR(mode))]
        files = [each for each in entries if stat.S_ISREG(each[3])]
        where, name = directories[first % len(directories)], NAMES[second % len(NAMES)]
        content = compressible(3000 * (second % 4), self.count)
        match act:
            case 0 | 1:
                file = world.create(where, name, 0o644, os.O_RDWR)
                world.write(file, 0, content)
                world.release(file)
            case 2:
                world.request(filesystem.make_directory(world.program, where, name, 0o755))
            case 3:
                world.request(filesystem.make_symlink(world.program, where, name, b"%d" % second))
        if not entries:
            return
        parent, entry, ino, mode = entries[first % len(entries)]
        match act:
            case 4:
                remove = filesystem.remove_directory if stat.S_ISDIR(mode) else filesystem.unlink
                world.request(remove(parent, entry))
                filesystem.forget([ino])
            case 5 | 6:
                target = directories[second % len(directories)]
                flags = 2 if first % 3 == 0 else 0
                to = NAMES[(first + second) % len(NAMES)]
                world.request(filesystem.rename(parent, entry, target, to, flags))
            case 7:
                world.request(filesystem.link(ino, where, name))
            case 8:
                request = AttributeRequest(mode=0o600 + second, mtime_ns=SET_NS + self.count)
                world.request(filesystem.set_attributes(world.program, ino, request))
            case 9:
                value = b"%d" % second
                world.request(filesystem.set_xattr(world.program, ino, b"user.x", value, 0, False))
        if not files:
            return
        ino = files[first % len(files)][2]
        match act:
            case 10:
                file = world.open(ino, os.O_RDWR)
                world.write(file, second * 100, b"changed" * second)
                world.release(file)
            case 11:
                world.step()
                world.run(pack(world.move_parts, ino))
                world.run(drop_raw(world.move_parts, ino))


def snapshot(world: World, name: str = "snapshot") -> None:
    world.step()
    world.run(world.engine.create_snapshot(name, time.time_ns()))
    world.engine.commit_nowait()


@asynccontextmanager
async def restoring(world: World) -> AsyncIterator[RestoreMethods]:
    """Restore beside what copies files that are open for writing."""
    open_files = OpenFiles(world.move_parts)
    snapshots = SnapshotMethods(world.move_parts, SnapshotRemoval(world.engine), open_files)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_files.run)
        yield RestoreMethods(world.filesystem, world.move_parts, snapshots, slice_s=0.0)
        nursery.cancel_scope.cancel()


def restore(world: World, stop_after: int | None = None, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - those of the method
    """Restore from the snapshot; all of it, or so many steps."""

    async def go_on() -> dict[str, Any]:
        options.setdefault("path", "")
        steps = 0
        async with restoring(world) as methods:
            while True:
                report = await methods.restore("work", snapshot="snapshot", **options)
                steps += 1
                if report["ended"] or steps == stop_after:
                    return {**report}

    return world.run(go_on())


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
)
@given(
    before=ACTS,
    after=ACTS,
    stop=st.none() | st.integers(1, 12),
    point=st.none() | st.sampled_from(POINTS),
    part=st.sampled_from(["", "", "a", "a/b"]),
)
@example(  # a hard link in a directory that was made anew: its other name was replaced each time
    before=[
        *((11, 6, 3), (10, 0, 8), (9, 2, 2), (4, 5, 1), (4, 1, 6), (0, 1, 11), (8, 1, 2)),
        *((2, 9, 6), (0, 0, 7), (7, 2, 2), (2, 9, 11), (10, 0, 4), (7, 10, 10)),
    ],
    after=[
        *((1, 2, 10), (10, 1, 0), (6, 0, 0), (4, 2, 3), (9, 10, 7), (4, 0, 1), (11, 5, 7)),
        *((6, 4, 6), (11, 8, 4), (2, 5, 7), (8, 8, 2), (10, 8, 8), (11, 4, 3), (0, 10, 10)),
    ],
    stop=None,
    point="copy.written",
    part="",
)
def test_a_restore_makes_the_tree_what_it_was(
    before: list[tuple[int, int, int]],
    after: list[tuple[int, int, int]],
    stop: int | None,
    point: str | None,
    part: str,
) -> None:
    """Also after kills between its steps, and amid the copies of raw files."""
    with a_world() as world:
        Programs(world).do(before)
        snapshot(world)
        expected = see(world, prefix(part))
        programs = Programs(world)
        programs.count = 1000
        programs.do(after)
        outside = contents_outside(see(world), prefix(part))
        if not expected:
            return
        if point is not None:
            world.interruptions.arm(point, world.capture)
            restore(world, path=part, delete=True)
            if world.is_captured:
                world.crash(checked=True)
        if stop is not None:
            restore(world, stop, path=part, delete=True)
            world.crash(checked=True)
        report = restore(world, path=part, delete=True)
        assert report["failures"] == []
        found = see(world, prefix(part))
        assert {path: within(seen, part) for path, seen in found.items()} == {
            path: within(seen, part) for path, seen in expected.items()
        }
        assert contents_outside(see(world), prefix(part)) == outside
        again = restore(world, path=part, delete=True)
        changed = [again[name] for name in ("file_count", "directory_count", "removed_count")]
        assert changed == [0, 0, 0]
        world.remount()
        assert {path: seen.content for path, seen in see(world, prefix(part)).items()} == {
            path: seen.content for path, seen in expected.items()
        }


def prefix(part: str) -> bytes:
    return b"/" + part.encode() if part else b""


def within(seen: Seen, part: str) -> Seen:
    """Leave the links out that lie elsewhere: they are no part of what is restored."""
    links = frozenset(link for link in seen.links if link.startswith(prefix(part)))
    return seen._replace(links=links)


def contents_outside(tree: Tree, below: bytes) -> dict[bytes, bytes]:
    return {path: seen.content for path, seen in tree.items() if not path.startswith(below)}


# --- single cases --------------------------------------------------------------------------------
@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    yield opened
    opened.close()


def write(world: World, name: bytes, content: bytes, parent: InodeNo = ROOT_INODE) -> InodeNo:
    file = world.create(parent, name, 0o644, os.O_RDWR)
    world.write(file, 0, content)
    world.release(file)
    for _ in range(3):
        world.step()
    return file.ino


def test_xattrs_come_back_that_have_no_room_beside_the_present_ones(world: World) -> None:
    ino = write(world, b"a", b"content")

    def share(first: int) -> None:
        sizes = {b"user.a": first, b"user.b": XATTRS_BYTES_MAX - first - 2 * len(b"user.a")}
        for name, size in sorted(sizes.items(), key=lambda each: each[1]):
            world.run(world.engine.set_xattr(ino, name, bytes(size), 0, SET_NS))

    share(60_000)
    before = see(world)
    snapshot(world)
    share(1000)
    assert restore(world)["failed_count"] == 0
    assert see(world) == before


def test_nothing_is_removed_unless_it_is_asked_for(world: World) -> None:
    write(world, b"kept", b"old")
    snapshot(world)
    write(world, b"new", b"new")
    world.request(world.filesystem.unlink(ROOT_INODE, b"kept"))
    report = restore(world)
    assert (report["file_count"], report["removed_count"]) == (1, 0)
    assert {path: seen.content for path, seen in see(world).items()} == {
        b"": b"",
        b"/kept": b"old",
        b"/new": b"new",
    }
    assert restore(world, delete=True)["removed_count"] == 1
    assert set(see(world)) == {b"", b"/kept"}


def test_a_restore_can_be_taken_back(world: World) -> None:
    write(world, b"f", b"old")
    snapshot(world)
    ino = write(world, b"g", b"more")
    file = world.open(ino, os.O_RDWR)
    world.write(file, 0, b"MORE")
    world.release(file)
    before = see(world)
    report = restore(world, delete=True)
    assert report["before"].startswith(BEFORE_PREFIX)
    assert set(see(world)) == {b"", b"/f"}

    async def back() -> None:
        async with restoring(world) as methods:
            while not (await methods.restore("w", "", report["before"], delete=True))["ended"]:
                pass

    world.run(back())
    assert see(world) == before


def test_a_program_that_has_the_file_open_keeps_it(world: World) -> None:
    ino = write(world, b"f", b"old")
    snapshot(world)
    file = world.open(ino, os.O_RDWR)
    world.write(file, 0, b"new")
    restore(world)
    assert see(world)[b"/f"].content == b"old"
    world.write(file, 3, b"er")
    assert world.read(file, 0, 10) == b"newer"
    world.release(file)
    world.filesystem.forget([ino])
    assert see(world)[b"/f"].content == b"old"


def test_what_is_open_for_writing_is_kept_as_it_was_before_the_restore(world: World) -> None:
    ino = write(world, b"f", b"old")
    snapshot(world)
    file = world.open(ino, os.O_RDWR)
    world.write(file, 0, b"new")
    before = restore(world)["before"]
    world.write(file, 0, b"later")
    [kept] = [each for each in world.run(world.engine.list_snapshots()) if each.name == before]
    past = PastReader(world.engine, world.raw_store, world.sealer, world.form_reader)
    content = world.run(past.find(kept.snap, ino))
    assert (content.state, world.run(past.read(kept.snap, ino, 0, 9))) == (PastState.OPEN, b"new")
    world.release(file)


def test_only_what_differs_is_touched(world: World) -> None:
    same = write(world, b"same", b"content")
    moded = write(world, b"moded", b"content")
    snapshot(world)
    request = AttributeRequest(mode=0o600)
    world.request(world.filesystem.set_attributes(world.program, moded, request))
    report = restore(world)
    assert (report["file_count"], report["changed_count"]) == (0, 1)
    entries = world.run(world.engine.list_directory(ROOT_INODE, 0, 10))
    assert {entry.name: entry.inode.ino for entry in entries} == {b"same": same, b"moded": moded}


def test_what_moved_is_moved_back_and_not_copied(world: World) -> None:
    directory = world.request(
        world.filesystem.make_directory(world.program, ROOT_INODE, b"d", 0o755)
    ).inode.ino
    file = write(world, b"f", b"content", directory)
    write(world, b"g", b"content")
    snapshot(world)
    expected = see(world)
    world.request(world.filesystem.rename(ROOT_INODE, b"d", ROOT_INODE, b"e", 0))
    world.request(world.filesystem.rename(ROOT_INODE, b"g", directory, b"g", 0))
    report = restore(world, delete=True)
    assert (report["file_count"], report["directory_count"]) == (0, 0)
    assert see(world) == expected
    entries = world.run(world.engine.list_directory(directory, 0, 10))
    assert [entry.inode.ino for entry in entries] == [file]


def test_a_dry_run_tells_and_changes_nothing(world: World) -> None:
    ino = write(world, b"f", b"old")
    write(world, b"g", b"goes")
    snapshot(world)
    world.request(world.filesystem.unlink(ROOT_INODE, b"g"))
    write(world, b"new", b"new")
    request = AttributeRequest(mode=0o600)
    world.request(world.filesystem.set_attributes(world.program, ino, request))
    before = see(world)

    async def plan() -> list[list[str]]:
        actions = []
        async with restoring(world) as methods:
            while True:
                report = await methods.restore("w", "", "snapshot", delete=True, dry_run=True)
                actions += report["actions"]
                if report["ended"]:
                    assert report["before"] is None
                    return actions

    assert sorted(world.run(plan())) == [["change", "/f"], ["make", "/g"], ["remove", "/new"]]
    assert see(world) == before
    assert len(world.run(world.engine.list_snapshots())) == 1


def test_it_is_put_elsewhere_on_request(world: World) -> None:
    directory = world.request(
        world.filesystem.make_directory(world.program, ROOT_INODE, b"d", 0o755)
    ).inode.ino
    ino = write(world, b"f", b"old", directory)
    snapshot(world)
    file = world.open(ino, os.O_RDWR)
    world.write(file, 0, b"new")
    world.release(file)
    restore(world, path="d", to="copy")
    restore(world, path="d/f", to="g")
    restore(world, path="d/f", to="copy")
    contents = {path: seen.content for path, seen in see(world).items() if seen.content}
    assert contents == {b"/d/f": b"new", b"/copy/f": b"old", b"/g": b"old"}
    assert restore(world, path="d", to="copy")["file_count"] == 0


def test_a_directory_in_the_way_of_a_file_stays_unless_it_may_go(world: World) -> None:
    write(world, b"f", b"old")
    snapshot(world)
    world.request(world.filesystem.unlink(ROOT_INODE, b"f"))
    directory = world.request(
        world.filesystem.make_directory(world.program, ROOT_INODE, b"f", 0o755)
    ).inode.ino
    write(world, b"inner", b"inner", directory)
    report = restore(world)
    assert report["failed_count"] == 1
    assert "--delete" in report["failures"][0]
    assert set(see(world)) == {b"", b"/f", b"/f/inner"}
    assert restore(world, delete=True)["failures"] == []
    assert see(world)[b"/f"].content == b"old"
