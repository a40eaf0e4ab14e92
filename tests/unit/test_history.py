"""What a mount keeps of itself: the loop that measures, on a clock that jumps."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import InvalidValueError
from memfs.metrics.events import KIND_COUNT_MAX, EventLog
from memfs.metrics.latency import Latencies
from memfs.metrics.numbers import PLACES, combine, decode, encode
from memfs.metrics.rings import RINGS
from memfs.metrics.rolling import Period, fill, roll_up
from memfs.stores.counts import StoreCounts
from memfs.stores.health import StoreHealth
from memfs.types import InodeNo
from memfs_daemon.history import STEP_S, History
from memfs_daemon.readings import Readings
from memfs_daemon.stalls import Stalls
from memfs_daemon.status import Status
from tests.moving import State
from tests.unit.test_status import status_parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from memfs.metadata.records import MetricRow

EPOCH_S = 20_833 * 86_400
"""When a day begins."""
ALL = 1 << 30


class Observed:
    """A mount of which only the numbers are there; they are what a test sets."""

    def __init__(self, path: Path) -> None:
        self.state = State(path)
        self.numbers: dict[str, int] = {"inodes": 1}
        self.offset_s = EPOCH_S
        self.events = EventLog(self.clock)
        self.health = StoreHealth()
        self.history = self.again()

    def again(self) -> History:
        """Return one that has seen nothing yet, as after a start."""
        healths, state = {"": self.health}, self.state
        return History(state.engine, self.take, state.activity, self.events, healths, self.clock)

    def clock(self) -> int:
        return int((trio.current_time() + self.offset_s) * 1e9)

    async def take(self) -> dict[str, int]:
        return dict(self.numbers)

    async def rows(self, resolution_s: int = STEP_S) -> list[MetricRow]:
        return await self.state.engine.list_metrics(resolution_s, -1, ALL)

    async def numbers_of(self, resolution_s: int = STEP_S) -> list[dict[str, int]]:
        return [decode(row.numbers) for row in await self.rows(resolution_s)]


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    made = Observed(tmp_path / "state")
    yield made
    assert made.state.engine.check() == []
    made.state.close()


async def test_each_row_tells_what_happened_in_its_ten_seconds(
    observed: Observed, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observed.history.run)
        await trio.sleep(3)
        observed.numbers |= {"requests": 5, "inodes": 2}
        await trio.sleep(10)
        observed.numbers |= {"requests": 12}
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [row.at_s - EPOCH_S for row in await observed.rows()] == [0, 10]
    assert await observed.numbers_of() == [
        {"starts": 1, "requests": 5, "inodes": 2},
        {"requests": 7, "inodes": 2},
    ]


async def test_what_happened_before_the_end_is_kept(
    observed: Observed, autojump_clock: MockClock
) -> None:
    """The daemon is stopped amid a period, and the next one goes on with its row."""
    for _ in range(2):
        observed.history = observed.again()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(observed.history.run)
            await trio.sleep(2)
            observed.numbers["requests"] = observed.numbers.get("requests", 0) + 4
            nursery.cancel_scope.cancel()
    assert await observed.numbers_of() == [{"starts": 2, "requests": 8, "inodes": 1}]


async def test_the_finest_rows_tell_what_happened_until_they_are_asked_for(
    observed: Observed, autojump_clock: MockClock
) -> None:
    """Each number is counted once, also if several ask at the same time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observed.history.run)
        for turn in range(1, 26):
            await trio.sleep(3)
            observed.numbers["requests"] = turn
            async with trio.open_nursery() as askers:
                for _ in range(3):
                    askers.start_soon(observed.history.history, STEP_S)
            told = await observed.numbers_of()
            assert sum(row.get("requests", 0) for row in told) == turn
        nursery.cancel_scope.cancel()
    assert [row.at_s - EPOCH_S for row in await observed.rows()] == list(range(-10, 70, 10))
    minutes = [row["requests"] for row in await observed.numbers_of(60)]
    rows = [row["requests"] for row in await observed.numbers_of()]
    assert minutes == [rows[0], sum(rows[1:7])]


