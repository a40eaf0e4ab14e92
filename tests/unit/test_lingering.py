"""Lingering: a mount ends once nobody has held it for some time, and not before."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.linux.held_file import HOLDERS_NAME, take_hold
from memfs_daemon.lingering import Lingering

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

LINGER_S = 60.0


class Kernel:
    """Unmounts, unless something is open."""

    def __init__(self) -> None:
        self.busy = False
        self.unmounted_s: float | None = None

    async def unmount(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.busy:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.unmounted_s = trio.current_time()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


async def test_it_ends_when_nobody_has_held_it_for_so_long(
    tmp_path: Path, kernel: Kernel, autojump_clock: MockClock
) -> None:
    began_s = trio.current_time()
    await Lingering(tmp_path, LINGER_S, kernel.unmount).run()
    assert kernel.unmounted_s is not None
    assert LINGER_S <= kernel.unmounted_s - began_s <= LINGER_S + 6


async def test_a_hold_keeps_it_and_its_end_begins_the_time_anew(
    tmp_path: Path, kernel: Kernel, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(Lingering(tmp_path, LINGER_S, kernel.unmount).run)
        assert (tmp_path / HOLDERS_NAME).stat().st_mode & 0o777 == 0o600
        await trio.sleep(LINGER_S - 10)
        holds = [take_hold(tmp_path / HOLDERS_NAME, 0) for _ in range(2)]
        await trio.sleep(10 * LINGER_S)
        os.close(holds[0])
        await trio.sleep(10 * LINGER_S)
        assert kernel.unmounted_s is None
        os.close(holds[1])
        free_s = trio.current_time()
    assert kernel.unmounted_s is not None
    assert LINGER_S <= kernel.unmounted_s - free_s <= LINGER_S + 12


async def test_what_is_in_use_stays_and_can_be_held(
    tmp_path: Path, kernel: Kernel, autojump_clock: MockClock
) -> None:
    kernel.busy = True
    async with trio.open_nursery() as nursery:
        await nursery.start(Lingering(tmp_path, LINGER_S, kernel.unmount).run)
        await trio.sleep(5 * LINGER_S)
        os.close(take_hold(tmp_path / HOLDERS_NAME, 0))
        kernel.busy = False
    assert kernel.unmounted_s is not None


async def test_who_would_hold_it_waits_while_it_is_unmounted(tmp_path: Path) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def unmount() -> None:
        begun.set()
        await go_on.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(Lingering(tmp_path, 0.01, unmount).run)
        await begun.wait()
        with pytest.raises(BlockingIOError):
            take_hold(tmp_path / HOLDERS_NAME, 0)
        go_on.set()
    os.close(take_hold(tmp_path / HOLDERS_NAME, 0))


async def test_a_link_is_not_followed(tmp_path: Path, kernel: Kernel) -> None:
    (tmp_path / HOLDERS_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        await Lingering(tmp_path, LINGER_S, kernel.unmount).run()
    assert not (tmp_path / "elsewhere").exists()
