"""Writers and a disk that is nearly full: who is held back, for how long, and who never is."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from memfs.content.room import FULL_BYTES, HELD_S_MAX, STALL_S, Room
from memfs.types import InodeNo

MIB = 1 << 20
FLOOR = 100 * MIB
INO = InodeNo(7)


class Disk:
    """Free space that the test sets, and a mover that is told."""

    def __init__(self) -> None:
        self.free_bytes = 0
        self.wakes = 0

    def look(self) -> int:
        return self.free_bytes

    def wake(self) -> None:
        self.wakes += 1

    def room(self, wait_for_room_s: float = 0.0, *, relief: bool = True) -> Room:
        room = Room(Path("/"), wait_for_room_s, self.wake, self.look)
        room.floor_bytes, room.relief = FLOOR, relief
        return room


@pytest.fixture
def disk() -> Disk:
    return Disk()


async def held_s(room: Room, disk: Disk) -> float:
    began_s = trio.current_time()
    await room.wait(INO)
    return trio.current_time() - began_s


async def test_nobody_waits_where_there_is_room(
    autojump_clock: trio.testing.MockClock, disk: Disk
) -> None:
    disk.free_bytes = FLOOR
    assert await held_s(disk.room(), disk) == 0
    assert disk.wakes == 0


async def test_nobody_waits_where_nothing_makes_room(
    autojump_clock: trio.testing.MockClock, disk: Disk
) -> None:
    """ENOSPC at once is better than late."""
    assert await held_s(disk.room(relief=False), disk) == 0


async def test_a_writer_goes_on_when_there_is_room_again(
    autojump_clock: trio.testing.MockClock, disk: Disk
) -> None:
    """Meanwhile the mover is told, and others see that it waits."""
    room = disk.room()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.wait, INO)
        await trio.sleep(1)
        assert (room.held_back_count, room.is_held_back(INO), disk.wakes) == (1, True, 1)
        disk.free_bytes = FLOOR
        await trio.sleep(0.1)
        assert room.held_back_count == 0
    assert not room.is_held_back(INO)


async def test_a_wait_ends_when_no_room_is_made(
    autojump_clock: trio.testing.MockClock, disk: Disk
) -> None:
    """Files that cannot leave are waited for no longer than that."""
    assert await held_s(disk.room(), disk) == pytest.approx(STALL_S, abs=0.2)


async def test_a_wait_ends_however_much_is_made(
    autojump_clock: trio.testing.MockClock, disk: Disk
) -> None:
    """Others may take what is freed."""

    async def trickle() -> None:
        while True:
            await trio.sleep(1)
            disk.free_bytes += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert await held_s(disk.room(), disk) == pytest.approx(HELD_S_MAX, abs=0.2)
        nursery.cancel_scope.cancel()


async def test_a_wait_can_be_ended_by_killing_the_program(
    autojump_clock: trio.testing.MockClock, disk: Disk
) -> None:
    room = disk.room()
    with trio.move_on_after(1):
        await room.wait(INO)
    assert room.held_back_count == 0


@pytest.mark.parametrize("relief", [False, True])
async def test_a_configured_wait_is_kept_on_a_full_disk(
    autojump_clock: trio.testing.MockClock, disk: Disk, relief: bool
) -> None:
    """`cold.wait_for_room`; a nearly full disk that nothing relieves is written to at once."""
    room = disk.room(60.0, relief=relief)
    assert await held_s(room, disk) == pytest.approx(60.0, abs=0.2)
    disk.free_bytes = FULL_BYTES
    await trio.sleep(1)
    assert (await held_s(room, disk) > 0) == relief
