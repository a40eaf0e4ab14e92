"""Giving way: what counts as programs' use of the disk, and what moves do about it."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from memfs.config import ColdConfig, PolicyConfig
from memfs.content.activity import Activity
from memfs.linux.disk_io import DiskIo, find_device, read_disk_io, read_own_io
from memfs.linux.priorities import low_priority
from memfs.linux.privileges import Capability, has_capability
from memfs.moves.throttle import BackgroundThrottle
from memfs.placement.usage import QUIET_LOOKS, ProgramWatch
from memfs.policy.foreign_io import ForeignIo, is_busy
from tests.moving import SMALL_FRAMES, State

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20

amounts = st.integers(min_value=0, max_value=1 << 40)


# --- what counts ---------------------------------------------------------------------------------
@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=30), st.randoms())
def test_own_io_is_never_taken_for_a_programs(
    steps: list[tuple[int, int]], rng: random.Random
) -> None:
    """However late the kernel writes out what memfs wrote."""
    foreign = ForeignIo()
    foreign.sample((0, 0), (0, 0), 1.0)
    read = written = flushed = 0
    for own_read, own_written in steps:
        read += own_read
        written += own_written
        flushed += rng.randint(0, written - flushed)
        assert foreign.sample((read, flushed), (read, written), 1.0) == (0.0, 0.0)


def test_reads_and_writes_of_programs_are_told() -> None:
    """Bytes a second, beside those of memfs."""
    foreign = ForeignIo()
    foreign.sample((100, 100), (0, 0), 1.0)
    rates = foreign.sample((100 + 6 * MIB, 100 + 9 * MIB), (4 * MIB, 1 * MIB), 2.0)
    assert rates == (1 * MIB, 4 * MIB)


def test_the_file_systems_own_writes_are_not_a_programs() -> None:
    """Journal and tables, which come with what memfs writes."""
    foreign = ForeignIo()
    foreign.sample((0, 0), (0, 0), 1.0)
    assert foreign.sample((0, 105 * MIB), (0, 100 * MIB), 1.0) == (0.0, 0.0)


def test_the_first_sample_after_a_pause_tells_nothing() -> None:
    """What happened while nobody looked is no rate."""
    foreign = ForeignIo()
    foreign.sample((0, 0), (0, 0), 1.0)
    foreign.forget()
    assert foreign.sample((100 * MIB, 0), (0, 0), 1.0) == (0.0, 0.0)


def test_a_disk_with_random_reads_is_busy() -> None:
    """A hundred accesses of 4 KiB a second keep a rotating disk fully busy."""
    assert is_busy(100 * 4096, 0.0)
    assert not is_busy(10 * 4096, 100_000.0)


# --- what the kernel tells -----------------------------------------------------------------------
def test_what_this_process_writes_is_its_own(tmp_path: Path) -> None:
    """It counts when it reaches the page cache; a file system in memory writes nothing."""
    before = read_own_io()
    with (tmp_path / "a").open("wb") as file:
        file.write(bytes(MIB))
        file.flush()
        on_disk = find_device(tmp_path) is not None
        assert read_own_io().written_bytes - before.written_bytes >= on_disk * MIB


def test_the_disk_of_a_directory_is_found(tmp_path: Path) -> None:
    """Where it has one; a disk that is not there has no numbers."""
    device = find_device(tmp_path)
    if device is not None:
        assert read_disk_io(device) is not None
    assert read_disk_io((4095, 1)) is None


def test_a_thread_gets_its_priority_back() -> None:
    """Threads are used again, for what programs wait for."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with low_priority():
        pass
    assert os.getpriority(os.PRIO_PROCESS, 0) == nice


