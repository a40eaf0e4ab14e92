"""The mover inside its quotas: what waits, for what, until when, and that it goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import ColdConfig, GlacierConfig, PolicyConfig, QuotasConfig
from memfs.content.activity import Activity
from memfs.jobs.scrubber import Scrubber
from memfs.placement.mover import Mover
from memfs.placement.prefetch.prefetcher import Prefetcher
from memfs.placement.quotas import SETTING, Quotas
from memfs.policy.quotas import Spent
from memfs.prediction.predictor import Predictor
from memfs.stores.metered import MeteredStore
from memfs.types import FormKind, Tier
from tests.moving import SMALL_FRAMES, State, compressible, incompressible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.config import Config
    from memfs.placement.context import Context
    from memfs.types import InodeNo

HOUR_S = 3600.0
RETRY_AT_ONCE = PolicyConfig(retry_s_min=0.0, retry_s_max=0.0)
ALONE = GlacierConfig(batch_file_bytes_max=0)
CONTENT = incompressible(100_000)


class HandClock:
    """Clocks that a test moves."""

    def __init__(self) -> None:
        self.wall, self.boot, self.machine = 1.7e9, 5000.0, "first"

    def wall_s(self) -> float:
        return self.wall

    def boot_s(self) -> float:
        return self.boot

    def boot_id(self) -> str:
        return self.machine

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


class Depot:
    """A state directory with a mover that has quotas."""

    def __init__(self, state_dir: Path, config: Config, clock: HandClock) -> None:
        self.state = State(state_dir, config)
        self.activity = Activity()
        self.quotas = Quotas(config.quotas, self.state.engine, clock)
        self.state.parts.remote = MeteredStore(self.state.remote, self.quotas)
        self.mover = self.again()
        self.prefetcher = Prefetcher(self._placement(), Predictor())

    def again(self) -> Mover:
        """Return a mover that has seen nothing yet, as after a start."""
        return Mover(self._placement(), self._settle)

    def _placement(self) -> Context:
        return self.state.placement(self.activity, quotas=self.quotas)

    async def pinned(self, name: str, tier: Tier, content: bytes = CONTENT) -> InodeNo:
        ino = await self.state.create(name, content)
        await self.pin(ino, tier)
        return ino

    async def pin(self, ino: InodeNo, tier: Tier | None) -> None:
        await self.state.engine.set_pin(ino, tier)
        self.state.engine.commit_nowait()
        self.activity.note_pin(ino)

    async def reason(self, ino: InodeNo) -> str:
        pending = await self.state.engine.get_pending(ino)
        return pending.reason if pending is not None else ""

    async def steps(self, count: int) -> None:
        for _ in range(count):
            await self.mover.run_round()

    async def remote_count(self, inos: list[InodeNo]) -> int:
        return sum([FormKind.REMOTE in await self.state.forms(ino) for ino in inos])

    def used(self, spent: Spent) -> int:
        return next(use.used for use in self.quotas.uses() if use.spent == spent)

    async def _settle(self) -> bool:
        return False


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def open_depot(tmp_path: Path, clock: HandClock) -> Iterator[Callable[..., Depot]]:
    depots: list[Depot] = []

    def open_one(
        glacier: GlacierConfig = ALONE, cold: ColdConfig = SMALL_FRAMES.cold, **quotas: int
    ) -> Depot:
        config = replace(
            SMALL_FRAMES,
            policy=RETRY_AT_ONCE,
            glacier=glacier,
            cold=cold,
            quotas=QuotasConfig(**quotas),
        )
        depots.append(Depot(tmp_path / "state", config, clock))
        return depots[-1]

    yield open_one
    for depot in depots:
        depot.state.close()


@pytest.mark.parametrize(
    "quota",
    [
        "upload_bytes_per_day",
        "egress_bytes_per_day",
        "disk_writes_bytes_per_day",
    ],
)
@pytest.mark.parametrize("glacier", [ALONE, GlacierConfig()])
async def test_uploads_stay_inside_a_quota_and_go_on_when_it_frees(
    open_depot: Callable[..., Depot], clock: HandClock, quota: str, glacier: GlacierConfig
) -> None:
    """One object for each file, and many files in one object."""
    limit = 550_000
    depot = open_depot(glacier, **{quota: limit})
    inos = [await depot.pinned(f"file {number}", Tier.GLACIER) for number in range(8)]
    await depot.steps(3)
    [use] = depot.quotas.uses()
    moved_count = await depot.remote_count(inos)
    assert 2 <= moved_count <= 5
    assert 0 < use.used <= limit
    assert use.reserved == 0
    waiting = [await depot.reason(ino) for ino in inos]
    key = {"disk_writes_bytes_per_day": "disk_writes_per_day"}.get(
        quota, quota.replace("_bytes", "")
    )
    again = datetime.fromtimestamp(clock.wall + use.frees_s)
    expected = f"quotas.{key}:"
    assert sum(expected in reason for reason in waiting) == 8 - moved_count
    assert any(f"more at {again:%Y-%m-%d %H:%M}" in reason for reason in waiting)
    for _ in range(4):
        clock.wait(25 * HOUR_S)
        await depot.steps(3)
        assert depot.used(Spent(key)) <= limit
    assert await depot.remote_count(inos) == 8
    assert [await depot.reason(ino) for ino in inos] == [""] * 8


async def test_requests_are_bounded_and_deletions_wait_for_them(
    open_depot: Callable[..., Depot], clock: HandClock
) -> None:
    """Garbage in the store waits like everything else; nothing is lost of the list."""
    depot = open_depot(requests_per_day=20)
    inos = [await depot.pinned(f"file {number}", Tier.GLACIER) for number in range(4)]
    await depot.steps(2)
    moved_count = await depot.remote_count(inos)
    assert 0 < moved_count < 4
    depot.quotas.spend(Spent.REQUESTS, 20 - depot.used(Spent.REQUESTS))
    await depot.state.unlink("file 0")
    await depot.steps(3)
    assert depot.used(Spent.REQUESTS) == 20
    assert (await depot.state.engine.usage()).garbage_count == 1
    clock.wait(25 * HOUR_S)
    await depot.steps(6)
    assert (await depot.state.engine.usage()).garbage_count == 0


async def test_what_a_day_does_not_allow_says_so(open_depot: Callable[..., Depot]) -> None:
    """No waiting helps, and no promise is made."""
    depot = open_depot(upload_bytes_per_day=1000)
    ino = await depot.pinned("a", Tier.GLACIER)
    await depot.steps(2)
    assert "quotas.upload_per_day allows 1000 B in a day; raise it" in await depot.reason(ino)


async def test_packing_counts_what_it_writes(open_depot: Callable[..., Depot]) -> None:
    """And not what it might have written."""
    depot = open_depot(disk_writes_bytes_per_day=1 << 20)
    ino = await depot.pinned("a", Tier.COLD, bytes(80_000) + incompressible(20_000))
    await depot.steps(2)
    form = await depot.state.form(ino, FormKind.PACKED)
    assert depot.used(Spent.DISK_WRITES) == form.stored_bytes


async def test_packing_waits_for_disk_writes(open_depot: Callable[..., Depot]) -> None:
    """What wears the disk out is bounded, whatever the pins say."""
    depot = open_depot(disk_writes_bytes_per_day=50_000)
    ino = await depot.pinned("a", Tier.COLD, bytes(80_000) + incompressible(20_000))
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.RAW}
    assert "quotas.disk_writes_per_day" in await depot.reason(ino)


async def test_programs_are_counted_and_never_refused(
    open_depot: Callable[..., Depot],
) -> None:
    """A quota of the mover must not make a read fail."""
    depot = open_depot(upload_bytes_per_day=1 << 30, egress_bytes_per_day=210_000)
    ino = await depot.pinned("a", Tier.GLACIER)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}
    depot.quotas.spend(Spent.EGRESS, 210_000 - depot.used(Spent.EGRESS))
    assert await depot.state.content(ino) == CONTENT
    assert depot.used(Spent.EGRESS) > 300_000


async def test_fetching_ahead_waits_for_egress(
    open_depot: Callable[..., Depot], clock: HandClock
) -> None:
    """A list of files stalls with the reason, and goes on."""
    depot = open_depot(egress_bytes_per_day=210_000)
    ino = await depot.pinned("a", Tier.GLACIER)
    await depot.steps(2)
    depot.quotas.spend(Spent.EGRESS, 100_000)
    await depot.pin(ino, None)
    job, _ = depot.prefetcher.hint([ino], warm=False, job=None, replace=False)
    await depot.prefetcher.fetch_all()
    assert "quotas.egress_per_day" in str(depot.prefetcher.status()["stalled"])
    assert depot.prefetcher.progress(job).failed_count == 0
    clock.wait(25 * HOUR_S)
    await depot.prefetcher.fetch_all()
    assert FormKind.RAW in await depot.state.forms(ino)


async def test_what_was_spent_survives_a_restart(
    open_depot: Callable[..., Depot], clock: HandClock
) -> None:
    """Restarting the daemon, or the machine with a clock that is wrong, makes no room."""
    depot = open_depot(upload_bytes_per_day=1000)
    await depot.quotas.load()
    depot.quotas.spend(Spent.UPLOAD, 700)
    await depot.quotas.save()
    depot.state.close()
    clock.wait(HOUR_S)
    again = open_depot(upload_bytes_per_day=1000)
    await again.quotas.load()
    assert again.used(Spent.UPLOAD) == 700
    again.quotas.spend(Spent.UPLOAD, 100)
    await again.quotas.save()
    again.state.close()
    clock.machine, clock.wall, clock.boot = "second", 0.0, 1.0
    third = open_depot(upload_bytes_per_day=1000)
    await third.quotas.load()
    assert third.used(Spent.UPLOAD) == 800
    clock.wait(26 * HOUR_S)
    assert third.used(Spent.UPLOAD) == 0


async def test_a_running_mover_saves_what_was_spent(
    open_depot: Callable[..., Depot], clock: HandClock
) -> None:
    """A daemon that is killed forgets the last seconds at most."""
    depot = open_depot(upload_bytes_per_day=1000)
    depot.quotas.spend(Spent.UPLOAD, 700)
    clock.wait(60.0)
    await depot.mover.run_round()
    depot.state.close()
    again = open_depot(upload_bytes_per_day=1000)
    await again.quotas.load()
    assert again.used(Spent.UPLOAD) == 700


@pytest.mark.parametrize("stored", [b"", b"[]", b'{"spent": {}}', b'{"moment": "{}", "spent": {}}'])
async def test_damaged_amounts_begin_anew(
    open_depot: Callable[..., Depot], caplog: pytest.LogCaptureFixture, stored: bytes
) -> None:
    """With a word, and without stopping the mount."""
    depot = open_depot(upload_bytes_per_day=1000)
    await depot.state.engine.put_setting(SETTING, stored)
    await depot.quotas.load()
    assert depot.used(Spent.UPLOAD) == 0
    assert "begin anew" in caplog.text


async def test_without_quotas_nothing_is_kept(open_depot: Callable[..., Depot]) -> None:
    depot = open_depot()
    await depot.pinned("a", Tier.GLACIER)
    await depot.steps(2)
    await depot.quotas.save()
    assert depot.quotas.uses() == []
    assert await depot.state.engine.get_setting(SETTING) is None


async def test_a_full_disk_is_packed_when_the_store_has_no_quota_left(
    open_depot: Callable[..., Depot],
) -> None:
    """As while a store is down: a disk tier that overflows is worse than one that is packed."""
    depot = open_depot(cold=ColdConfig(size_bytes=200_000, frame_bytes=4096), requests_per_day=0)
    inos = [await depot.state.create(f"f{number}", compressible(50_000)) for number in range(8)]
    await depot.steps(4)
    forms = [await depot.state.forms(ino) for ino in inos]
    assert {FormKind.PACKED} in forms
    assert {FormKind.REMOTE} not in forms


async def test_compaction_waits_for_egress(
    open_depot: Callable[..., Depot], clock: HandClock
) -> None:
    """Dead bytes in the store cost less than what the user has set a limit to."""
    depot = open_depot(GlacierConfig(), egress_bytes_per_day=2_000_000)
    inos = [await depot.pinned(f"file {number}", Tier.GLACIER) for number in range(10)]
    await depot.steps(2)
    [batch] = await depot.state.engine.list_sparse_batches(101, 10)
    for number in range(7):
        await depot.state.unlink(f"file {number}")
    depot.quotas.spend(Spent.EGRESS, 1_990_000 - depot.used(Spent.EGRESS))
    await depot.steps(2)
    assert [each.key for each in await depot.state.engine.list_sparse_batches(101, 10)] == [
        batch.key
    ]
    clock.wait(25 * HOUR_S)
    await depot.again().run_round()
    [compacted] = await depot.state.engine.list_sparse_batches(101, 10)
    assert compacted.key != batch.key
    assert await depot.state.content(inos[9]) == CONTENT


async def test_a_scrub_waits_for_egress_and_goes_on(
    open_depot: Callable[..., Depot], clock: HandClock
) -> None:
    """Checking what is in the store is the mover's own reading."""
    depot = open_depot(egress_bytes_per_day=250_000)
    await depot.pinned("a", Tier.GLACIER)
    await depot.steps(2)
    depot.quotas.spend(Spent.EGRESS, 250_000 - depot.used(Spent.EGRESS))
    scrubber = Scrubber(depot.state.parts, depot.quotas)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubber.run)
        await scrubber.start()
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert (await scrubber.progress())["file_count"] == 0
        clock.wait(25 * HOUR_S)
        await scrubber.wait()
        nursery.cancel_scope.cancel()
    assert (await scrubber.progress())["file_count"] == 1
    assert depot.used(Spent.EGRESS) > 100_000
