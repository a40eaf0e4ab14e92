"""What comes between two calls of an engine that suspends harms neither step.

Each test lets one step come in where another one waits for the engine, and would have found it
parted from what it had looked at.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.content.invalidations import Aspect
from memfs.content.opening import OpenMode
from memfs.errors import AlreadyExistsError, NoSpaceError, NoXattrError
from memfs.filesystem.control_names import TIER_XATTR
from memfs.filesystem.operations import CAPABILITY_XATTR, AttributeRequest
from memfs.jobs.scrubbing import ScrubOutcome, scrub_file
from memfs.metadata.records import InodeFlags, Seal
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.namespace import acl
from memfs.placement.execute import Wait
from memfs.types import ROOT_INODE, FormKind, PendingCode, Tier
from tests.contract.engine.suspending import SuspendingEngine
from tests.property.world import ROOMY, World
from tests.unit.test_filesystem_commits import fail_once

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from memfs.filesystem.replies import Attributes
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.types import InodeNo, RawId

SET_NS = 1_000_000_000_000_000_000
DEFAULT_ACL = acl.serialise([acl.AclEntry(0x01, 7), acl.AclEntry(0x04, 5), acl.AclEntry(0x20, 0)])
CONTENT = b"content" * 3000
"""Longer than what is made raw before it is opened."""


def suspending(engine: Engine) -> SuspendingEngine:
    return SuspendingEngine(engine, None)


@pytest.fixture
def deferring(tmp_path: Path) -> Iterator[World]:
    """A call is answered before it is committed."""

    def defer(engine: Engine) -> SuspendingEngine:
        return SuspendingEngine(engine, None, defers=True)

    opened = World(tmp_path, ROOMY, passthrough=True, suspending=defer)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True, suspending=suspending)
    try:
        yield opened
    finally:
        opened.close()


def write_file(world: World, name: bytes = b"f", content: bytes = CONTENT) -> InodeNo:
    """Write and close a file, which is not sealed yet."""
    file = world.create(ROOT_INODE, name, 0o644, os.O_WRONLY)
    world.write(file, 0, content)
    world.release(file)
    return file.ino


def pack_file(world: World, *, raw: bool, content: bytes = CONTENT) -> InodeNo:
    """Write a file, and have it packed."""
    ino = write_file(world, content=content)
    world.run(world.filesystem.finish_requests())
    world.run(pack(world.move_parts, ino))
    if not raw:
        world.run(drop_raw(world.move_parts, ino))
        assert not inode_of(world, ino).raw
    return ino


def inode_of(world: World, ino: InodeNo) -> Inode:
    return world.run(world.engine.get_inode(ino))


def run_with(
    world: World,
    work: Callable[[], Awaitable[object]],
    place: Callable[[Callable[[], Awaitable[None]]], None],
    other: Callable[[], Awaitable[object]],
) -> None:
    """Run a step, and have another one come in at a place, until it ends or waits."""

    async def both() -> None:
        async with trio.open_nursery() as nursery:

            async def come_in() -> None:
                nursery.start_soon(other)
                await trio.testing.wait_all_tasks_blocked()

            place(come_in)
            await work()

    world.run(both())


def before(world: World, method: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda hook: world.suspending.before(method, hook)


def after(world: World, method: str) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda hook: world.suspending.after(method, hook)


def test_a_file_is_not_sealed_under_a_writer_who_came_meanwhile(world: World) -> None:
    """The engine would call sealed what is being written, and a kill would lose the note."""
    ino = write_file(world)

    async def write() -> None:
        file = await world.open_meanwhile(ino, os.O_WRONLY)
        await world.write_meanwhile(file, 0, b"CONTENT")

    run_with(world, world.sealer.seal_all, before(world, "change"), write)
    assert inode_of(world, ino).flags & InodeFlags.UNSEALED
    (file,) = world.files
    world.release(file)
    world.run(world.filesystem.finish_requests())
    assert not inode_of(world, ino).flags & InodeFlags.UNSEALED
    assert world.run(world.read_all(ino)) == b"CONTENT" + CONTENT[7:]


def test_a_time_that_is_set_while_a_file_is_sealed_stays(world: World) -> None:
    ino = write_file(world)

    async def set_time() -> None:
        request = AttributeRequest(mtime_ns=SET_NS)
        await world.filesystem.set_attributes(world.program, ino, request)

    run_with(world, world.sealer.seal_all, before(world, "change"), set_time)
    inode = inode_of(world, ino)
    assert inode.mtime_ns == SET_NS
    assert world.raw_store.stat(inode.raw).st_mtime_ns == SET_NS


def test_a_raw_file_is_not_dropped_under_an_open_that_came_meanwhile(world: World) -> None:
    """What is opened then would be passed through to a file that its inode has let go of."""
    ino = pack_file(world, raw=True)

    async def hold() -> None:
        await world.open_meanwhile(ino, os.O_RDONLY)

    run_with(world, lambda: drop_raw(world.move_parts, ino), before(world, "change"), hold)
    (file,) = world.files
    assert file.mode != OpenMode.PASSTHROUGH or inode_of(world, ino).raw
    assert world.read(file, 0, len(CONTENT)) == CONTENT


def test_a_time_that_is_set_while_a_raw_file_is_published_is_its_own(world: World) -> None:
    """Else it would look as if somebody had written to it."""
    ino = pack_file(world, raw=False)
    fetched, go_on = trio.Event(), trio.Event()

    async def wait() -> None:
        fetched.set()
        await go_on.wait()

    async def wait_at_the_next_change() -> None:
        world.suspending.before("change", wait)

    async def let_it_go_on() -> None:
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()

    async def both() -> None:
        world.suspending.after("begin_intent", wait_at_the_next_change)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hydrate, world.move_parts, ino)
            await fetched.wait()
            world.suspending.before("set_attributes", let_it_go_on)
            request = AttributeRequest(mtime_ns=SET_NS)
            nursery.start_soon(world.filesystem.set_attributes, world.program, ino, request)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()

    world.run(both())
    inode = inode_of(world, ino)
    assert inode.mtime_ns == SET_NS
    assert world.raw_store.stat(inode.raw).st_mtime_ns == SET_NS
    assert not world.sealer.is_changed(inode)


def test_two_that_empty_a_file_without_raw_file_write_to_the_same_one(world: World) -> None:
    """The first one's raw file would be garbage while it writes to it."""
    ino = pack_file(world, raw=False)

    async def empty() -> None:
        await world.open_meanwhile(ino, os.O_WRONLY | os.O_TRUNC)

    run_with(world, empty, before(world, "unseal"), empty)
    first, second = world.files
    world.write(first, 0, b"ab")
    world.write(second, 1, b"c")
    assert world.run(world.read_all(ino)) == b"ac"
    garbage = world.run(world.engine.list_garbage(10))
    written = str(int(inode_of(world, ino).raw))
    assert written not in {item.location for item in garbage if item.kind == FormKind.RAW}


