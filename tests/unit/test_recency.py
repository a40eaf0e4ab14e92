"""An answer has what another node has committed before a program asked."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from memfs.content.invalidations import Invalidations
from memfs.content.kernel_cache import KernelCache
from memfs.errors import (
    BehindError,
    NotUploadedError,
    StaleInodeError,
    WrittenElsewhereError,
)
from memfs.filesystem.recency import GRACE_S, WALK_S_MAX, WRITTEN_WAIT_S, Recency
from memfs.metadata.namespace import FrozenTree
from memfs.metadata.records import Inode, InodeFlags
from memfs.metadata.shared.applying import Aspect, Effects
from memfs.types import NO_BLOB, NO_RAW, ROOT_INODE, Generation, InodeNo, RawId
from tests.unit.fakes.kernel_notices import Recorder
from tests.unit.fakes.reader_log import LIMIT_S, StandInLog, Thread, taken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from memfs.errors import MemfsError
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Form

FILE, OTHER, DIRECTORY = InodeNo(10), InodeNo(11), InodeNo(12)


class Tables:
    """Has what is asked of the engine."""

    def __init__(self) -> None:
        self.inodes = {FILE: inode(FILE)}
        self.forms: dict[InodeNo, list[object]] = {}
        self.frozen: dict[InodeNo, bool] = {}
        """Inodes in frozen trees, and whether these are being thawed."""

    async def get_inode(self, ino: InodeNo) -> Inode:
        if ino not in self.inodes:
            raise StaleInodeError(f"inode {ino}")
        return self.inodes[ino]

    @property
    def has_frozen(self) -> bool:
        return bool(self.frozen)

    async def find_frozen(self, ino: InodeNo) -> FrozenTree | None:
        if ino not in self.inodes:
            raise StaleInodeError(f"inode {ino}")
        return FrozenTree(ino, self.frozen[ino]) if ino in self.frozen else None

    async def list_all_forms(self, found: Inode) -> list[Form]:
        return cast("list[Form]", self.forms.get(found.ino, []))


def inode(ino: InodeNo, *, flags: int = 0, size: int = 0, raw: int = 0, nlink: int = 1) -> Inode:
    return Inode(
        ino, 0o100644, 0, 0, nlink, 0, size, 0, 0, 0, 0, 0, Generation(1), RawId(raw), NO_BLOB,
        flags, 0, None, 0,
    )  # fmt: skip


class Node:
    """A node that reads, without a file system."""

    def __init__(self) -> None:
        self.log = StandInLog()
        self.tables = Tables()
        self.kernel_cache = KernelCache()
        self.recency = Recency(
            self.log, cast("Engine", self.tables), Invalidations(self.kernel_cache)
        )
        self.log.tell = self.recency.tell

    async def is_refused(self, ino: InodeNo = FILE, pid: int = 100) -> bool:
        try:
            await self.recency.see_named(ino, Thread(pid))
        except StaleInodeError:
            return True
        return False

    async def misses_elsewhere(self, directory: InodeNo, pid: int = 100) -> bool:
        """Return whether who misses a name in a directory is to walk anew."""
        try:
            await self.recency.see_below(directory, Thread(pid))
        except StaleInodeError:
            return True
        return False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.recency.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def node() -> Node:
    return Node()


async def test_what_was_committed_before_is_seen_and_refused_once(node: Node) -> None:
    node.log.commit(taken(FILE))
    assert await node.is_refused()
    # The walk anew has asked for each name.
    assert not await node.is_refused()
    assert node.log.barrier_count == 2


async def test_each_thread_walks_anew_by_itself(node: Node) -> None:
    """Another one may have walked by the old names at the same time."""
    node.log.commit(taken(FILE))
    assert await node.is_refused(pid=1)
    assert await node.is_refused(pid=2)
    assert not await node.is_refused(pid=1)
    assert not await node.is_refused(pid=2)


async def test_a_walk_anew_is_not_refused_for_what_comes_meanwhile(node: Node) -> None:
    """The kernel walks anew once; a program would see the second ESTALE."""
    node.log.commit(taken(FILE))
    assert await node.is_refused()
    node.log.commit(taken(FILE))
    assert not await node.is_refused()
    node.log.commit(taken(FILE))
    assert await node.is_refused()


async def test_a_walk_anew_may_end_elsewhere(node: Node) -> None:
    """At what it has looked up; another one has been walked to by old names."""
    for found in (OTHER, DIRECTORY):
        both = taken(FILE)
        both.taken += taken(OTHER).taken
        node.log.commit(both)
        assert await node.is_refused(FILE)
        node.recency.note_found(found, Thread())
        assert await node.is_refused(OTHER) == (found == DIRECTORY)


async def test_a_walk_that_has_ended_is_not_taken_for_the_next_one(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    """By a name that leads nowhere, or long ago: the next one looks up what may be too old."""
    for ends in (lambda: node.recency.note_missed(Thread()), None):
        node.log.commit(taken(FILE))
        assert await node.is_refused()
        if ends is None:
            await trio.sleep(WALK_S_MAX + 1)
        else:
            ends()
        node.recency.note_found(OTHER, Thread())
        node.log.commit(taken(OTHER))
        assert await node.is_refused(OTHER)
        assert not await node.is_refused(OTHER)


async def test_names_of_other_files_refuse_nobody_and_directories_all(node: Node) -> None:
    node.log.commit(taken(OTHER))
    assert not await node.is_refused()
    node.log.commit(taken(DIRECTORY, leads_on=True))
    assert await node.is_refused()


async def test_a_name_is_missed_where_the_path_leads_now(node: Node) -> None:
    """And each thread is refused once for it."""
    node.log.commit(taken(DIRECTORY, leads_on=True))
    assert await node.misses_elsewhere(OTHER, pid=1)
    assert await node.misses_elsewhere(OTHER, pid=2)
    # The walk anew comes to the same directory, or by names that it looks up to another one.
    assert not await node.misses_elsewhere(OTHER, pid=1)
    node.recency.note_found(FILE, Thread(2))
    assert not await node.misses_elsewhere(FILE, pid=2)


async def test_a_walk_anew_that_finds_a_name_late_goes_on(node: Node) -> None:
    """It may wait for a name, and then open what that leads to: it is refused no second time."""
    node.log.commit(taken(DIRECTORY, leads_on=True))
    assert await node.misses_elsewhere(DIRECTORY)
    node.log.commit(taken(OTHER, leads_on=True))
    assert not await node.misses_elsewhere(DIRECTORY)
    node.recency.note_found(FILE, Thread())
    assert not await node.is_refused(FILE)
    assert await node.is_refused(FILE)


async def test_a_name_that_is_missing_in_the_root_is_missing(node: Node) -> None:
    node.log.commit(taken(DIRECTORY, leads_on=True))
    assert not await node.misses_elsewhere(ROOT_INODE)


async def test_the_grace_of_a_walk_under_way(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    """A beat has applied it, and the kernel has forgotten the name, but just now."""
    async with node.running():
        node.log.commit(taken(FILE))
        node.log.apply()
        await trio.testing.wait_all_tasks_blocked()
        assert await node.is_refused(pid=1)
        await trio.sleep(GRACE_S)
        assert not await node.is_refused(pid=2)


async def test_a_kernel_that_has_not_forgotten_may_walk_by_old_names(node: Node) -> None:
    """However long that takes: it waits for a request in the directory."""
    notices = Recorder()
    notices.go_on.clear()
    with node.kernel_cache.told_by(notices):
        async with node.running():
            node.log.commit(taken(FILE))
            node.log.apply()
            await trio.testing.wait_all_tasks_blocked()
            assert await node.is_refused()
            notices.go_on.set()
    assert ("name", ROOT_INODE, b"name") in notices.told


async def test_attributes_are_forgotten_before_the_answer(node: Node) -> None:
    notices = Recorder()
    notices.go_on.clear()
    with node.kernel_cache.told_by(notices):
        effects = taken(OTHER)
        effects.note(FILE, Aspect.ATTRIBUTES)
        node.log.commit(effects)
        assert not await node.is_refused()
        assert ("attributes", FILE) in notices.told
        notices.go_on.set()


async def test_a_database_that_does_not_answer(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    node.log.answers = False
    with pytest.raises(BehindError) as caught:
        await node.recency.see_named(FILE, Thread())
    assert caught.value.errno == errno.EIO


# --- frozen trees --------------------------------------------------------------------------------
def frozen() -> Effects:
    effects = Effects()
    effects.frozen = True
    return effects


@pytest.fixture
def frozen_node(node: Node) -> Node:
    node.tables.inodes[DIRECTORY] = inode(DIRECTORY)._replace(mode=0o040755, nlink=2)
    node.tables.frozen = {FILE: False, DIRECTORY: False}
    return node


async def test_what_is_frozen_is_asked_of_nobody(frozen_node: Node) -> None:
    node = frozen_node
    # Another node has changed something, and the database would not even answer.
    node.log.commit(taken(OTHER, leads_on=True))
    node.log.answers = False
    for _ in range(3):
        assert not await node.is_refused(FILE)
        assert not await node.is_refused(DIRECTORY)
        assert not await node.misses_elsewhere(DIRECTORY)
        await node.recency.see_in(DIRECTORY)
    assert node.log.barrier_count == 0
    node.log.answers = True
    assert await node.is_refused(OTHER)
    await node.recency.see_in(OTHER)
    assert node.log.barrier_count == 2


@pytest.mark.parametrize("what", ["old knowledge", "being thawed", "several names", "gone"])
async def test_what_may_change_is_asked_for(frozen_node: Node, what: str) -> None:
    node, tables = frozen_node, frozen_node.tables
    match what:
        case "old knowledge":
            node.log.is_fresh = False
        case "being thawed":
            tables.frozen[FILE] = True
        case "several names":
            tables.inodes[FILE] = inode(FILE, nlink=2)
        case "gone":
            del tables.inodes[FILE]
    node.log.commit(taken(FILE))
    assert await node.is_refused(FILE)
    assert node.log.barrier_count == 1


async def test_a_walk_from_before_the_freeze_is_walked_anew(
    frozen_node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    """The kernel may have walked by names that led elsewhere then."""
    node = frozen_node
    async with node.running():
        node.log.commit(taken(FILE))
        node.log.commit(frozen())
        node.log.apply()
        await trio.testing.wait_all_tasks_blocked()
        assert await node.is_refused(FILE)
        assert node.log.barrier_count == 1
        await trio.sleep(GRACE_S)
        assert not await node.is_refused(FILE, pid=2)
        assert node.log.barrier_count == 1


async def test_who_was_refused_before_is_a_stranger_after_a_frozen_file(frozen_node: Node) -> None:
    """It has walked another path since: what it walks next may be old."""
    node = frozen_node
    node.log.commit(taken(OTHER))
    assert await node.is_refused(OTHER)
    assert not await node.is_refused(FILE)
    node.log.commit(taken(OTHER))
    assert await node.is_refused(OTHER)


# --- bytes ---------------------------------------------------------------------------------------
async def test_bytes_that_are_there_are_not_waited_for(node: Node) -> None:
    for found in (inode(FILE, size=0), inode(FILE, size=3, raw=4)):
        node.tables.inodes[FILE] = found
        assert await node.recency.wait_for_bytes(FILE) == found
    node.tables.inodes[FILE] = inode(FILE, size=3, raw=NO_RAW)
    node.tables.forms[FILE] = [object()]
    assert (await node.recency.wait_for_bytes(FILE)).size == 3


@pytest.mark.parametrize(
    ("missing", "error", "code", "limit_s"),
    [
        (
            inode(FILE, flags=InodeFlags.UNSEALED),
            WrittenElsewhereError,
            errno.EBUSY,
            WRITTEN_WAIT_S,
        ),
        (inode(FILE, size=3), NotUploadedError, errno.EIO, LIMIT_S),
    ],
    ids=["being written", "not uploaded"],
)
async def test_bytes_that_do_not_come(
    node: Node,
    missing: Inode,
    error: type[WrittenElsewhereError | NotUploadedError],
    code: int,
    limit_s: float,
    autojump_clock: trio.testing.MockClock,
) -> None:
    node.tables.inodes[FILE] = missing
    begun_s = trio.current_time()
    with pytest.raises(error, match="node first") as caught:
        await node.recency.wait_for_bytes(FILE)
    assert trio.current_time() - begun_s == pytest.approx(limit_s)
    assert caught.value.errno == code
    assert (await node.recency.why(missing))["content"] == str(caught.value)


async def test_bytes_that_come_while_they_are_waited_for(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    node.tables.inodes[FILE] = inode(FILE, flags=InodeFlags.UNSEALED)
    found: list[Inode] = []

    async def wait() -> None:
        found.append(await node.recency.wait_for_bytes(FILE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(WRITTEN_WAIT_S / 2)
        node.tables.inodes[FILE] = inode(FILE, size=3)
        node.log.commit(Effects())
        node.log.apply()
        # No longer written: its upload is waited for.
        await trio.sleep(WRITTEN_WAIT_S)
        assert not found
        node.tables.forms[FILE] = [object()]
        node.log.commit(Effects())
        node.log.apply()
    assert found == [inode(FILE, size=3)]


async def test_a_file_that_goes_before_its_bytes_come(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    node.tables.inodes[FILE] = inode(FILE, size=3, nlink=0)
    with pytest.raises(StaleInodeError):
        await node.recency.wait_for_bytes(FILE)


class AtHand:
    """Asks the other node; a test says what comes of it."""

    def __init__(self, node: Node, *, comes_at: int | None) -> None:
        self._node = node
        self._comes_at = comes_at
        self.asked_s: list[float] = []

    async def hurry(self, ino: InodeNo, missing: MemfsError) -> bool:
        assert isinstance(missing, WrittenElsewhereError)
        await trio.lowlevel.checkpoint()
        self.asked_s.append(trio.current_time())
        if len(self.asked_s) != self._comes_at:
            return False
        self._node.tables.inodes[ino] = inode(ino, size=3, raw=4)
        return True


async def test_the_other_node_is_asked_again_and_again_while_bytes_are_waited_for(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    """Soon at first: most programs have a file open for a moment."""
    node.tables.inodes[FILE] = inode(FILE, flags=InodeFlags.UNSEALED)
    at_hand = node.recency.at_hand = AtHand(node, comes_at=4)
    begun_s = trio.current_time()
    assert (await node.recency.wait_for_bytes(FILE)).raw == 4
    assert len(at_hand.asked_s) == 4
    assert trio.current_time() - begun_s < 0.5


async def test_asking_the_other_node_takes_no_longer_than_waiting(
    node: Node, autojump_clock: trio.testing.MockClock
) -> None:
    node.tables.inodes[FILE] = inode(FILE, flags=InodeFlags.UNSEALED)
    at_hand = node.recency.at_hand = AtHand(node, comes_at=None)
    begun_s = trio.current_time()
    with pytest.raises(WrittenElsewhereError):
        await node.recency.wait_for_bytes(FILE)
    assert trio.current_time() - begun_s == pytest.approx(WRITTEN_WAIT_S)
    assert 5 < len(at_hand.asked_s) < 20
