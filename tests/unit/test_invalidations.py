"""What another node changes reaches each cache that is keyed by inode, by one call.

Each test changes the engine behind the file system's back, as a node does that applies a log.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import memfs
from memfs.content.invalidations import Aspect, Invalidations
from memfs.content.kernel_cache import KernelCache
from memfs.errors import NoXattrError
from memfs.filesystem.operations import CAPABILITY_XATTR
from memfs.filesystem.validity import UNSEALED_VALID_S, Validity, ValidityLimits
from memfs.metadata.records import AttributeChanges
from memfs.namespace import acl
from memfs.types import ROOT_INODE, InodeNo, Tier
from tests.property.world import ROOMY, World
from tests.unit.fakes.kernel_notices import Recorder
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memfs.metadata.records import Inode

ANY_NS = 1_000_000_000_000_000_000
DEFAULT_ACL = acl.serialise([acl.AclEntry(0x01, 7), acl.AclEntry(0x04, 5), acl.AclEntry(0x20, 0)])

NOT_REGISTERED = {
    # Who has what open, on this node: true by itself.
    "OpenTable._files", "Shared._orphans", "ReadingFilesystem._known",
    "ReadingFilesystem._directories", "ReadingFilesystem._nodes", "ReadingFilesystem._kept",
    "ReadingFilesystem._aliases",
    # What the kernel of this mount was told.
    "Shared._untold",
    # Backings that are in use; those of `_idle_backings` are registered.
    "OpenTable._backings", "OpenTable._references",
    # Work that waits, looked at anew when it is done.
    "Sealer._candidates", "Sealer._mapped", "Sealer._put_off", "Sealer._attempts",
    "Sealer._held_up", "DemandListing._listings",
    "Activity._accessed", "Activity._sealed", "Activity._wanted", "Activity._wanted_before",
    "Activity._archived", "HotBoard._pinned", "HotTier._busy", "HotTier._again",
    "Predictor._listing_wanted", "Changes._files",
    # Kept with a generation or a version, which is compared at each use.
    "Sealer._synced", "HotBoard.residents", "HotBoard._full", "HotTier._failures",
    "Listings._listings",
    # Why the last attempt to freeze it failed, whatever it is by now.
    "Control._unfrozen",
    # For seconds, and only of a directory that the engine says is not listed yet.
    "DemandListing._ended",
    # Nodes inside of `.memfs`: what is open there, and what was made to be opened.
    "PastTree._open", "OwnTree._made",
    # Dropped at the end of its query.
    "_Paths._directories",
    # How long syncs of this disk take, and how good guesses were.
    "QuickSyncs._quick_until_s", "Scores._open", "Scores._hinted",
    # How often each was opened, on this node, since it was last asked.
    "Activity._uses",
}  # fmt: skip
"""What is keyed by inode and needs no invalidation."""

REGISTERED = {
    "OpenTable._idle_backings", "Residency._held", "Activity._pinned", "Shared._atimes",
    "Shared._without_capability", "Names._default_acls", "HotBoard._refusals",
    "ReadingFilesystem._outdated",
}  # fmt: skip


@pytest.fixture
def passthrough(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    try:
        yield opened
    finally:
        opened.close()


def sealed_file(world: World, name: bytes = b"f") -> InodeNo:
    file = world.create(ROOT_INODE, name, 0o644, os.O_WRONLY)
    world.write(file, 0, b"content")
    world.release(file)
    world.run(world.filesystem.finish_requests())
    return file.ino


def inode_of(world: World, ino: InodeNo) -> Inode:
    return world.run(world.engine.get_inode(ino))


def told_by(work: Callable[[Invalidations], None]) -> list[tuple[object, ...]]:
    """Return what the kernel is told while a function runs, by inode and name alike."""
    cache, recorder = KernelCache(), Recorder()
    with cache.told_by(recorder):
        work(Invalidations(cache))
    return sorted(recorder.told, key=repr)


# --- caches --------------------------------------------------------------------------------------
@pytest.mark.parametrize("whole", [False, True], ids=["one inode", "all"])
def test_a_default_acl_of_another_node_is_inherited(world: World, whole: bool) -> None:
    first = world.create(ROOT_INODE, b"first", 0o666, os.O_WRONLY)
    assert inode_of(world, first.ino).mode & 0o777 == 0o644
    world.run(
        world.engine.set_mode_and_xattrs(
            ROOT_INODE, None, [(acl.DEFAULT_XATTR, DEFAULT_ACL)], ANY_NS
        )
    )
    note(world, ROOT_INODE, Aspect.XATTRS, whole=whole)
    second = world.create(ROOT_INODE, b"second", 0o666, os.O_WRONLY)
    assert inode_of(world, second.ino).mode & 0o777 == 0o640
    for file in (first, second):
        world.release(file)


def note(world: World, ino: InodeNo, aspects: Aspect, *, whole: bool = False) -> None:
    """Say that one inode was changed elsewhere, or that anything may have been."""
    if whole:
        world.filesystem.invalidations.note_all()
    else:
        world.filesystem.invalidations.note_inode(ino, aspects)


@pytest.mark.parametrize("whole", [False, True], ids=["one inode", "all"])
def test_capabilities_of_another_node_are_found(world: World, whole: bool) -> None:
    """The kernel would not drop them at the next write."""
    ino = sealed_file(world)
    filesystem, program = world.filesystem, world.program
    with pytest.raises(NoXattrError):
        world.run(filesystem.get_xattr(program, ino, CAPABILITY_XATTR))
    world.run(world.engine.set_xattr(ino, CAPABILITY_XATTR, b"caps", 0, ANY_NS))
    note(world, ino, Aspect.XATTRS, whole=whole)
    assert world.run(filesystem.get_xattr(program, ino, CAPABILITY_XATTR)) == b"caps"


@pytest.mark.parametrize("whole", [False, True], ids=["one inode", "all"])
def test_an_access_time_of_another_node_is_not_overwritten(world: World, whole: bool) -> None:
    ino = sealed_file(world)
    world.filesystem._atimes[ino] = ANY_NS * 2
    world.run(world.engine.set_attributes(ino, AttributeChanges(atime_ns=ANY_NS)))
    note(world, ino, Aspect.ATTRIBUTES, whole=whole)
    world.run(world.filesystem.finish_requests())
    assert inode_of(world, ino).atime_ns == ANY_NS


@pytest.mark.parametrize("whole", [False, True], ids=["one inode", "all"])
def test_attributes_that_were_steady_are_asked_for_again(world: World, whole: bool) -> None:
    file = world.create(ROOT_INODE, b"f", 0o644, os.O_RDWR)
    answers = [world.run(world.filesystem.get_attributes(file.ino)).valid_s for _ in range(10)]
    assert answers[-1] == UNSEALED_VALID_S
    note(world, file.ino, Aspect.ATTRIBUTES, whole=whole)
    assert world.run(world.filesystem.get_attributes(file.ino)).valid_s == 0.0
    world.release(file)


@pytest.mark.parametrize("whole", [False, True], ids=["one inode", "all"])
def test_a_raw_file_that_another_node_made_old_is_let_go(passthrough: World, whole: bool) -> None:
    """The kernel's backing id would keep its disk space, and RAM its pages."""
    world = passthrough
    ino = sealed_file(world)
    world.release(world.open(ino, os.O_RDONLY))
    inode = inode_of(world, ino)
    world.run(world.residency.lock(ino, inode.raw, inode.size))
    assert world._backings._fds
    note(world, ino, Aspect.CONTENT, whole=whole)
    assert not world._backings._fds
    assert not world.residency.is_held(ino)