def test_a_reader_is_passed_through_to_nothing_that_a_writer_replaces(world: World) -> None:
    """The kernel refuses handles that go to different files, and such that do beside others."""
    ino = pack_file(world, raw=False)

    async def read() -> None:
        await world.open_meanwhile(ino, os.O_RDONLY)

    async def empty() -> None:
        await world.open_meanwhile(ino, os.O_WRONLY | os.O_TRUNC)

    run_with(world, read, after(world, "get_inode"), empty)
    assert len(world.files) == 2


def test_a_read_of_what_is_emptied_meanwhile_is_not_refused(world: World) -> None:
    ino = write_file(world)
    world.run(world.filesystem.finish_requests())
    world.run(pack(world.move_parts, ino))
    world.run(drop_raw(world.move_parts, ino))
    reading = world.form_reader.read
    inode = inode_of(world, ino)
    read: list[bytes] = []

    async def read_on() -> None:
        read.append(bytes(await reading(inode, 0, 100)))

    async def empty() -> None:
        world.release(await world.open_meanwhile(ino, os.O_WRONLY | os.O_TRUNC))

    run_with(world, read_on, before(world, "get_blob"), empty)
    assert read == [b""]


def test_a_forget_that_comes_while_its_inode_is_deleted_leaves_nothing_to_delete(
    world: World,
) -> None:
    """The next round would fail at it, and so each one after."""
    ino = write_file(world)
    world.request(world.filesystem.unlink(ROOT_INODE, b"f"))

    async def forget() -> None:
        world.filesystem.forget([ino])

    world.filesystem._large.append((ino, inode_of(world, ino).raw))
    run_with(
        world,
        world.filesystem.give_back,
        before(world, "reap"),
        forget,
    )
    world.run(world.filesystem.finish_requests())


