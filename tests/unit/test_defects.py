"""A defect in the handling of one file: it is told and waits; all others, and the daemon, go on."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.metadata.records import InodeFlags
from memfs.stores.raw import RawStore
from memfs.types import ROOT_INODE, Tier
from memfs_daemon.lifecycle import keep_running

if TYPE_CHECKING:
    from memfs.types import InodeNo, RawId
    from tests.property.world import World


def write(world: World, name: bytes) -> InodeNo:
    file = world.create(ROOT_INODE, name, 0o644, os.O_RDWR)
    world.write(file, 0, name)
    world.release(file)
    return file.ino


def raw_of(world: World, ino: InodeNo) -> RawId:
    return world.run(world.engine.get_inode(ino)).raw


def is_sealed(world: World, ino: InodeNo) -> bool:
    return not world.run(world.engine.get_inode(ino)).flags & InodeFlags.UNSEALED


def break_raw_file(monkeypatch: pytest.MonkeyPatch, broken: RawId) -> None:
    """Let all who look at one raw file meet a defect."""
    opened, looked_at = RawStore.open, RawStore.stat

    def open_raw(self: RawStore, raw: RawId, flags: int = os.O_RDWR) -> int:
        if raw == broken:
            raise ValueError("defect")
        return opened(self, raw, flags)

    def stat_raw(self: RawStore, raw: RawId) -> os.stat_result:
        if raw == broken:
            raise ValueError("defect")
        return looked_at(self, raw)

    monkeypatch.setattr(RawStore, "open", open_raw)
    monkeypatch.setattr(RawStore, "stat", stat_raw)


def test_a_file_that_cannot_be_sealed_keeps_no_other_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, bad, last = (write(world, name) for name in (b"first", b"bad", b"last"))
    with monkeypatch.context() as patch:
        break_raw_file(patch, raw_of(world, bad))
        world.run(world.filesystem.finish_requests())
        assert is_sealed(world, first)
        assert is_sealed(world, last)
        assert not is_sealed(world, bad)
        pending = world.run(world.engine.get_pending(bad))
        assert pending is not None
        assert "is a defect of memfs" in pending.reason
        assert any(record.exc_info for record in caplog.records)
        caplog.clear()
        world.run(world.filesystem.finish_requests())
        assert not caplog.records, "it is not tried again at once"
    world.sealer._put_off[bad] = 0.0
    world.run(world.filesystem.finish_requests())
    assert is_sealed(world, bad)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_file_that_cannot_be_recovered_keeps_no_state_from_being_mounted(
    world: World, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    bad, good = write(world, b"bad"), write(world, b"good")
    if sealed:
        world.run(world.filesystem.finish_requests())
    with monkeypatch.context() as patch:
        break_raw_file(patch, raw_of(world, bad))
        world.crash(checked=False)
        world.run(world.filesystem.finish_requests())
        assert is_sealed(world, good)
        assert world.run(world.read_all(good)) == b"good"
    world.remount()
    world.run(world.filesystem.finish_requests())
    assert world.run(world.read_all(bad)) == b"bad"


def test_an_orphan_that_cannot_be_deleted_keeps_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inos = [write(world, name) for name in (b"a", b"bad", b"c")]
    world.run(world.filesystem.finish_requests())
    for name in (b"a", b"bad", b"c"):
        world.request(world.filesystem.unlink(ROOT_INODE, name))
    vanish = world.filesystem._vanish

    async def vanish_unless_bad(ino: InodeNo) -> None:
        if ino == inos[1]:
            raise ValueError("defect")
        await vanish(ino)

    with monkeypatch.context() as patch:
        patch.setattr(world.filesystem, "_vanish", vanish_unless_bad)
        world.run(world.filesystem.reap_left_over())
        assert world.run(world.engine.list_orphans(9)) == [inos[1]]
    world.run(world.filesystem.reap_left_over())
    assert world.run(world.engine.list_orphans(9)) == []


async def test_a_part_of_the_background_begins_anew_after_a_defect(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    begun_s: list[float] = []

    async def fail_in_a_task() -> None:
        begun_s.append(trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ZeroDivisionError("defect")

    with trio.move_on_after(10.0):
        await keep_running(fail_in_a_task)
    assert begun_s == [0.0, 1.0, 3.0, 7.0]
    assert any(record.exc_info for record in caplog.records)

    async def end() -> None:
        await trio.lowlevel.checkpoint()

    await keep_running(end)


@pytest.mark.parametrize("batched", [False, True])
def test_a_file_that_cannot_be_moved_waits_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    bad = write(world, b"bad" * 50)
    world.run(world.filesystem.finish_requests())

    async def fail(*_arguments: object) -> None:
        raise KeyError("defect")

    if batched:
        # What is wrong with a file of a batch is found where it is uploaded alone.
        monkeypatch.setattr("memfs.placement.batcher.upload_batch", fail)
    else:
        monkeypatch.setattr(world.mover._placer.batchers[""], "takes", lambda *_: False)
    monkeypatch.setattr("memfs.placement.execute.upload", fail)
    world.run(world.engine.set_pin(bad, Tier.GLACIER))
    world.run(world.engine.commit())
    world.activity.note_pin(bad)
    world.step()
    pending = world.run(world.engine.get_pending(bad))
    assert pending is not None
    assert "is a defect of memfs" in pending.reason


def test_the_rounds_and_the_upkeep_of_the_mover_go_on_after_a_defect(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    mover = world.mover
    rounds = 0

    async def run() -> None:
        again = trio.Event()

        async def fail_twice() -> bool:
            nonlocal rounds
            rounds += 1
            if rounds == 3:
                again.set()
            if rounds < 3:
                raise IndexError("defect")
            return False

        async def fail_always() -> int:
            raise IndexError("defect")

        monkeypatch.setattr(mover, "_round", fail_twice)
        monkeypatch.setattr(mover._upkeep, "tidy", fail_always)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mover.run)
            with trio.fail_after(60):
                await again.wait()
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert any(record.exc_info for record in caplog.records)