async def test_an_idle_mount_writes_nothing(observed: Observed, autojump_clock: MockClock) -> None:
    """A disk that sleeps is not woken, although memory and free space of the machine change."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observed.history.run)
        await trio.sleep(11)
        observed.numbers["requests"] = 1
        await trio.sleep(10)
        observed.state.engine.sync()
        for turn in range(500):
            observed.numbers |= {"memory_bytes": turn, "capacity.cold": turn}
            await trio.sleep(10)
        assert observed.state.engine.synced
        assert len(await observed.rows()) == 2
        nursery.cancel_scope.cancel()
    assert observed.state.engine.synced


async def test_coarser_rows_are_the_sums_of_the_finer_ones(
    observed: Observed, autojump_clock: MockClock
) -> None:
    """Through a day and the next, with pauses; the rings stay within their bounds."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observed.history.run)
        for turn in range(2500):
            await trio.sleep(10 if turn % 400 else 16_000)
            observed.numbers |= {"requests": 3 * turn, "inodes": 1 + turn % 7}
        nursery.cancel_scope.cancel()
    for ring in RINGS:
        rows = await observed.rows(ring.resolution_s)
        assert 0 < len(rows) <= ring.row_count
        assert {row.at_s % ring.resolution_s for row in rows} == {0}
    days = await observed.numbers_of(86_400)
    assert len(days) == 1
    minutes = [Period(row.at_s, decode(row.numbers)) for row in await observed.rows(60)]
    # Those from before a pause stay until their slot is used.
    minutes = [each for each in minutes if each.at_s > observed.clock() / 1e9 - 86_400]
    quarters = await observed.rows(900)
    for period in roll_up(minutes, 900, after_s=minutes[0].at_s, before_s=quarters[-1].at_s + 1):
        [stored] = [decode(row.numbers) for row in quarters if row.at_s == period.at_s]
        assert stored == period.numbers
    first_day = [decode(row.numbers) for row in quarters if row.at_s < EPOCH_S + 86_400]
    assert days == [combine(first_day)]


async def test_a_pause_does_not_lose_the_periods_before_it(
    observed: Observed, autojump_clock: MockClock
) -> None:
    """The coarser rows are made with the next row that is written, days later."""
    await trio.sleep(11)
    await observed.history.step()
    observed.numbers["requests"] = 7
    await trio.sleep(15)
    await observed.history.step()
    await trio.sleep(3 * 86_400)
    assert await observed.rows(60) == []
    observed.numbers["requests"] = 8
    await observed.history.step()
    assert [row.at_s - EPOCH_S for row in await observed.rows(86_400)] == [0]
    assert await observed.numbers_of(86_400) == [{"starts": 1, "requests": 7, "inodes": 1}]


async def test_a_clock_that_was_wrong_for_a_while_stops_nothing(
    observed: Observed, autojump_clock: MockClock
) -> None:
    async def act(count: int) -> None:
        for _ in range(count):
            observed.numbers["requests"] = observed.numbers.get("requests", 0) + 1
            await trio.sleep(10)
            await observed.history.step()

    await act(10)
    observed.offset_s += 10**8
    await act(30)
    observed.offset_s -= 10**8
    await act(300)
    now_s = observed.clock() // 10**9
    minutes = [row for row in await observed.rows(60) if row.at_s < now_s]
    assert now_s - minutes[-1].at_s < 180
    answer = await observed.history.history(60)
    assert all(at_s <= now_s for at_s, _ in answer["rows"])
    total = sum(decode(b64decode(row)).get("requests", 0) for _, row in answer["rows"])
    assert total >= 290