def test_an_inode_that_lost_its_name_while_orphans_are_counted_is_deleted(world: World) -> None:
    ino = write_file(world)
    world.filesystem._undone = True
    run_with(
        world,
        world.filesystem.reap,
        after(world, "list_orphans"),
        lambda: world.filesystem.unlink(ROOT_INODE, b"f"),
    )
    world.filesystem.forget([ino])
    world.run(world.filesystem.finish_requests())
    assert world.run(world.engine.usage()).inode_count == 1


def test_capabilities_that_are_set_meanwhile_are_not_taken_for_missing(world: World) -> None:
    """The kernel would not drop them at the next write."""
    ino = write_file(world)
    program, filesystem = world.program, world.filesystem
    filesystem._without_capability.clear()

    async def ask() -> None:
        with pytest.raises(NoXattrError):
            await filesystem.get_xattr(program, ino, CAPABILITY_XATTR)

    run_with(
        world,
        ask,
        after(world, "get_xattr"),
        lambda: filesystem.set_xattr(program, ino, CAPABILITY_XATTR, b"caps", 0, False),
    )
    assert world.run(filesystem.get_xattr(program, ino, CAPABILITY_XATTR)) == b"caps"


def test_an_answer_that_another_node_has_made_old_is_not_kept(world: World) -> None:
    """It was on its way here when the change was told of."""
    ino = write_file(world)
    program, filesystem = world.program, world.filesystem
    filesystem._without_capability.clear()

    async def ask() -> None:
        with pytest.raises(NoXattrError):
            await filesystem.get_xattr(program, ino, CAPABILITY_XATTR)

    async def change() -> None:
        await world.sqlite.set_xattr(ino, CAPABILITY_XATTR, b"caps", 0, SET_NS)
        await world.sqlite.set_mode_and_xattrs(
            ROOT_INODE, None, [(acl.DEFAULT_XATTR, DEFAULT_ACL)], SET_NS
        )
        filesystem.invalidations.note_inode(ino, Aspect.XATTRS)
        filesystem.invalidations.note_inode(ROOT_INODE, Aspect.XATTRS)

    run_with(world, ask, after(world, "get_xattr"), change)
    assert world.run(filesystem.get_xattr(program, ino, CAPABILITY_XATTR)) == b"caps"
    filesystem._default_acls.clear()
    world.run(world.sqlite.set_mode_and_xattrs(ROOT_INODE, None, [(acl.DEFAULT_XATTR, None)], 1))
    run_with(
        world,
        lambda: filesystem.make_directory(program, ROOT_INODE, b"before", 0o777),
        after(world, "get_xattr"),
        change,
    )
    world.run(filesystem.make_directory(program, ROOT_INODE, b"after", 0o777))
    made = world.run(world.engine.lookup(ROOT_INODE, b"after"))
    assert made.mode & 0o777 == 0o750


def test_bytes_are_to_be_synced_before_the_name_that_they_get_is_committed(
    world: World,
) -> None:
    """A sync that comes between would make the name durable without them."""
    write_file(world, b"new")
    write_file(world, b"old")
    queued: list[int] = []

    async def look() -> None:
        queued.append(world.file_syncs.syncer.queued_count)

    world.suspending.before("commit", look)
    world.run(world.filesystem.rename(ROOT_INODE, b"new", ROOT_INODE, b"old", 0))
    assert queued == [1]


