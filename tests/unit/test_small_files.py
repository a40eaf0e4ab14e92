"""Small files, many at a time: whole or left, by the ids of the client, and told to all."""

from __future__ import annotations

import errno
import os
import random
import stat
from typing import TYPE_CHECKING

import pytest

from memfs.content.syncer import SYNC_EACH_MAX
from memfs.errors import InvalidValueError, NoSpaceError
from memfs.filesystem.small_files import (
    CONTENT_BYTES_MAX,
    DEPTH_MAX,
    FILES_A_CHANGE,
    READ_BYTES_MAX,
    Client,
    SmallFile,
)
from memfs.metadata.records import InodeFlags
from memfs.namespace import acl
from memfs.types import ROOT_INODE, XATTR_VALUE_BYTES_MAX, Tier
from tests.disk_calls import intercept, name_of
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.types import InodeNo

ROOT = Client(0, 0, frozenset(), 1, 0o022)
ALICE = Client(1000, 1000, frozenset({2000}), 2, 0o027)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    yield opened
    opened.close()


def small(path: str, content: bytes = b"content", **xattrs: bytes) -> SmallFile:
    names = tuple(name.encode() for name in path.split("/"))
    pairs = tuple((f"user.{name}".encode(), value) for name, value in xattrs.items())
    return SmallFile(names, memoryview(content), pairs)


def directory(
    world: World, name: bytes, mode: int, uid: int = 0, parent: InodeNo = ROOT_INODE
) -> InodeNo:
    program = world.program
    program.uid = program.gid = uid
    program.umask = 0
    made = world.request(world.filesystem.make_directory(program, parent, name, mode))
    return made.inode.ino


def put(
    world: World,
    files: Sequence[SmallFile],
    client: Client = ROOT,
    *,
    top: InodeNo = ROOT_INODE,
    replace: bool = True,
    pin: Tier | None = None,
    durable: bool = False,
) -> list[bool]:
    """Make files; returns which were made."""
    putting = world.filesystem.put_small(
        client, top, files, replace=replace, pin=pin, durable=durable
    )
    made = world.run(putting)
    return [mtime_ns > 0 for mtime_ns in made]


def get(
    world: World, *paths: str, client: Client = ROOT, top: InodeNo = ROOT_INODE
) -> list[bytes | None]:
    names = [tuple(name.encode() for name in path.split("/")) for path in paths]
    found = world.run(world.filesystem.get_small(client, top, names, b"user.kind"))
    return [None if each is None else each.content for each in found]


def find(world: World, *names: bytes) -> Inode:
    inode = world.run(world.engine.get_inode(ROOT_INODE))
    for name in names:
        inode = world.run(world.engine.lookup(inode.ino, name))
    return inode


def raw_count(world: World) -> int:
    world.raw_pool.close()
    return sum(1 for _ in world.raw_store.iterate())


def test_files_have_content_attributes_and_pins_from_the_first_instant(world: World) -> None:
    directory(world, b"d", 0o755)
    assert put(world, [small("d/a", b"one", kind=b"x"), small("b", b"")], pin=Tier.COLD) == [
        True,
        True,
    ]
    inode = find(world, b"d", b"a")
    assert (inode.mode, inode.uid, inode.nlink) == (stat.S_IFREG | 0o644, 0, 1)
    assert (inode.size, inode.pin, inode.flags) == (3, Tier.COLD, 0)
    assert world.run(world.engine.get_xattr(inode.ino, b"user.kind")) == b"x"
    file = world.open(inode.ino, os.O_RDONLY)
    assert world.read(file, 0, 10) == b"one"
    world.release(file)
    assert get(world, "d/a", "b") == [b"one", b""]
    assert inode.ino in world.activity.take_sealed(), "the mover is told"
    world.remount()
    assert find(world, b"d", b"a").flags == InodeFlags.DURABLE
    assert get(world, "d/a", "b") == [b"one", b""]


def test_a_file_with_more_attributes_than_it_can_have_is_left(world: World) -> None:
    """One call has room for 30,000 of them; the requests of the program tell what is wrong."""
    many = {str(number): b"" for number in range(10_000)}
    assert put(world, [small("a"), small("many", **many), small("b")]) == [True, False, True]
    assert get(world, "a", "many", "b") == [b"content", None, b"content"]


def test_an_answer_is_bounded_with_its_attributes(world: World) -> None:
    """One file with a long attribute, asked for many times, would be gigabytes of the daemon."""
    put(world, [small("a", b"x" * 1000, kind=b"v" * XATTR_VALUE_BYTES_MAX)])
    wanted = 2 * READ_BYTES_MAX // XATTR_VALUE_BYTES_MAX
    reading = world.filesystem.get_small(ROOT, ROOT_INODE, [(b"a",)] * wanted, b"user.kind")
    answer = world.run(reading)
    found = [each for each in answer if each is not None]
    assert 0 < len(found) == len(answer) < wanted, "the rest is asked again"
    assert sum(len(each.content) + 6 * len(each.xattr) for each in found) <= READ_BYTES_MAX