# --- what moves do -------------------------------------------------------------------------------
async def test_one_demotion_at_a_time_while_giving_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """And all of them again as soon as programs are done."""
    throttle = BackgroundThrottle()
    throttle.decide(giving_way=True, urgent=False)
    at_work: list[int] = []
    most: list[int] = []

    async def demote(number: int) -> None:
        async with throttle.turn():
            at_work.append(number)
            most.append(len(at_work))
            await trio.sleep(1)
            at_work.remove(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(demote, number)
    assert max(most) == 1
    most.clear()
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(demote, number)
        await trio.sleep(0.5)
        throttle.decide(giving_way=False, urgent=False)
    assert max(most) == 3


@pytest.mark.parametrize(
    ("giving_way", "worked_s", "expected_s"), [(True, 0.01, 0.09), (True, 60, 5), (False, 1, 0)]
)
async def test_a_worker_rests_while_giving_way(
    giving_way: bool, worked_s: float, expected_s: float
) -> None:
    """A tenth of its speed, and no rest without end."""
    now_s, slept_s = 100.0, 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s, slept_s
        now_s += seconds
        slept_s += seconds

    def work() -> None:
        nonlocal now_s
        with throttle.stint() as rest:
            now_s += worked_s
            rest()

    throttle = BackgroundThrottle(clock=lambda: now_s, sleep=sleep)
    throttle.decide(giving_way=giving_way, urgent=False)
    await trio.to_thread.run_sync(work)
    assert slept_s == pytest.approx(expected_s)


class Disk:
    """What the kernel would tell of the disk, set by a test."""

    def __init__(self) -> None:
        self.io = DiskIo(0, 0)

    def read(self, size: int) -> None:
        self.io = DiskIo(self.io.read_bytes + size, self.io.written_bytes)

    def watch(self, state: State, activity: Activity) -> ProgramWatch:
        """Return what watches it for the moves of a state directory."""
        return ProgramWatch(state.placement(activity), lambda: (self.io, DiskIo(0, 0)))


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def open_state(tmp_path: Path) -> Iterator[Callable[..., State]]:
    states: list[State] = []

    def open_one(**sections: object) -> State:
        states.append(State(tmp_path / "state", replace(SMALL_FRAMES, **sections)))  # type: ignore[arg-type]
        return states[-1]

    yield open_one
    for state in states:
        state.close()


async def look(watch: ProgramWatch, count: int = 1, moving: bool = True) -> None:
    for _ in range(count):
        await trio.sleep(1)
        await watch.look(moving=moving)


async def test_moves_give_way_while_programs_read_and_for_a_moment_after(
    autojump_clock: trio.testing.MockClock, disk: Disk, open_state: Callable[..., State]
) -> None:
    state = open_state()
    watch, throttle = disk.watch(state, Activity()), state.parts.throttle
    await look(watch, 2)
    assert not throttle.giving_way
    disk.read(10 * MIB)
    await look(watch)
    assert throttle.giving_way
    await look(watch, QUIET_LOOKS - 1)
    assert throttle.giving_way
    await look(watch)
    assert not throttle.giving_way


async def test_what_the_daemon_serves_counts_as_programs_use(
    autojump_clock: trio.testing.MockClock, disk: Disk, open_state: Callable[..., State]
) -> None:
    """Without passthrough its own I/O is theirs."""
    state, activity = open_state(), Activity()
    watch = disk.watch(state, activity)
    await look(watch)
    activity.served_bytes = 10 * MIB
    await look(watch)
    assert state.parts.throttle.giving_way


@pytest.mark.parametrize("give_way", [False, True])
async def test_the_priority_of_moves_is_as_configured(
    autojump_clock: trio.testing.MockClock,
    disk: Disk,
    open_state: Callable[..., State],
    give_way: bool,
) -> None:
    """A machine that is loaded for good gives the last place no turn at all."""
    state = open_state(policy=PolicyConfig(give_way=give_way))
    watch, throttle = disk.watch(state, Activity()), state.parts.throttle
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    expected = 19 if give_way and has_capability(Capability.SYS_NICE) else nice
    for _ in range(2):
        found = await trio.to_thread.run_sync(nice_of_stint, throttle)
        assert found == expected
        await look(watch)


def nice_of_stint(throttle: BackgroundThrottle) -> int:
    with throttle.stint():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_a_full_disk_does_not_wait_for_programs(
    autojump_clock: trio.testing.MockClock, disk: Disk, open_state: Callable[..., State]
) -> None:
    """ENOSPC is worse than a slow read."""
    state = open_state(cold=ColdConfig(size_bytes=10_000))
    await state.create("a", bytes(20_000))
    watch = disk.watch(state, Activity())
    await look(watch)
    disk.read(10 * MIB)
    await look(watch)
    assert not state.parts.throttle.giving_way
    assert state.parts.throttle.urgent


@pytest.mark.parametrize(("give_way", "moving"), [(False, True), (True, False)])
async def test_nothing_gives_way_without_reason(
    autojump_clock: trio.testing.MockClock,
    disk: Disk,
    open_state: Callable[..., State],
    give_way: bool,
    moving: bool,
) -> None:
    """`policy.give_way` is off, or nothing moves: then nobody even looks."""
    state = open_state(policy=PolicyConfig(give_way=give_way))
    watch = disk.watch(state, Activity())
    await look(watch, moving=moving)
    disk.read(10 * MIB)
    await look(watch, moving=moving)
    assert not state.parts.throttle.giving_way