def test_a_raw_file_of_an_undone_creation_goes_though_another_commit_came_between(
    deferring: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That commit is not of its inode."""
    world, filesystem = deferring, deferring.filesystem

    async def commit_another() -> None:
        await filesystem.make_directory(world.program, ROOT_INODE, b"d", 0o755)
        await filesystem.commit()

    async def create() -> None:
        await filesystem.create(world.program, ROOT_INODE, b"f", 0o644, os.O_WRONLY)

    run_with(world, create, before(world, "create"), commit_another)
    raw = world.run(world.engine.lookup(ROOT_INODE, b"f")).raw
    fail_once(world, monkeypatch)
    with pytest.raises(NoSpaceError):
        world.run(filesystem.commit())
    world.open_table.close()
    world.run(filesystem.finish_requests())
    assert not world.raw_store.exists(raw)
    assert world.run(world.engine.find(ROOT_INODE, b"d")) is not None


def test_a_file_that_was_rewritten_elsewhere_is_opened_as_it_is_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a writer would get a raw file that its inode does not name."""
    ino = pack_file(world, raw=False)
    sqlite, raw_store = world.sqlite, world.raw_store

    async def rewrite() -> None:
        inode = await sqlite.get_inode(ino)
        _, raw = sqlite.reserve_ids()
        os.close(raw_store.create(raw))
        after = await sqlite.unseal(ino, raw)
        status = raw_store.stat(raw)
        times = inode.atime_ns, status.st_mtime_ns, inode.ctime_ns
        await sqlite.seal([Seal(ino, after.generation, 0, 0, *times)])
        await sqlite.commit()

    async def empty() -> None:
        await world.open_meanwhile(ino, os.O_WRONLY | os.O_TRUNC)

    made: list[RawId] = []
    creating = raw_store.create

    def create(raw: RawId) -> int:
        made.append(raw)
        return creating(raw)

    monkeypatch.setattr(raw_store, "create", create)
    run_with(world, empty, before(world, "unseal"), rewrite)
    inode = inode_of(world, ino)
    assert inode.flags & InodeFlags.UNSEALED
    (file,) = world.files
    world.write(file, 0, b"new")
    assert world.run(world.read_all(ino)) == b"new"
    world.run(world.filesystem.finish_requests())
    assert [raw for raw in made if raw_store.exists(raw)] == [inode.raw]


def test_a_mode_that_is_set_while_setuid_is_cleared_stays(world: World) -> None:
    """A write by an ordinary user clears the bit of the mode that there is, not of an older one."""
    file = world.create(ROOT_INODE, b"f", 0o4755, os.O_WRONLY)
    world.request(chmod(world, file.ino, 0o4755))
    world.release(file)

    async def empty() -> None:
        flags = os.O_WRONLY | os.O_TRUNC
        opened = await world.filesystem.open(world.program, file.ino, flags, kill_suidgid=True)
        world.filesystem.release(file.ino, opened.handle)

    run_with(world, empty, before(world, "set_attributes"), lambda: chmod(world, file.ino, 0o600))
    assert inode_of(world, file.ino).mode & 0o7777 == 0o600


def test_an_inode_is_pinned_once_by_those_who_ask_for_a_new_pin(world: World) -> None:
    """setxattr(2), XATTR_CREATE: of two at a time one finds it set."""
    ino = write_file(world)
    outcomes: list[str] = []

    async def pin() -> None:
        try:
            await world.filesystem.set_xattr(
                world.program, ino, TIER_XATTR, b"cold", os.XATTR_CREATE, False
            )
        except AlreadyExistsError:
            outcomes.append("refused")
        else:
            outcomes.append("pinned")

    run_with(world, pin, before(world, "set_pin"), pin)
    assert sorted(outcomes) == ["pinned", "refused"]


def test_a_pin_is_removed_once(world: World) -> None:
    """removexattr(2), ENODATA: of two at a time one finds no pin."""
    ino = write_file(world)
    world.run(world.filesystem.set_xattr(world.program, ino, TIER_XATTR, b"cold", 0, False))
    outcomes: list[str] = []

    async def unpin() -> None:
        try:
            await world.filesystem.remove_xattr(world.program, ino, TIER_XATTR)
        except NoXattrError:
            outcomes.append("refused")
        else:
            outcomes.append("removed")

    run_with(world, unpin, before(world, "set_pin"), unpin)
    assert sorted(outcomes) == ["refused", "removed"]


@pytest.mark.parametrize("call", ["set_xattr", "remove_xattr"])
def test_a_mark_does_not_turn_the_time_of_a_change_back(world: World, call: str) -> None:
    """Backup programs look at it."""
    ino = write_file(world)
    name = b"user.memfs.priority"
    if call == "remove_xattr":
        world.run(world.filesystem.set_xattr(world.program, ino, name, b"7", 0, False))
    seen_ns: list[int] = []

    async def mark() -> None:
        if call == "set_xattr":
            await world.filesystem.set_xattr(world.program, ino, name, b"7", 0, False)
        else:
            await world.filesystem.remove_xattr(world.program, ino, name)

    async def change_mode() -> None:
        seen_ns.append((await chmod(world, ino, 0o600)).inode.ctime_ns)

    run_with(world, mark, before(world, call), change_mode)
    assert inode_of(world, ino).ctime_ns >= seen_ns[0]


def test_a_creation_that_is_cut_short_leaves_no_raw_file(world: World) -> None:
    """Its program is killed while the engine works, and the kill holds while it is given up."""
    filesystem, program = world.filesystem, world.program
    scope = trio.CancelScope()

    async def create() -> None:
        with scope:
            await filesystem.create(program, ROOT_INODE, b"f", 0o644, os.O_WRONLY)

    async def kill() -> None:
        world.suspending.before("get_inode", trio.lowlevel.checkpoint)
        scope.cancel()
        await trio.lowlevel.checkpoint()

    world.suspending.before("create", kill)
    before_count = count_raw_files(world)
    world.run(create())
    assert world.run(world.engine.find(ROOT_INODE, b"f")) is None
    assert count_raw_files(world) <= before_count


def count_raw_files(world: World) -> int:
    return sum(len(files) for _, _, files in os.walk(world.raw_store.root))


async def chmod(world: World, ino: InodeNo, mode: int) -> Attributes:
    return await world.filesystem.set_attributes(world.program, ino, AttributeRequest(mode=mode))


def three_forms(world: World) -> InodeNo:
    """Write a file that is raw, packed and in the store."""
    ino = pack_file(world, raw=True)
    world.run(upload(world.move_parts, ino))
    return ino


async def local_forms(world: World, ino: InodeNo) -> list[FormKind]:
    inode = await world.sqlite.get_inode(ino)
    forms = [form.kind for form in await world.sqlite.list_forms(inode.blob)]
    local = [kind for kind in forms if kind != FormKind.REMOTE]
    return [*local, *([FormKind.RAW] if inode.raw else [])]


@pytest.mark.parametrize("first", [FormKind.RAW, FormKind.PACKED])
def test_two_local_copies_do_not_go_each_because_of_the_other(
    world: World, first: FormKind
) -> None:
    """Nobody has looked whether the store has the object."""
    ino = three_forms(world)
    parts = world.move_parts

    async def drop(kind: FormKind) -> None:
        if kind == FormKind.RAW:
            await drop_raw(parts, ino)
        else:
            await drop_form(parts, ino, kind)

    async def drop_other() -> None:
        await drop(FormKind.PACKED if first == FormKind.RAW else FormKind.RAW)

    world.suspending.before("change", drop_other)
    world.run(drop(first))
    assert len(world.run(local_forms(world, ino))) == 1


def test_a_form_that_took_the_place_of_a_damaged_one_is_not_given_up(world: World) -> None:
    """A scrub judges what it has looked at."""
    ino = three_forms(world)
    (packed,) = (
        form
        for form in world.run(world.engine.list_forms(inode_of(world, ino).blob))
        if form.kind == FormKind.PACKED
    )
    path = world.packed_store.path(packed.place.key)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"damage" * 20)

    async def pack_anew() -> None:
        await drop_form(world.move_parts, ino, FormKind.PACKED)
        await pack(world.move_parts, ino)

    async def after_the_last_look() -> None:
        world.suspending.after("list_forms", pack_anew)

    async def after_the_second_look() -> None:
        world.suspending.after("list_forms", after_the_last_look)

    # The scrub lists forms to check them, to see that they are as they were, and to repair.
    world.suspending.after("list_forms", after_the_second_look)
    scrubbed = world.run(scrub_file(world.move_parts, ino))
    assert scrubbed.outcome == ScrubOutcome.SKIPPED
    assert FormKind.PACKED in world.run(local_forms(world, ino))