def test_a_raw_file_that_is_open_stays(passthrough: World) -> None:
    world = passthrough
    ino = sealed_file(world)
    file = world.open(ino, os.O_RDONLY)
    note(world, ino, Aspect.CONTENT)
    assert world.read(file, 0, 7) == b"content"
    second = world.open(ino, os.O_RDONLY)
    for each in (file, second):
        world.release(each)


def test_a_pin_of_another_node_is_obeyed(world: World) -> None:
    """That of a directory concerns all below it."""
    ino = sealed_file(world)
    world.step()
    world.run(world.engine.set_pin(ROOT_INODE, Tier.COLD))
    note(world, ROOT_INODE, Aspect.POLICY)
    assert world.activity.take_pinned() == [ROOT_INODE]
    note(world, ino, Aspect.POLICY, whole=True)
    assert world.activity.rescan


def test_marks_of_another_node_are_looked_for(world: World) -> None:
    assert not world.access_stats.marked
    note(world, ROOT_INODE, Aspect.POLICY)
    assert world.access_stats.marked


def test_what_has_not_changed_is_kept(world: World) -> None:
    """Each aspect by itself: a file that others only read or chmod stays in RAM."""
    ino = sealed_file(world)
    inode = inode_of(world, ino)
    world.run(world.residency.lock(ino, inode.raw, inode.size))
    note(world, ino, Aspect.ATTRIBUTES | Aspect.XATTRS | Aspect.POLICY)
    assert world.residency.is_held(ino)