@pytest.mark.parametrize("name", [b"trusted.x", b"security.capability", b"user.memfs.tier", b""])
def test_only_attributes_of_users_are_told(world: World, name: bytes) -> None:
    """The kernel shows trusted.* to root alone; it sees nothing of a call here."""
    put(world, [small("a")])
    with pytest.raises(InvalidValueError, match="no name of a user's xattr"):
        world.run(world.filesystem.get_small(ROOT, ROOT_INODE, [(b"a",)], name))


def test_a_file_gives_way_as_in_a_rename(world: World) -> None:
    put(world, [small("a", b"old", kind=b"x")])
    before = find(world, b"a")
    reader = world.open(before.ino, os.O_RDONLY)
    assert put(world, [small("a", b"new")]) == [True]
    assert get(world, "a") == [b"new"]
    assert find(world, b"a").ino != before.ino
    assert world.read(reader, 0, 10) == b"old", "who has it open keeps it"
    world.release(reader)
    world.filesystem.forget([before.ino])
    assert put(world, [small("a", b"newer")], replace=False) == [False]
    assert put(world, [small("a", b"1"), small("a", b"2")]) == [True, True]
    assert get(world, "a") == [b"2"]
    while world.filesystem._reapable:
        world.step()
    world.step()
    assert world.run(world.engine.usage()).raw_count == 1


def test_what_is_not_simple_is_left_and_leaves_nothing(world: World) -> None:
    directory(world, b"d", 0o755)
    link = world.filesystem.make_symlink(world.program, ROOT_INODE, b"link", b"d")
    world.request(link)
    put(world, [small("file")])
    deep = "/".join("d" * (DEPTH_MAX + 2))
    left = [
        small("missing/a"),
        small("d"),
        small("link/a"),
        small("link"),
        small("file/a"),
        small("d/../a"),
        small("../a"),
        small(".memfs"),
        small("d/.hidden"),
        small("d//a"),
        small("n" * 256),
        small("long", b"x" * (CONTENT_BYTES_MAX + 1)),
        small(deep),
    ]
    made = put(world, left)
    # A symbolic link itself gives way, as in rename(2).
    assert made == [each.names == (b"link",) for each in left]
    assert get(world, "missing/a", "d", "file/a", "d/../file", ".memfs", deep) == [None] * 6
    names = world.run(world.engine.list_directory(ROOT_INODE, 0, 100))
    assert {entry.name for entry in names} == {b"d", b"link", b"file"}
    assert raw_count(world) == 2


def test_a_client_does_what_its_ids_permit(world: World) -> None:
    hers = directory(world, b"hers", 0o750, 1000)
    directory(world, b"below", 0o755, 1000, hers)
    shut = directory(world, b"shut", 0o700)
    directory(world, b"open", 0o777, parent=shut)
    directory(world, b"readable", 0o755)
    sticky = directory(world, b"sticky", 0o1777)
    assert put(world, [small("sticky/roots"), small("readable/roots", b"all")]) == [True, True]
    attempts = {
        "hers/a": True,
        "hers/below/a": True,
        "shut/open/a": False,
        "readable/a": False,
        "sticky/a": True,
        "sticky/roots": False,
        "a": False,
    }
    assert put(world, [small(path) for path in attempts], ALICE) == [*attempts.values()]
    inode = find(world, b"hers", b"a")
    assert (inode.mode & 0o777, inode.uid, inode.gid) == (0o640, 1000, 1000)
    assert get(world, "readable/roots", client=ALICE) == [b"all"]
    # The token is of a directory that the kernel has let her reach.
    assert put(world, [small("a")], ALICE, top=hers) == [True]
    assert put(world, [small("a")], ALICE, top=sticky) == [True]
    # Ids alone count: root's capabilities are for the kernel to know.
    assert put(world, [small("hers/b")]) == [False]
    assert get(world, "hers/a") == [None]


def test_an_acl_counts_and_is_inherited(world: World) -> None:
    ino = directory(world, b"shared", 0o755)
    entries = [
        acl.AclEntry(acl.USER_OBJ, 7),
        acl.AclEntry(acl.USER, 7, 1000),
        acl.AclEntry(acl.GROUP_OBJ, 5),
        acl.AclEntry(acl.MASK, 7),
        acl.AclEntry(acl.OTHER, 0),
    ]
    value = acl.serialise(entries)
    for name in (acl.ACCESS_XATTR, acl.DEFAULT_XATTR):
        world.request(
            world.filesystem.set_xattr(world.program, ino, name, value, 0, kill_sgid=False)
        )
    assert put(world, [small("shared/a", b"hers")], ALICE) == [True]
    assert get(world, "shared/a", client=ALICE) == [b"hers"]
    inode = find(world, b"shared", b"a")
    assert inode.mode & 0o777 == 0o660
    assert world.run(world.engine.get_xattr(inode.ino, acl.ACCESS_XATTR))
    bob = Client(1001, 1001, frozenset(), 3, 0)
    assert put(world, [small("shared/b")], bob) == [False]
    assert get(world, "shared/a", client=bob) == [None]