def test_a_file_is_fetched_once_by_two_who_look_before_one_of_them_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fetch from the store costs time and money."""
    ino = pack_file(world, raw=False)
    made: list[RawId] = []
    creating = world.raw_store.create

    def create(raw: RawId) -> int:
        made.append(raw)
        return creating(raw)

    monkeypatch.setattr(world.raw_store, "create", create)

    async def fetch() -> None:
        await hydrate(world.move_parts, ino)

    world.suspending.after("get_inode", fetch)
    world.run(fetch())
    assert made == [inode_of(world, ino).raw]


def test_an_open_of_a_packed_file_reads_its_inode_twice(world: World) -> None:
    """Where it begins, and before the raw file is published; each may be a way to a server."""
    size = world.move_parts.config.cold.hydrate_bytes_max
    ino = pack_file(world, raw=False, content=CONTENT[:size])
    world.suspending.calls.clear()
    world.release(world.open(ino, os.O_RDONLY))
    assert world.suspending.calls["get_inode"] == 2
    assert inode_of(world, ino).raw


def test_failures_that_come_together_are_counted_each(world: World) -> None:
    """Else the pause would not grow."""
    ino = write_file(world)
    world.run(world.filesystem.finish_requests())

    async def fail() -> None:
        await world.mover._placer.postpone(
            ino, Tier.GLACIER, Wait(PendingCode.STORE, "the store is down")
        )

    run_with(world, fail, before(world, "change"), fail)
    pending = world.run(world.engine.get_pending(ino))
    assert pending is not None
    assert pending.attempt_count == 2


def test_what_becomes_garbage_stays_until_that_is_committed(
    deferring: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the commit fails, the file has its packed form again."""
    world = deferring
    ino = pack_file(world, raw=False)
    outcomes: list[str] = []

    async def collect() -> None:
        fail_once(world, monkeypatch)
        with pytest.raises(NoSpaceError):
            await world.garbage.collect_local(10)
        outcomes.append("refused")
        raise NoSpaceError("all who wait for the same commit are told")

    async def empty() -> None:
        with pytest.raises(NoSpaceError):
            await world.filesystem.open(world.program, ino, os.O_WRONLY | os.O_TRUNC)

    world.suspending.after("unseal", collect)
    world.run(empty())
    assert outcomes == ["refused"]
    world.run(world.filesystem.finish_requests())
    assert world.run(world.read_all(ino)) == CONTENT


def test_an_access_time_is_shown_while_it_is_stored(world: World) -> None:
    ino = write_file(world)
    world.run(world.filesystem.finish_requests())
    file = world.open(ino, os.O_RDONLY)
    world.release(file)
    filesystem = world.filesystem
    filesystem._atimes[ino] = SET_NS * 3
    seen: list[int] = []

    async def look() -> None:
        seen.append((await filesystem.get_attributes(ino)).inode.atime_ns)

    run_with(world, filesystem.store_atimes, before(world, "set_attributes"), look)
    assert seen == [SET_NS * 3]
    assert inode_of(world, ino).atime_ns == SET_NS * 3