async def test_a_full_disk_costs_no_number(
    observed: Observed, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be kept is in the next row."""

    async def fail(_rows: object) -> None:
        raise InvalidValueError("the disk is full")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(observed.history.run)
        await trio.sleep(1)
        with monkeypatch.context() as broken:
            broken.setattr(observed.state.engine, "put_metrics", fail)
            observed.numbers["requests"] = 5
            await trio.sleep(20)
            assert await observed.rows() == []
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert await observed.numbers_of() == [{"starts": 1, "requests": 5, "inodes": 1}]


async def test_files_and_directories_that_are_opened_most_come_first(
    observed: Observed, autojump_clock: MockClock
) -> None:
    inos = [await observed.state.create(f"f{number}", b"x" * number) for number in range(5)]
    for number, ino in enumerate(inos):
        for _ in range(number):
            observed.state.activity.note_open(ino, 0, 0, 0)
    await observed.history.step()
    heat = await observed.history.heat(2)
    assert [(each["path"], each["uses"], each["size"]) for each in heat["files"]] == [
        ("/f4", 4.0, 4),
        ("/f3", 3.0, 3),
    ]
    assert [(each["path"], each["uses"]) for each in heat["directories"]] == [("/", 10.0)]
    assert len(heat["coldest"]) == 2
    await observed.state.unlink("f4")
    await observed.state.engine.reap([inos[4]])
    assert (await observed.history.heat(9))["files"][0]["path"] == "/f3"


async def test_a_file_that_was_opened_and_removed_costs_nothing_else_that_was_measured(
    observed: Observed, autojump_clock: MockClock
) -> None:
    stays, goes = [await observed.state.create(name, b"x") for name in ("stays", "goes")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observed.history.run)
        await trio.sleep(1)
        for ino in (goes, stays):
            observed.state.activity.note_open(ino, 0, 0, 0)
        observed.events.note("pin", "/stays", "pinned to warm")
        await observed.state.unlink("goes")
        await observed.state.engine.reap([goes])
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [each["subject"] for each in await observed.history.events()] == ["/stays"]
    directories = (await observed.history.heat())["directories"]
    assert [(each["path"], round(each["uses"])) for each in directories] == [("/", 1)]


async def test_heat_outlives_the_daemon(observed: Observed, autojump_clock: MockClock) -> None:
    ino = await observed.state.create("file", b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observed.history.run)
        await trio.sleep(1)
        observed.state.activity.note_open(InodeNo(ino), 0, 0, 0)
        nursery.cancel_scope.cancel()
    again = observed.again()
    await again.begin()
    assert [each["path"] for each in (await again.heat())["files"]] == ["/file"]


async def test_events_are_kept_and_the_store_tells_of_itself(
    observed: Observed, autojump_clock: MockClock
) -> None:
    observed.events.note("pin", "/a", "pinned to warm")
    await observed.history.step()
    observed.health.condemn("403")
    await observed.history.step()
    listed = await observed.history.events()
    assert [(each["kind"], each["subject"], each["detail"]) for each in listed] == [
        ("store", "", "fails: 403"),
        ("pin", "/a", "pinned to warm"),
    ]
    assert [each["number"] for each in await observed.history.events(before=2)] == [1]


def test_events_of_a_kind_are_bounded_and_others_are_not_crowded_out() -> None:
    log = EventLog(lambda: 1)
    for number in range(KIND_COUNT_MAX + 7):
        log.note("move", f"/{number}", "the store is down")
    log.note("pin", "/a", "unpinned")
    told = log.take()
    assert len(told) == KIND_COUNT_MAX + 2
    assert told[-1].detail == "and 7 more like these"
    assert log.take() == []


async def test_a_ring_that_is_not_there_is_refused(
    observed: Observed, autojump_clock: MockClock
) -> None:
    with pytest.raises(InvalidValueError, match="10, 60, 900, 86400"):
        await observed.history.history(30)


def test_gaps_are_filled_with_what_lasts() -> None:
    periods = [Period(0, {"inodes": 5, "requests": 2}), Period(30, {"inodes": 6})]
    assert fill(periods, resolution_s=10, until_s=60) == [
        periods[0],
        Period(10, {"inodes": 5}),
        Period(20, {"inodes": 5}),
        periods[1],
        Period(40, {"inodes": 6}),
        Period(50, {"inodes": 6}),
    ]
    assert fill([], resolution_s=10, until_s=60) == []


async def test_readings_have_all_that_a_row_has(tmp_path: Path) -> None:
    """Every name is known, and a file that is written shows."""
    state = State(tmp_path / "state")
    parts = status_parts(state)
    latencies = Latencies()
    latencies.note("open", 5000)
    latencies.note("release", 5000)
    readings = Readings(
        parts,
        Status(parts),
        state.activity,
        state.parts.traffic,
        StoreCounts(),
        latencies,
        Stalls(),
    )
    before = await readings.take()
    await state.create("file", b"x" * 5000)
    after = await readings.take()
    state.close()
    assert after.keys() <= PLACES.keys()
    assert decode(encode(after)) == {name: value for name, value in after.items() if value}
    assert after["inodes"] == before["inodes"] + 1
    assert after["used.cold"] > before["used.cold"]
    assert sum(value for name, value in after.items() if name.startswith("took.")) == 1