@pytest.mark.parametrize("seed", range(6))
def test_many_files_are_read_as_one_by_one(world: World, seed: int) -> None:
    """By any user, in any mixture with what is shut, missing, long, no file, or behind a link."""
    chance = random.Random(seed)
    bob = Client(1001, 2000, frozenset(), 3, 0)
    modes = [0o777, 0o755, 0o711, 0o750, 0o700, 0o070, 0o007, 0]
    program, directories = world.program, {b"": ROOT_INODE}
    for number in range(12):
        above, uid = chance.choice([*directories]), chance.choice([0, 1000, 1001])
        name = b"d%d" % number
        made = directory(world, name, chance.choice(modes), uid, directories[above])
        directories[above + name + b"/"] = made
        if chance.random() < 0.3:
            entries = [
                acl.AclEntry(acl.USER_OBJ, 7),
                acl.AclEntry(acl.USER, chance.choice([0, 1, 5, 7]), chance.choice([1000, 1001])),
                acl.AclEntry(acl.GROUP_OBJ, chance.choice([0, 5])),
                acl.AclEntry(acl.MASK, 7),
                acl.AclEntry(acl.OTHER, chance.choice([0, 5])),
            ]
            for xattr in (acl.ACCESS_XATTR, acl.DEFAULT_XATTR):
                world.request(
                    world.filesystem.set_xattr(
                        *(program, made, xattr, acl.serialise(entries), 0), kill_sgid=False
                    )
                )
    paths = []
    for number in range(200):
        above = chance.choice([*directories])
        name, size = b"f%d" % number, chance.choice([0, 1, 100, 5000, CONTENT_BYTES_MAX + 1])
        program.uid = program.gid = chance.choice([0, 1000, 1001])
        program.umask = 0
        mode = chance.choice([0o666, 0o644, 0o640, 0o600, 0o060, 0o004])
        file = world.create(directories[above], name, mode, os.O_RDWR)
        world.write(file, 0, b"x" * size)
        world.release(file)
        if chance.random() < 0.2:
            world.request(world.filesystem.unlink(directories[above], name))
        elif chance.random() < 0.3:
            file = world.open(file.ino, os.O_RDWR)
            world.write(file, 0, b"changed")
            if chance.random() < 0.5:
                # Else it is still open, and has not been sealed since.
                world.release(file)
        paths.append((above + name).decode())
    paths += ["missing", "d0", "missing/a", "f0/below", "", "d0//f", "../f0", ".memfs"]
    chance.shuffle(paths)
    seen = 0
    for client in (ROOT, ALICE, bob):
        expected = [get(world, path, client=client)[0] for path in paths]
        assert get(world, *paths, client=client) == expected
        seen += sum(content is not None for content in expected)
    assert seen


def test_a_file_that_is_not_on_the_local_disk_is_left(world: World) -> None:
    put(world, [small("a", b"x" * 5000)], pin=Tier.GLACIER)
    for _ in range(20):
        world.step()
        if not find(world, b"a").raw:
            break
    assert not find(world, b"a").raw
    assert get(world, "a") == [None]


