"""Snapshots that rules make and remove, and that go where the disk is full."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.config import ColdConfig, SnapshotRule, SnapshotsConfig
from memfs.jobs.automatic_snapshots import (
    DEFAULT_RULES,
    LOOK_S,
    SETTINGS_OF_NEW_STATE,
    AutomaticSnapshots,
)
from memfs.jobs.snapshot_removal import SnapshotRemoval
from memfs.jobs.snapshots import SnapshotMethods
from memfs.metadata.sqlite.creation import NO_SETTINGS
from memfs.moves.keeping import keep_copy
from memfs.moves.open_files import OpenFiles
from memfs.policy.retention import AUTOMATIC_LABEL, BY_RULE
from memfs.types import ROOT_INODE
from tests.moving import SMALL_FRAMES, State, compressible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.config import Config

HOUR_S = 3600.0


class Site:
    """A state with automatic snapshots, whose time a test moves."""

    def __init__(
        self,
        path: Path,
        config: Config = SMALL_FRAMES,
        *,
        is_new: bool = True,
        clock: Callable[[], int] | None = None,
    ) -> None:
        settings = SETTINGS_OF_NEW_STATE if is_new else NO_SETTINGS
        self.state = State(path, config, first_settings=settings)
        self.now_ns = 0
        self.removal = SnapshotRemoval(self.state.engine)
        self.snapshots = SnapshotMethods(
            self.state.parts, self.removal, OpenFiles(self.state.parts), self.clock
        )
        self.automatic = AutomaticSnapshots(
            self.state.parts, self.snapshots, path, clock=clock or self.clock
        )

    def clock(self) -> int:
        return self.now_ns

    async def begin(self) -> None:
        root = await self.state.engine.get_inode(ROOT_INODE)
        # The last full hour.
        self.now_ns = root.btime_ns - root.btime_ns % int(HOUR_S * 1e9)

    async def names(self) -> list[str]:
        return [each.name for each in await self.state.engine.list_snapshots()]

    async def pass_hours(self, count: int, rules: tuple[SnapshotRule, ...] = DEFAULT_RULES) -> None:
        for _ in range(count):
            self.now_ns += int(HOUR_S * 1e9)
            await self.automatic.look(rules)


@pytest.fixture
def ruled(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "state")
    yield made
    assert made.state.engine.check() == []
    made.state.close()


async def test_one_an_hour_is_made_where_something_has_changed(ruled: Site) -> None:
    await ruled.begin()
    await ruled.pass_hours(3)
    assert await ruled.names() == []
    await ruled.state.create("a", b"a")
    await ruled.automatic.look(DEFAULT_RULES)
    assert await ruled.names() == []
    await ruled.pass_hours(3)
    [first] = await ruled.state.engine.list_snapshots()
    assert first.labels == ((AUTOMATIC_LABEL, BY_RULE),)
    assert first.name.startswith("auto-")
    await ruled.state.create("b", b"b")
    await ruled.pass_hours(2)
    assert len(await ruled.names()) == 2


async def test_rules_remove_their_own_and_no_other(
    ruled: Site, caplog: pytest.LogCaptureFixture
) -> None:
    await ruled.begin()
    caplog.set_level("INFO")
    rules = (SnapshotRule(HOUR_S, 3, keep_label=(("release", "v*"),)),)
    for number in range(8):
        await ruled.state.create(f"f{number}", b"x")
        if number == 2:
            await ruled.snapshots.create("by hand")
        if number == 3:
            labels = ((AUTOMATIC_LABEL, BY_RULE), ("release", "v1"))
            await ruled.snapshots.make("release", "", labels)
            until = ((AUTOMATIC_LABEL, BY_RULE),)
            await ruled.snapshots.make("until", "", until, ruled.now_ns + int(100 * HOUR_S * 1e9))
            await ruled.snapshots.make("before", "", ((AUTOMATIC_LABEL, "restore"),))
        await ruled.pass_hours(1, rules)
    names = await ruled.names()
    assert {"by hand", "release", "until", "before"} <= set(names)
    assert len([name for name in names if name.startswith("auto-")]) == 3
    assert caplog.text.count("no rule keeps it any longer") == 3
    await ruled.pass_hours(8 * 24, rules)
    assert "before" not in await ruled.names()


async def test_a_full_disk_drops_the_oldest_automatic_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(SMALL_FRAMES, cold=ColdConfig(size_bytes=1 << 20, frame_bytes=4096))
    site = Site(tmp_path / "state", config)
    caplog.set_level("INFO")
    await site.begin()
    ino = await site.state.create("file", os.urandom(300_000))
    for number in range(4):
        if number == 1:
            await site.snapshots.create("by hand")
        else:
            await site.snapshots.make(f"auto{number}", "", ((AUTOMATIC_LABEL, BY_RULE),))
        await keep_copy(site.state.parts, ino)
        await site.state.rewrite(ino, compressible(300_000, number))
    for _ in range(20):
        await site.automatic.look(())
        await site.removal.remove_all()
        while await site.state.garbage.collect(100):
            pass
    # All that are left would not free enough, but are a user's.
    assert (await site.names())[0] == "by hand"
    assert "auto0" not in await site.names()
    usage = await site.state.engine.usage()
    assert usage.raw_bytes <= (1 << 20) * config.cold.high_watermark
    assert "snapshot auto0 is dropped: the disk is beyond its high watermark" in caplog.text
    site.state.close()


@pytest.mark.parametrize(
    ("is_new", "rule", "made"),
    [
        (True, None, True),
        (False, None, False),
        (True, (), False),
        (False, (SnapshotRule(HOUR_S, 1),), True),
    ],
)
async def test_only_a_new_state_has_rules_by_itself(
    tmp_path: Path,
    is_new: bool,
    rule: tuple[SnapshotRule, ...] | None,
    made: bool,
) -> None:
    """And the loop makes one at the full hour."""
    config = replace(SMALL_FRAMES, snapshots=SnapshotsConfig(rule=rule))
    begun_s = trio.current_time()

    def clock() -> int:
        return begun_ns + int((trio.current_time() - begun_s) * 1e9)

    site = Site(tmp_path / "state", config, is_new=is_new, clock=clock)
    await site.begin()
    await site.state.create("a", b"a")
    begun_ns = site.now_ns + int(30 * 60 * 1e9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.automatic.run)
        await trio.testing.wait_all_tasks_blocked()
        assert await site.names() == []
        begun_ns += int(HOUR_S * 1e9)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.automatic.run)
        await trio.testing.wait_all_tasks_blocked()
        assert bool(await site.names()) == made
        nursery.cancel_scope.cancel()
    site.state.close()


async def test_the_loop_looks_at_the_full_hour(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    config = replace(SMALL_FRAMES, snapshots=SnapshotsConfig(rule=(SnapshotRule(HOUR_S, 5),)))
    site = Site(tmp_path / "state", config)
    await site.begin()
    begun_ns, begun_s = site.now_ns + int((HOUR_S - 5) * 1e9), trio.current_time()
    site.automatic._clock = lambda: begun_ns + int((trio.current_time() - begun_s) * 1e9)
    site.snapshots._clock = site.automatic._clock
    await site.state.create("a", b"a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.automatic.run)
        for hour in range(1, 4):
            await trio.testing.wait_all_tasks_blocked()
            assert len(await site.names()) == hour - 1
            mock_clock.jump(5)
            await trio.testing.wait_all_tasks_blocked()
            # The clock has microseconds.
            mock_clock.jump(0.01)
            await trio.testing.wait_all_tasks_blocked()
            assert len(await site.names()) == hour
            await site.state.create(f"f{hour}", b"a")
            for _ in range(int((HOUR_S - 5) / LOOK_S)):
                mock_clock.jump(LOOK_S)
                await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump((HOUR_S - 5) % LOOK_S)
        nursery.cancel_scope.cancel()
    site.state.close()