def test_what_is_kept_by_inode_is_registered_or_known_to_need_it_not() -> None:
    """A cache that nobody tells would answer by what other nodes have changed since."""
    found = set()
    for folder in ("content", "filesystem", "hot", "prediction"):
        for path in (Path(memfs.__path__[0]) / folder).rglob("*.py"):
            found |= set(_kept_by_inode(ast.parse(path.read_text())))
    assert found - REGISTERED - NOT_REGISTERED == set(), "register it, or list it with a reason"


def _kept_by_inode(module: ast.Module) -> Iterator[str]:
    kinds = {"dict", "set", "Fifo", "OrderedDict", "BoundedDict"}
    for owner in ast.walk(module):
        if not isinstance(owner, ast.ClassDef):
            continue
        for node in ast.walk(owner):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Attribute):
                continue
            text = ast.unparse(node.annotation)
            if text.partition("[")[0] in kinds and text.partition("[")[2].startswith("InodeNo"):
                yield f"{owner.name}.{node.target.attr}"


# --- the kernel ----------------------------------------------------------------------------------
def test_the_kernel_hears_of_inodes() -> None:
    def change(invalidations: Invalidations) -> None:
        invalidations.note_inode(ROOT_INODE, Aspect.XATTRS)
        invalidations.note_inode(ROOT_INODE, Aspect.CONTENT)
        invalidations.note_inode(ROOT_INODE, Aspect.POLICY)

    assert told_by(change) == [("attributes", ROOT_INODE), ("pages", ROOT_INODE)]


def test_the_kernel_hears_of_names_and_of_the_times_of_their_directory() -> None:
    ino = InodeNo(ROOT_INODE + 1)

    def change(invalidations: Invalidations) -> None:
        invalidations.note_name(ROOT_INODE, b"new", ino)

    attributes = [("attributes", ROOT_INODE), ("attributes", ino)]
    assert told_by(change) == [*attributes, ("name", ROOT_INODE, b"new")]


@pytest.mark.parametrize("last", [True, False])
def test_an_inode_is_called_removed_with_its_last_name_only(last: bool) -> None:
    """The kernel then takes its number of links to be 0."""
    ino = InodeNo(ROOT_INODE + 1)

    def change(invalidations: Invalidations) -> None:
        invalidations.note_removed(ROOT_INODE, b"old", ino, last=last)

    name = ("removed", ROOT_INODE, b"old", ino) if last else ("name", ROOT_INODE, b"old")
    assert name in told_by(change)