def test_a_full_disk_leaves_nothing_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first files of a call may be made, and each of them is whole."""
    files = [small(f"f{number}", b"%d" % number) for number in range(FILES_A_CHANGE + 3)]
    create, made = world.raw_store.create, list[int]()

    def fail(raw: int, access: int, *, provisional: bool) -> int:
        made.append(raw)
        if len(made) == FILES_A_CHANGE + 2:
            raise NoSpaceError("full")
        return create(raw, access, provisional=provisional)  # type: ignore[arg-type]

    monkeypatch.setattr(world.raw_store, "create", fail)
    with pytest.raises(NoSpaceError):
        put(world, files)
    monkeypatch.undo()
    assert get(world, *(f"f{number}" for number in range(len(files)))) == [
        *(b"%d" % number for number in range(FILES_A_CHANGE)),
        *[None] * 3,
    ]
    assert raw_count(world) == FILES_A_CHANGE


def test_writers_of_the_same_names_never_make_a_mixture(world: World) -> None:
    """A program writes to a file that gives way meanwhile; it keeps its own."""
    put(world, [small("a", b"1")])
    file = world.open(find(world, b"a").ino, os.O_RDWR)
    world.write(file, 0, b"own")
    put(world, [small("a", b"2")])
    world.write(file, 3, b"s")
    assert get(world, "a") == [b"2"]
    assert world.read(file, 0, 10) == b"owns"
    world.release(file)


class Kernel:
    """Implements `KernelNotices`: knows no inode and no name, and writes down what it is told."""

    can_forget_all = True

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def take(self) -> list[tuple[object, ...]]:
        """Return what it was told since, in the order of the words."""
        taken, self.told = self.told, []
        return sorted(taken, key=repr)

    def forget_attributes(self, ino: InodeNo) -> None:
        self._refuse("attributes", ino)

    def forget_pages(self, ino: InodeNo) -> None:
        self._refuse("pages", ino)

    def forget_name(self, parent: InodeNo, name: bytes) -> None:
        self._refuse("name", parent, name)

    def forget_removed(self, parent: InodeNo, name: bytes, ino: InodeNo) -> None:
        self._refuse("removed", parent, name, ino)

    def forget_all(self) -> None:
        self._refuse("all")

    def _refuse(self, *told: object) -> None:
        self.told.append(told)
        raise FileNotFoundError(errno.ENOENT, "it does not know it")


def test_the_kernel_is_told_of_what_it_may_know(world: World) -> None:
    """A name may be one that it has looked for; a file that gives way may be one that it has."""
    kernel, top = Kernel(), find(world, *())
    listing = [("attributes", top.ino), ("pages", top.ino)]
    with world.filesystem.invalidations.kernel_cache.told_by(kernel):
        put(world, [small("a"), small("b")])
        assert kernel.take() == [
            ("attributes", top.ino),
            ("name", top.ino, b"a"),
            ("name", top.ino, b"b"),
            ("pages", top.ino),
        ]
        put(world, [small("a"), small("b")])
        assert kernel.take() == listing, "no reply has told it of the files"
        first, second = find(world, b"a"), find(world, b"b")
        assert world.run(world.filesystem.lookup(top.ino, b"a")) is not None
        put(world, [small("a"), small("b")])
        told = [("attributes", first.ino), ("attributes", first.ino), ("name", top.ino, b"a")]
        assert kernel.take() == sorted([*listing, *told], key=repr)
        third = find(world, b"b")
        world.run(world.filesystem.list_directory(top.ino, 0, 10))
        put(world, [small("b")])
        assert ("name", top.ino, b"b") in kernel.take()
    assert world.filesystem._orphans.keys().isdisjoint({second.ino, third.ino})


def test_a_name_that_was_not_told_of_yet_is_told_of_again(world: World) -> None:
    """Another client replaces a file of a call that has not ended: it is answered first."""
    kernel = Kernel()
    with world.filesystem.invalidations.kernel_cache.told_by(kernel):
        put(world, [small("a")])
        kernel.take()
        untold = world.filesystem._untold
        untold[find(world, b"a").ino] = False
        put(world, [small("a")])
        assert ("name", ROOT_INODE, b"a") in kernel.take()


def test_durable_files_are_synced_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would else wait for the disk and for the journal by itself."""
    files = [small(f"f{number}", b"%d" % number) for number in range(3 * SYNC_EACH_MAX)]
    put(world, files[:1])
    calls: list[str] = []
    intercept(
        monkeypatch,
        *("syncfs", "fsync", "fdatasync"),
        before=lambda call, fd: calls.append(f"{call} {name_of(fd)}"),
    )
    assert put(world, files, durable=True) == [True] * len(files)
    # The one that took the place of another, and the name of a directory, go with the journal.
    replaced = find(world, b"f0").raw
    assert calls == [
        "syncfs raw",
        *(f"fdatasync {replaced:x}", "fsync 0", "fsync raw"),
        "fdatasync journal.0",
    ]
    flags = {find(world, *each.names).flags for each in files}
    assert flags == {InodeFlags.DURABLE}
    calls.clear()
    assert put(world, [small("one")], durable=True) == [True]
    assert f"fsync {find(world, b'one').raw:x}" in calls


def test_what_cannot_be_made_durable_is_not_called_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there; who asked stores it by requests, and is told what the disk says."""
    refused: list[int] = []

    def fail(_call: str, fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode) and os.pread(fd, 10, 0) == b"bad":
            refused.append(fd)
            raise OSError(errno.EIO, "no")

    intercept(monkeypatch, "fsync", before=fail)
    made = put(world, [small("good"), small("worse", b"bad")], durable=True)
    assert made == [True, False]
    assert refused
    assert get(world, "good", "worse") == [b"content", b"bad"]
    assert find(world, b"good").flags == InodeFlags.DURABLE
    assert find(world, b"worse").flags != InodeFlags.DURABLE
