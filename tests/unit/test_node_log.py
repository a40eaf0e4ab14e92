"""The log of a node that reads: barriers, beats, and what is told when nothing can be known."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import BehindError, CorruptDataError, DisconnectedError
from memfs.metadata.namespace import FROZEN_S
from memfs.metadata.shared import bodies
from memfs.metadata.shared.applying import Effects, TakenName
from memfs.metadata.shared.log import (
    APPLIED_AT_ONCE,
    BEAT_S,
    BODIES_A_TIME,
    READ_LOG,
    READ_STATE,
    REPORT,
    ROUNDS_AT_ONCE,
    Log,
    NameChanges,
    ReaderNode,
)
from memfs.metadata.sqlite.statements import FINGERPRINT
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.metadata.shared.bodies import Body
    from memfs.metadata.shared.writer import Statement
    from memfs.metadata.sqlite.statements import Row

LIMIT_S = 10.0
EPOCH = 7
BODY = bodies.encode(FINGERPRINT, [], [0] * 9)


class Database:
    """What the database has, and how it answers."""

    def __init__(self) -> None:
        self.seq = 0
        self.first = 1
        """The first change that is kept."""
        self.epoch, self.state = EPOCH, "live"
        self.reported = 0
        self.round_s = 0.01
        self.round_count = self.connection_count = 0
        self.is_dead = self.refuses = False
        self.connect_s = 0.0
        """So long a connection takes that begins while it is dead."""
        self.is_cut = False
        """Connections end before their answer."""

    async def connect(self) -> Session:
        """Return another connection."""
        if self.refuses:
            raise DisconnectedError("refused")
        if self.is_dead:
            await trio.sleep(self.connect_s)
        self.connection_count += 1
        return Session(self)


class Session:
    """A connection to it."""

    backend_pid = 1

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_closed = False

    async def transact(
        self, statements: Sequence[Statement], timeout_s: float | None = None
    ) -> list[list[Row]]:
        """Answer after one round trip, with what is there when the question arrives."""
        database = self._database
        database.round_count += 1
        if database.is_dead:
            assert timeout_s is not None
            await trio.sleep(timeout_s)
            raise DisconnectedError("no answer")
        await trio.sleep(database.round_s / 2)
        if database.is_cut:
            raise DisconnectedError("the connection is lost")
        answers = [self._answer(text, parameters) for text, parameters in statements]
        await trio.sleep(database.round_s / 2)
        return answers

    def _answer(self, text: str, parameters: Sequence[object]) -> list[Row]:
        database = self._database
        if text == READ_STATE:
            return [(database.seq, "w", database.epoch, database.state, 1)]
        if text == READ_LOG:
            after, limit = parameters
            assert isinstance(after, int)
            assert limit == BODIES_A_TIME
            first = max(after + 1, database.first)
            last = min(database.seq, first + BODIES_A_TIME - 1)
            return [(number, BODY) for number in range(first, last + 1)]
        if text == REPORT:
            assert isinstance(parameters[0], int)
            database.reported = parameters[0]
        return []

    def close(self) -> None:
        """See `Session`."""
        self.is_closed = True


class Engine:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.applied: list[int] = []
        self.synced = 0
        self.fails = False
        self.longest = 0

    def apply(self, changes: Sequence[tuple[int, Body]]) -> Effects:
        """Take changes."""
        if self.fails:
            raise CorruptDataError("inode 5 is missing")
        self.applied += [number for number, _ in changes]
        self.longest = max(self.longest, len(changes))
        return Effects()

    async def sync(self) -> None:
        """Note how far is on stable storage."""
        self.synced = len(self.applied)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def log(database: Database, engine: Engine) -> Log:
    node = ReaderNode(2, "r", "postgresql://db", EPOCH)
    return Log(node, engine.apply, engine.sync, 0, database.connect, LIMIT_S, random.Random(1))


async def test_a_barrier_has_all_that_was_committed_before(
    autojump_clock: object, nursery: trio.Nursery, database: Database, engine: Engine, log: Log
) -> None:
    nursery.start_soon(log.run)
    for _ in range(20):
        database.seq += 3
        committed = database.seq
        assert await log.barrier() >= committed
        assert engine.applied == [*range(1, log.applied + 1)]
        await trio.sleep(random.Random(database.seq).uniform(0, 0.02))


async def test_what_is_known_is_fresh_for_a_while(
    autojump_clock: object, nursery: trio.Nursery, database: Database, engine: Engine
) -> None:
    """Counted from the beginning of the round that told it, whatever the machine did meanwhile."""
    suspended_s = 0.0
    log = Log(
        ReaderNode(2, "r", "postgresql://db", EPOCH),
        *(engine.apply, engine.sync, 0, database.connect, LIMIT_S, random.Random(1)),
        clock=lambda: trio.current_time() + suspended_s,
    )
    assert not log.is_fresh
    nursery.start_soon(log.run)
    await log.barrier()
    await trio.sleep(100)
    assert log.is_fresh
    # The machine sleeps.
    suspended_s = FROZEN_S
    assert not log.is_fresh
    await log.barrier()
    assert log.is_fresh
    # A round takes long: what it tells is as old as that.
    database.round_s = FROZEN_S
    await log.barrier()
    assert not log.is_fresh
    database.round_s = 0.01
    await log.barrier()
    assert log.is_fresh
    database.is_dead = True
    await trio.sleep(FROZEN_S)
    assert not log.is_fresh


async def test_who_cannot_follow_any_more_knows_nothing_fresh(
    autojump_clock: object, nursery: trio.Nursery, database: Database, log: Log
) -> None:
    nursery.start_soon(log.run)
    await log.barrier()
    assert log.is_fresh
    database.state = "behind"
    with pytest.raises(BehindError):
        await log.barrier()
    assert not log.is_fresh


async def test_those_who_wait_share_a_round(
    autojump_clock: object, nursery: trio.Nursery, database: Database, log: Log
) -> None:
    nursery.start_soon(log.run)
    await log.barrier()
    before = database.round_count
    async with trio.open_nursery() as askers:
        for _ in range(1000):
            askers.start_soon(log.barrier)
    # One that was under way, and one that began after they had asked.
    assert database.round_count - before <= 2


async def test_a_round_that_is_under_way_serves_nobody_who_comes_later(
    autojump_clock: object, nursery: trio.Nursery, database: Database, log: Log
) -> None:
    database.round_s = 1.0
    nursery.start_soon(log.run)
    await trio.sleep(0.7)
    # The question has been answered there, and its answer is on its way.
    database.seq = 1
    assert await log.barrier() == 1


async def test_nobody_waits_for_the_round_of_another_one(
    autojump_clock: object, nursery: trio.Nursery, database: Database, log: Log
) -> None:
    """Once there are connections for it, and one program alone needs one."""
    nursery.start_soon(log.run)
    await log.barrier()
    assert database.connection_count == 1
    database.round_s = 1.0
    longest_s = 0.0

    async def ask() -> None:
        nonlocal longest_s
        begun_s = trio.current_time()
        await log.barrier()
        longest_s = max(longest_s, trio.current_time() - begun_s)

    for number in range(20):
        if number == 10:
            longest_s = 0.0
        async with trio.open_nursery() as askers:
            for after_s in (0.0, 0.3, 0.6):
                askers.start_soon(trio.sleep, after_s)
                await trio.sleep(after_s)
                askers.start_soon(ask)
    # With one round at a time some wait for nearly two.
    assert longest_s < 1.3
    assert database.connection_count == ROUNDS_AT_ONCE


async def test_answers_that_overtake_each_other_are_applied_once(
    autojump_clock: object, nursery: trio.Nursery, database: Database, engine: Engine, log: Log
) -> None:
    """And each barrier has what was committed before, though connections end."""
    rng = random.Random(5)
    nursery.start_soon(log.run)
    await log.barrier()
    barrier_count = 0

    async def ask() -> None:
        nonlocal barrier_count
        while True:
            committed = database.seq
            assert await log.barrier() >= committed
            barrier_count += 1
            await trio.sleep(rng.uniform(0, 0.01))

    async with trio.open_nursery() as askers:
        for _ in range(5):
            askers.start_soon(ask)
        for _ in range(3000):
            database.seq += rng.choice((0, 1, 1, 30))
            database.round_s = rng.choice((0.001, 0.01, 0.05))
            database.is_cut = rng.random() < 0.01
            await trio.sleep(0.005)
        askers.cancel_scope.cancel()
    assert barrier_count > 1000
    assert await log.barrier() == database.seq
    assert engine.applied == [*range(1, database.seq + 1)]


async def test_changes_come_without_being_asked_for(
    autojump_clock: object, nursery: trio.Nursery, database: Database, log: Log
) -> None:
    nursery.start_soon(log.run)
    await log.barrier()
    for _ in range(10):
        database.seq += 1
        await trio.sleep(BEAT_S + 3 * database.round_s)
        assert log.applied == database.seq
    assert await log.wait_beyond(database.seq - 1) == database.seq


async def test_many_changes_are_applied_in_steps(
    autojump_clock: object, nursery: trio.Nursery, database: Database, engine: Engine, log: Log
) -> None:
    database.seq = 3 * BODIES_A_TIME + 7
    nursery.start_soon(log.run)
    assert await log.barrier() == database.seq
    assert engine.applied == [*range(1, database.seq + 1)]
    assert engine.longest == APPLIED_AT_ONCE


async def test_only_what_is_durable_is_reported(
    autojump_clock: object, nursery: trio.Nursery, database: Database, engine: Engine, log: Log
) -> None:
    nursery.start_soon(log.run)
    for _ in range(30):
        database.seq += 1
        await trio.sleep(0.4)
        assert database.reported <= engine.synced
    assert database.reported > 20


async def test_a_database_that_is_silent_fails_barriers_in_time_and_comes_back(
    autojump_clock: object, nursery: trio.Nursery, database: Database, log: Log
) -> None:
    nursery.start_soon(log.run)
    await log.barrier()
    database.is_dead = True
    begun_s = trio.current_time()
    with pytest.raises(BehindError, match=r"postgresql://db has not answered for 10 s"):
        await log.barrier()
    assert trio.current_time() - begun_s == pytest.approx(LIMIT_S)
    await trio.sleep(3 * LIMIT_S)
    assert log.report().behind_since is not None
    assert "no answer" in (log.report().reason or "")
    database.is_dead, database.refuses = False, True
    await trio.sleep(3 * LIMIT_S)
    assert "refused" in (log.report().reason or "")
    database.refuses = False
    database.seq += 1
    assert await log.barrier() == 1
    report = log.report()
    assert (report.behind_since, report.reason, report.connected) == (None, None, True)
    assert report.writer == "w"


@pytest.mark.parametrize("others", [0, ROUNDS_AT_ONCE])
async def test_nobody_waits_for_a_connection_that_stays_silent_after_a_cut(
    autojump_clock: object, nursery: trio.Nursery, database: Database, log: Log, others: int
) -> None:
    """TCP doubles the pauses between its attempts; with further connections before, and without."""
    nursery.start_soon(log.run)
    await log.barrier()
    database.round_s = 1.0
    async with trio.open_nursery() as askers:
        for _ in range(others):
            askers.start_soon(log.barrier)
            await trio.sleep(0.3)
    database.round_s, database.connect_s = 0.01, LIMIT_S
    database.is_dead = True
    database.seq += 1
    # A round that nobody has asked for is under way by then.
    await trio.sleep(4 * BEAT_S)

    async def heal() -> None:
        await trio.sleep(0.3 * LIMIT_S)
        database.is_dead = False

    nursery.start_soon(heal)
    begun_s = trio.current_time()
    assert await log.barrier() == 1
    assert trio.current_time() - begun_s < 0.7 * LIMIT_S


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda database, _engine: setattr(database, "first", 5), "nodes.keep_changes"),
        (lambda database, _engine: setattr(database, "first", 99), "nodes.keep_changes"),
        (lambda database, _engine: setattr(database, "state", "behind"), "nodes.keep_changes"),
        (lambda database, _engine: setattr(database, "epoch", 8), "a copy of this state directory"),
        (lambda database, _engine: setattr(database, "seq", 1), "put back from a backup"),
        (lambda _database, engine: setattr(engine, "fails", True), "inode 5 is missing"),
    ],
)
async def test_a_node_that_cannot_follow_says_so_at_once_and_for_good(
    autojump_clock: object,
    nursery: trio.Nursery,
    database: Database,
    engine: Engine,
    log: Log,
    change: Callable[[Database, Engine], None],
    message: str,
) -> None:
    database.seq = 3
    nursery.start_soon(log.run)
    assert await log.barrier() == 3
    database.seq = 9
    change(database, engine)
    for _ in range(2):
        begun_s = trio.current_time()
        with pytest.raises(BehindError, match=message):
            await log.barrier()
        assert trio.current_time() - begun_s < 1
    with pytest.raises(BehindError, match=message):
        await log.wait_beyond(99)
    assert log.report().is_left_behind


async def test_cancelled_barriers_leave_the_others_alone(
    autojump_clock: object, nursery: trio.Nursery, database: Database, log: Log
) -> None:
    nursery.start_soon(log.run)
    done = []

    async def ask() -> None:
        done.append(await log.barrier())

    async with trio.open_nursery() as askers:
        for number in range(20):
            if number % 2:
                askers.start_soon(ask)
            else:
                with trio.move_on_after(0.001):
                    await log.barrier()
    assert len(done) == 10


def _taken(ino: int, *, leads_on: bool = False) -> Effects:
    effects = Effects()
    effects.taken.append(TakenName(InodeNo(1), b"n", InodeNo(ino), leads_on))
    return effects


def test_an_inode_that_lost_a_name_is_known_by_the_change(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = NameChanges()
    lost = partial(changes.lost_a_name, InodeNo(5))
    assert not lost(0)
    changes.note(3, _taken(5))
    changes.note(4, _taken(6))
    assert lost(2)
    assert not lost(3)
    # A path below a directory that has moved leads elsewhere, whatever it led to.
    changes.note(8, _taken(7, leads_on=True))
    assert lost(7)
    assert not lost(8)
    # What was forgotten is taken for lost.
    monkeypatch.setattr("memfs.metadata.shared.log.TAKEN_COUNT_MAX", 2)
    changes.note(9, _taken(9))
    changes.note(10, _taken(10))
    assert not lost(8)
    assert changes.lost_a_name(InodeNo(99), 7)