def test_the_kernel_forgets_all_where_too_much_waits() -> None:
    """A notice that is stuck must not let the others fill the memory, nor be lost."""
    cache, recorder = KernelCache(waiting_count_max=2), Recorder()
    recorder.go_on.clear()
    with cache.told_by(recorder):
        for number in range(5):
            cache.forget_name(ROOT_INODE, b"%d" % number)
        wait_for(lambda: ("all",) in recorder.told, "not all is forgotten")
        recorder.go_on.set()
    names = [name for kind, *rest in recorder.told if kind == "name" for name in rest[1:]]
    assert 2 <= len(names) <= 3


def test_what_has_no_substitute_waits_however_much_waits() -> None:
    """To forget all names forgets no pages, and tells nobody that an inode is not known."""
    cache, recorder = KernelCache(waiting_count_max=2), Recorder()
    recorder.go_on.clear()
    with cache.told_by(recorder):
        for number in range(5):
            cache.forget_name(ROOT_INODE, b"%d" % number)
        for ino in range(10, 15):
            cache.forget_content(InodeNo(ino))
            cache.forget_attributes(InodeNo(ino))
        recorder.go_on.set()
    told = [each for each in recorder.told if each[0] in ("pages", "attributes")]
    assert sorted(told) == [
        (kind, ino) for kind in ("attributes", "pages") for ino in range(10, 15)
    ]


def test_a_kernel_that_cannot_forget_all_is_told_each_name() -> None:
    """It would believe those that it is not told of for a day."""
    cache, recorder = KernelCache(waiting_count_max=2), Recorder()
    recorder.can_forget_all = False
    recorder.go_on.clear()
    with cache.told_by(recorder):
        for number in range(9):
            cache.forget_name(ROOT_INODE, b"%d" % number)
        recorder.go_on.set()
    assert recorder.told == [("name", ROOT_INODE, b"%d" % number) for number in range(9)]


def test_a_notice_that_waits_is_not_given_twice() -> None:
    """A program that writes one file again and again, while the kernel is busy, fills no memory."""
    cache, recorder = KernelCache(), Recorder()
    recorder.go_on.clear()
    with cache.told_by(recorder):
        cache.forget_name(ROOT_INODE, b"first")
        wait_for(lambda: not cache._patient.waiting_count, "the thread has taken the first one")
        for _ in range(1000):
            cache.forget_content(InodeNo(7))
            cache.forget_name(ROOT_INODE, b"name")
            # One that is being given may have been answered before this change.
            cache.forget_name(ROOT_INODE, b"first")
        assert cache._patient.waiting_count == 3
        recorder.go_on.set()
    assert recorder.told == [
        ("name", ROOT_INODE, b"first"),
        ("pages", 7),
        ("name", ROOT_INODE, b"name"),
        ("name", ROOT_INODE, b"first"),
    ]


def test_a_kernel_that_is_not_served_is_told_nothing() -> None:
    cache = KernelCache()
    cache.forget_name(ROOT_INODE, b"name")
    cache.forget_all()
    assert not cache.can_forget_all


# --- validity ------------------------------------------------------------------------------------
def test_validity_is_as_long_as_it_was_made(world: World) -> None:
    """A node that is not alone may allow no time for a missing name, and less for others."""
    inode = inode_of(world, sealed_file(world))
    alone = world.filesystem.validity
    assert alone.missing_s(ROOT_INODE) < alone.name_s(inode) == alone.attributes_s(inode)
    limits = ValidityLimits(name_s=5.0, missing_s=0.0, attributes_s=0.5)
    validity = Validity(world.open_table, lambda: True, limits)
    assert (
        validity.name_s(inode), validity.missing_s(ROOT_INODE), validity.attributes_s(inode)
    ) == (5.0, 0.0, 0.5)  # fmt: skip
    assert validity.created_s() == 0.5
    assert validity.answer_s(inode, inode) == 0.5
