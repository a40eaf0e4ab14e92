"""The mover on a real engine and real stores: files go where pins, ages and room want them."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.config import ColdConfig, GlacierConfig, PolicyConfig, WarmConfig
from memfs.content.activity import FREED_BYTES_MIN, Activity
from memfs.content.opening import OpenMode
from memfs.errors import MetadataError, NoSpaceError
from memfs.metadata.records import InodeFlags, NewInode
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.placement import batcher, execute
from memfs.placement.mover import Mover
from memfs.policy import rules
from memfs.policy.access_stats import AccessStats
from memfs.types import ROOT_INODE, FormKind, InodeNo, Tier
from tests.disk_calls import intercept
from tests.faulty_store import Fault, FaultKind
from tests.moving import SMALL_FRAMES, State, compressible, incompressible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from memfs.config import Config
    from memfs.moves.attempt import MoveParts
    from memfs.moves.outcome import MoveResult

CONTENT = compressible(100_000)
LONG_AGO_NS = 1
RETRY_AT_ONCE = PolicyConfig(retry_s_min=0.0, retry_s_max=0.0)


class Depot:
    """A state directory with a mover."""

    def __init__(self, state_dir: Path, config: Config) -> None:
        self.state = State(state_dir, config)
        self.activity = Activity()
        self.later_ns = 0
        """By so much the clock of the mover is ahead."""
        self.mover = self.again()

    def again(self) -> Mover:
        """Return a mover that has seen nothing yet, as after a start."""
        policy = self.state.config.policy
        self.access_stats = AccessStats(policy.promote_count, policy.promote_window_s)
        placement = self.state.placement(
            self.activity,
            access_stats=self.access_stats,
            clock=lambda: time.time_ns() + self.later_ns,
        )
        return Mover(placement, self._settle)

    async def create(self, name: str, content: bytes = CONTENT, idle: bool = False) -> InodeNo:
        """Create a sealed file as the file system does; `idle`: last used long ago."""
        ino = await self.state.create(name, content)
        self.activity.note_sealed(ino)
        if idle:
            await self.state.engine.record_access([(ino, LONG_AGO_NS)])
            self.state.engine.commit_nowait()
            self.activity.take_sealed()
        return ino

    async def pin(self, ino: InodeNo, tier: Tier | None) -> None:
        await self.state.engine.set_pin(ino, tier)
        self.state.engine.commit_nowait()
        self.activity.note_pin(ino)

    async def reason(self, ino: InodeNo) -> str:
        pending = await self.state.engine.get_pending(ino)
        return pending.reason if pending is not None else ""

    async def rule(self, ino: InodeNo) -> str:
        decision = await self.state.engine.get_decision(ino)
        return rules.name_of(decision.rule) if decision is not None else ""

    async def steps(self, count: int) -> None:
        for _ in range(count):
            await self.mover.run_round()

    async def _settle(self) -> bool:
        return False


@pytest.fixture
def open_depot(tmp_path: Path) -> Iterator[Callable[..., Depot]]:
    depots: list[Depot] = []

    def open_one(**sections: object) -> Depot:
        depots.append(Depot(tmp_path / "state", replace(SMALL_FRAMES, **sections)))  # type: ignore[arg-type]
        return depots[-1]

    yield open_one
    for depot in depots:
        depot.state.close()


@pytest.fixture
def depot(open_depot: Callable[..., Depot]) -> Depot:
    return open_depot()


async def test_a_sealed_file_is_locked(depot: Depot) -> None:
    """New data is warm."""
    ino = await depot.create("a")
    await depot.mover.run_round()
    assert depot.state.residency.is_locked(ino)
    assert await depot.rule(ino) == "seal"


async def test_a_rewritten_file_is_locked_anew(depot: Depot) -> None:
    """A lock of the size before would leave the rest to chance."""
    ino = await depot.create("a")
    await depot.mover.run_round()
    await depot.state.rewrite(ino, CONTENT + CONTENT)
    depot.activity.note_sealed(ino)
    await depot.mover.run_round()
    assert depot.state.residency.is_locked(ino)
    assert depot.state.residency.used_bytes == 200_704


async def test_a_file_larger_than_the_tier_is_not_locked(open_depot: Callable[..., Depot]) -> None:
    """The capacity holds, and a full RAM tier is no failure."""
    depot = open_depot(warm=WarmConfig(size_bytes=64 << 10))
    ino = await depot.create("a")
    await depot.mover.run_round()
    assert not depot.state.residency.is_held(ino)
    assert await depot.reason(ino) == ""


async def test_a_pinned_glacier_file_leaves_the_disk(depot: Depot) -> None:
    """`setfattr -n user.memfs.tier -v glacier`."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}
    assert await depot.rule(ino) == "pin"
    assert await depot.state.leaks() == []
    assert depot.state.residency.used_bytes == 0


async def test_a_pinned_cold_file_is_packed(depot: Depot) -> None:
    """Pinned cold: compressed on the disk, out of RAM."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.COLD)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.PACKED}


async def test_a_pinned_cold_file_comes_back_from_glacier(depot: Depot) -> None:
    """Changing the pin brings the bytes back to the disk."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    await depot.pin(ino, Tier.COLD)
    await depot.steps(2)
    assert FormKind.PACKED in await depot.state.forms(ino)
    assert FormKind.RAW not in await depot.state.forms(ino)
    assert await depot.state.content(ino) == CONTENT


async def test_a_pinned_cold_file_that_does_not_shrink_stays_raw_and_is_not_tried_again(
    depot: Depot,
) -> None:
    """Why is on record, and the work is not repeated for the same generation."""
    ino = await depot.create("a", incompressible(100_000))
    await depot.pin(ino, Tier.COLD)
    await depot.mover.run_round()
    next_id = depot.state.engine.reserve_blob()
    await depot.pin(ino, Tier.COLD)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.RAW}
    assert await depot.rule(ino) == "incompressible"
    assert depot.state.engine.reserve_blob() == next_id + 1


async def test_a_pinned_warm_file_comes_back_from_glacier(depot: Depot) -> None:
    """Pinned warm: raw again, and locked."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    await depot.pin(ino, Tier.WARM)
    await depot.mover.run_round()
    assert depot.state.residency.is_locked(ino)
    assert await depot.state.content(ino) == CONTENT


async def test_a_pin_on_a_directory_moves_all_below(depot: Depot) -> None:
    """Files with a pin of their own excepted."""
    engine = depot.state.engine
    ino, _ = engine.reserve_ids()
    now_ns = time.time_ns()
    await engine.create(ROOT_INODE, b"d", NewInode(ino, 0o40755, 0, 0, now_ns))
    below = [await depot.create(f"f{index}", compressible(10_000, index)) for index in range(20)]
    for index, file in enumerate(below):
        name = b"f%d" % index
        await engine.rename(ROOT_INODE, name, ino, name, 0, now_ns)
        assert file
    outside = await depot.create("outside")
    await engine.set_pin(below[3], Tier.WARM)
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(3)
    forms = [await depot.state.forms(file) for file in below]
    assert forms.count({FormKind.REMOTE}) == 19
    assert FormKind.RAW in forms[3]
    assert FormKind.RAW in await depot.state.forms(outside)


async def test_a_pin_on_a_directory_reaches_more_files_than_a_plan_has_moves(depot: Depot) -> None:
    """What one plan has no room for is not forgotten."""
    inos = [await depot.create(f"file {number}", b"x") for number in range(300)]
    depot.activity.take_sealed()
    # The survey at start would find them as well.
    await depot.steps(3)
    await depot.pin(ROOT_INODE, Tier.WARM)
    await depot.steps(2)
    assert [ino for ino in inos if not depot.state.residency.is_held(ino)] == []


async def test_a_pin_that_changes_during_a_move_is_acted_on_after_it(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last word counts, whatever was under way when it was said."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)

    async def upload_and_pin(
        parts: MoveParts, inos: Sequence[InodeNo], store: str
    ) -> dict[InodeNo, MoveResult]:
        await depot.pin(ino, Tier.WARM)
        await depot.mover.run_round()
        return await upload_batch(parts, inos, store)

    monkeypatch.setattr(batcher, "upload_batch", upload_and_pin)
    await depot.steps(3)
    assert depot.state.residency.is_held(ino)


@pytest.mark.parametrize("before", [incompressible, compressible])
async def test_a_file_that_is_rewritten_during_a_move_is_moved_after_it(
    depot: Depot, monkeypatch: pytest.MonkeyPatch, before: Callable[[int], bytes]
) -> None:
    """The round that is told of its seal finds it under way, and that move ends without result."""
    ino = await depot.create("a", before(100_000))

    async def pack_while_rewritten(parts: MoveParts, packed: InodeNo, **_: object) -> MoveResult:
        monkeypatch.setattr(execute, "pack", pack)
        outcome = await pack(parts, packed)
        if before is compressible:
            outcome = outcome._replace(outcome=MoveOutcome.SUPERSEDED)
        await depot.state.rewrite(ino, compressible(90_000, seed=2))
        depot.activity.note_sealed(ino)
        await depot.mover.run_round()
        return outcome

    monkeypatch.setattr(execute, "pack", pack_while_rewritten)
    await depot.pin(ino, Tier.COLD)
    await depot.steps(3)
    assert await depot.state.forms(ino) == {FormKind.PACKED}
    assert await depot.state.content(ino) == compressible(90_000, seed=2)


async def test_a_file_that_is_fetched_during_a_move_is_not_forgotten(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program reads it as its last local form is to go: that move ends without result."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    await depot.pin(ino, Tier.COLD)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.PACKED, FormKind.REMOTE}
    fetched = False

    async def drop_and_fetch(
        parts: MoveParts,
        dropped: InodeNo,
        kind: FormKind,
        **options: Any,  # noqa: ANN401  as of drop_form
    ) -> MoveResult:
        nonlocal fetched
        if not fetched:
            fetched = True
            before = await parts.engine.get_inode(dropped)
            await hydrate(parts, dropped)
            # As if the look at the file had been before that.
            options["seen"] = before
        return await drop_form(parts, dropped, kind, **options)

    monkeypatch.setattr(execute, "drop_form", drop_and_fetch)
    await depot.pin(ino, Tier.GLACIER)
    await depot.mover.run_round()
    assert fetched
    assert await depot.state.forms(ino) == {FormKind.REMOTE}


async def test_a_changed_pin_of_a_directory_ends_the_waiting_of_files_below(depot: Depot) -> None:
    """As with a file's own pin: what waited under the former one is tried at once."""
    ino = await depot.create("a")
    await depot.pin(ROOT_INODE, Tier.GLACIER)
    await depot.steps(2)
    await hydrate(depot.state.parts, ino)
    await depot.steps(2)
    assert "60 s" in await depot.reason(ino)
    await depot.pin(ROOT_INODE, Tier.WARM)
    await depot.steps(2)
    assert depot.state.residency.is_held(ino)


async def test_pins_are_found_after_a_restart(open_depot: Callable[..., Depot]) -> None:
    """What was pinned warm is locked again, in the background."""
    depot = open_depot()
    ino = await depot.create("a")
    await depot.pin(ino, Tier.WARM)
    await depot.mover.run_round()
    depot.state.close()
    depot.state.residency.close()
    again = open_depot()
    await again.steps(2)
    assert again.state.residency.is_locked(ino)


async def test_a_pinned_file_pushes_unpinned_ones_out_of_ram(
    open_depot: Callable[..., Depot],
) -> None:
    """A pin is stronger than recency."""
    depot = open_depot(warm=WarmConfig(size_bytes=256 << 10, high_watermark=1.0, low_watermark=1.0))
    others = [await depot.create(f"f{index}") for index in range(2)]
    await depot.mover.run_round()
    ino = await depot.create("a")
    await depot.pin(ino, Tier.WARM)
    await depot.mover.run_round()
    assert depot.state.residency.is_locked(ino)
    assert sum(depot.state.residency.is_locked(other) for other in others) == 1


async def test_a_pinned_file_without_room_waits_with_a_reason(
    open_depot: Callable[..., Depot],
) -> None:
    """Say why."""
    depot = open_depot(warm=WarmConfig(size_bytes=64 << 10))
    ino = await depot.create("a")
    await depot.pin(ino, Tier.WARM)
    await depot.mover.run_round()
    assert "raise warm.size" in await depot.reason(ino)


async def test_an_open_file_waits_with_a_reason_and_moves_later(
    open_depot: Callable[..., Depot],
) -> None:
    """A reader keeps its raw file; the pin is not forgotten."""
    depot = open_depot(policy=RETRY_AT_ONCE)
    ino = await depot.create("a")
    handle = depot.state.open_table.add(ino, OpenMode.CACHED, writable=False)
    await depot.pin(ino, Tier.GLACIER)
    await depot.mover.run_round()
    assert "open" in await depot.reason(ino)
    depot.state.open_table.remove(ino, handle)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}
    assert await depot.reason(ino) == ""


async def test_a_file_that_is_written_is_not_moved(depot: Depot) -> None:
    """Demotion never touches a file with a writer."""
    ino = await depot.create("a")
    inode = await depot.state.engine.get_inode(ino)
    await depot.state.engine.unseal(ino, inode.raw)
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.RAW}
    await depot.state.seal(ino)
    depot.activity.note_sealed(ino)
    await depot.mover.run_round()
    assert await depot.state.forms(ino) == {FormKind.REMOTE}


async def test_a_dead_store_delays_with_a_growing_pause(open_depot: Callable[..., Depot]) -> None:
    """Pending, reason shown, never in a loop."""
    depot = open_depot(policy=PolicyConfig(retry_s_min=100.0, retry_s_max=150.0))
    depot.state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file", count=None))
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(5)
    pending = await depot.state.engine.get_pending(ino)
    assert pending is not None
    assert pending.attempt_count == 1
    assert "unavailable" in pending.reason
    assert 80 <= (pending.retry_ns - time.time_ns()) / 1e9 + 5 <= 130
    assert depot.state.faults.hit_counts[FaultKind.UNAVAILABLE] == 1
    assert await depot.state.content(ino) == CONTENT


async def test_a_dead_store_is_asked_once_for_all_files(open_depot: Callable[..., Depot]) -> None:
    """Thousands of waiting files do not make thousands of attempts."""
    depot = open_depot(policy=PolicyConfig(retry_s_min=100.0, retry_s_max=150.0))
    depot.state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file", count=None))
    inos = [await depot.create(f"f{index}", compressible(10_000, index)) for index in range(20)]
    for ino in inos:
        await depot.pin(ino, Tier.GLACIER)
    await depot.steps(3)
    assert depot.state.faults.hit_counts[FaultKind.UNAVAILABLE] == 1
    assert all(["unavailable" in await depot.reason(ino) for ino in inos])
    assert "unavailable" in str(depot.mover.status()["store_refusal"])


async def test_a_store_that_is_back_gets_what_waited(open_depot: Callable[..., Depot]) -> None:
    """Due moves are tried again, and the record goes when they are done."""
    depot = open_depot(policy=RETRY_AT_ONCE)
    depot.state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file"))
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(3)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}
    assert await depot.reason(ino) == ""


async def test_the_copy_of_a_pinned_glacier_file_waits_before_it_goes(depot: Depot) -> None:
    """A program that reads it again soon finds it on the disk."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    await hydrate(depot.state.parts, ino)
    await depot.steps(3)
    assert await depot.state.forms(ino) == {FormKind.RAW, FormKind.REMOTE}
    assert "60 s" in await depot.reason(ino)


async def test_a_pinned_glacier_file_that_is_rewritten_goes_at_once(depot: Depot) -> None:
    """It was fetched to be changed: what is local is no copy, and not safe in the store yet."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    inode = await hydrate(depot.state.parts, ino)
    await depot.state.engine.unseal(ino, inode.raw)
    await depot.state.seal(ino)
    depot.activity.note_sealed(ino)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}


async def test_unused_files_are_packed_and_then_sent_to_glacier(
    open_depot: Callable[..., Depot],
) -> None:
    """The age limits."""
    depot = open_depot()
    ino = await depot.create("a", idle=True)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}
    assert await depot.rule(ino) == "age"


async def test_files_unused_for_a_while_are_only_packed(open_depot: Callable[..., Depot]) -> None:
    """The shorter age limit."""
    depot = open_depot(policy=PolicyConfig(pack_after_s=0.0))
    ino = await depot.create("a")
    await depot.steps(3)
    assert await depot.state.forms(ino) == {FormKind.PACKED}


async def test_a_full_disk_tier_is_emptied_down_to_the_low_watermark(
    open_depot: Callable[..., Depot],
) -> None:
    """High and low watermark, the longest unused first."""
    depot = open_depot(
        cold=ColdConfig(size_bytes=1 << 20, frame_bytes=4096, high_watermark=0.8, low_watermark=0.5)
    )
    inos = [await depot.create(f"f{index}", incompressible(98_304, index)) for index in range(10)]
    now_ns = time.time_ns()
    await depot.state.engine.record_access(
        [(ino, now_ns - (20 - at) * 10**9) for at, ino in enumerate(inos)]
    )
    depot.state.engine.commit_nowait()
    await depot.steps(3)
    forms = [FormKind.RAW in await depot.state.forms(ino) for ino in inos]
    assert forms == [False] * 5 + [True] * 5
    assert await depot.rule(inos[0]) == "watermark"


async def test_a_tier_far_beyond_its_capacity_is_emptied_without_pauses(
    open_depot: Callable[..., Depot],
) -> None:
    """A round that has found what to move is followed by the next one: by the store's speed."""
    depot = open_depot(cold=ColdConfig(size_bytes=1 << 20, frame_bytes=4096))
    for number in range(400):
        await depot.create(f"f{number}", incompressible(5000, seed=number), idle=True)
    round_count = 0
    while await depot.mover._round():
        round_count += 1
    status: Any = depot.mover.status()
    decided_count = status["queues"]["demotions_waiting"] + status["queues"]["gathered"]
    assert round_count >= 2
    # 400 files of two blocks each are 3.3 MB; down to the low watermark.
    assert decided_count > 250
    assert not status["cold"]["draining"]
    assert depot.mover.count_queued() == decided_count


async def test_sealed_files_become_durable(depot: Depot) -> None:
    """What nobody fsynced is made durable in the background."""
    ino = await depot.create("a")
    depot.later_ns = 6_000_000_000
    await depot.mover.run_round()
    assert (await depot.state.engine.get_inode(ino)).flags & InodeFlags.DURABLE


async def test_a_file_whose_bytes_the_disk_lost_is_never_called_durable(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that failed succeeds when it is tried again, though the bytes are gone (fsync(2))."""
    inos = [await depot.create(str(number)) for number in range(40)]
    depot.later_ns = 6_000_000_000
    lost = depot.state.raw_store.path((await depot.state.engine.get_inode(inos[7])).raw)
    failures = {"syncfs", "fsync"}

    def fail_once(call: str, fd: int) -> None:
        is_lost = call == "syncfs" or os.path.samestat(os.fstat(fd), lost.stat())
        if is_lost and call in failures:
            failures.remove(call)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    intercept(monkeypatch, "fsync", "syncfs", before=fail_once)
    await depot.steps(3)
    durable = [
        bool((await depot.state.engine.get_inode(ino)).flags & InodeFlags.DURABLE) for ino in inos
    ]
    assert durable == [ino != inos[7] for ino in inos]


async def test_names_that_nobody_fsynced_are_durable_after_a_round(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a directory tree would be lost with power minutes after it was made."""
    depot.state.engine.sync()
    synced: list[int] = []
    ino, _ = depot.state.engine.reserve_ids()
    await depot.state.engine.create(ROOT_INODE, b"d", NewInode(ino, 0o40755, 0, 0, 1))
    depot.state.engine.commit_nowait()
    intercept(monkeypatch, "fdatasync", before=lambda _call, fd: synced.append(fd))
    await depot.steps(3)
    assert len(synced) == 1


async def test_a_program_does_not_wait_for_packing(depot: Depot) -> None:
    """Hydration has threads of its own: all others may be at work for minutes."""
    ino = await depot.create("a")
    await pack(depot.state.parts, ino)
    await drop_raw(depot.state.parts, ino)
    threads = depot.state.parts.threads
    for _ in range(int(threads.total_tokens)):
        threads.acquire_on_behalf_of_nowait(object())
    with trio.fail_after(60):
        assert (await hydrate(depot.state.parts, ino)).raw


async def test_a_deleted_file_leaves_nothing(depot: Depot) -> None:
    """Queued moves of it are passed over."""
    ino = await depot.create("a")
    await depot.pin(ino, Tier.GLACIER)
    await depot.state.unlink("a")
    await depot.steps(2)
    assert await depot.state.leaks() == []


async def test_a_file_read_much_from_frames_is_hydrated(depot: Depot) -> None:
    """The file system asks by `note_wanted`."""
    ino = await depot.create("a", idle=True)
    await upload(depot.state.parts, ino)
    await drop_raw(depot.state.parts, ino)
    await depot.state.engine.record_access([(ino, time.time_ns())])
    depot.state.engine.commit_nowait()
    depot.activity.note_wanted(ino)
    await depot.mover.run_round()
    assert FormKind.RAW in await depot.state.forms(ino)


async def test_a_damaged_file_that_is_read_much_is_tried_ever_more_rarely(
    open_depot: Callable[..., Depot],
) -> None:
    """Its readers ask with every read; each attempt fetches all of it in vain."""
    depot = open_depot(policy=PolicyConfig(retry_s_min=1000.0, retry_s_max=1e6))
    engine = depot.state.engine
    ino = await depot.create("a", idle=True)
    await pack(depot.state.parts, ino)
    await drop_raw(depot.state.parts, ino)
    await engine.record_access([(ino, time.time_ns())])
    engine.commit_nowait()
    form = await depot.state.form(ino, FormKind.PACKED)
    path = depot.state.packed_store.path(form.place.key)
    path.write_bytes(bytes(path.stat().st_size))
    for attempt in (1, 2, 3):
        for _ in range(3):
            depot.activity.note_wanted(ino)
            await depot.mover.run_round()
        pending = await engine.get_pending(ino)
        assert pending is not None
        assert pending.attempt_count == attempt
        # Its time comes, and nobody reads.
        await engine.set_pending(pending._replace(retry_ns=1))
        engine.commit_nowait()
        await depot.mover.run_round()
        assert await engine.get_pending(ino) is None


async def test_an_idle_mover_writes_nothing(depot: Depot) -> None:
    """A round with nothing to do is free."""
    await depot.create("a")
    await depot.steps(3)
    journal = [path.stat().st_mtime_ns for path in depot.state.state_dir.glob("journal.*")]
    await depot.steps(20)
    assert [path.stat().st_mtime_ns for path in depot.state.state_dir.glob("journal.*")] == journal


async def test_status_tells_capacities_and_work(depot: Depot) -> None:
    """For `memfs status`."""
    await depot.create("a")
    await depot.mover.run_round()
    status = depot.mover.status()
    assert {
        "giving_way",
        "queues",
        "moves",
        "warm",
        "cold",
        "store_refusal",
        "surveying_pins",
    } == set(status)


# --- batches -------------------------------------------------------------------------------------
async def object_sizes(depot: Depot) -> list[int]:
    return [stat.size async for stat in depot.state.remote.list("")]


async def test_small_files_leave_together_in_one_object(depot: Depot) -> None:
    inos = [await depot.create(f"file {number}") for number in range(50)]
    await depot.pin(ROOT_INODE, Tier.GLACIER)
    await depot.steps(2)
    assert [await depot.state.forms(ino) for ino in inos] == [{FormKind.REMOTE}] * 50
    assert len(await object_sizes(depot)) == 1
    assert await depot.rule(inos[0]) == "pin"


async def test_a_store_that_refuses_a_batch_holds_up_all_its_files(depot: Depot) -> None:
    inos = [await depot.create(f"file {number}") for number in range(5)]
    depot.state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file"))
    await depot.pin(ROOT_INODE, Tier.GLACIER)
    await depot.steps(2)
    assert all([await depot.reason(ino) for ino in inos])
    assert [await depot.state.forms(ino) for ino in inos] == [{FormKind.RAW}] * 5
    assert await object_sizes(depot) == []


async def test_a_file_that_cannot_be_batched_says_why(depot: Depot) -> None:
    """The others leave; its own upload tells what is wrong with it."""
    lost, good = await depot.create("lost"), await depot.create("good")
    inode = await depot.state.engine.get_inode(lost)
    depot.state.raw_store.path(inode.raw).unlink()
    await depot.pin(ROOT_INODE, Tier.GLACIER)
    await depot.steps(2)
    assert await depot.state.forms(good) == {FormKind.REMOTE}
    assert await depot.reason(lost)


async def test_a_batch_that_is_half_dead_is_compacted(depot: Depot) -> None:
    inos = [await depot.create(f"file {number}") for number in range(10)]
    await depot.pin(ROOT_INODE, Tier.GLACIER)
    await depot.steps(2)
    [before] = await object_sizes(depot)
    for number in range(7):
        await depot.state.unlink(f"file {number}")
    mover = depot.again()
    await mover.run_round()
    await mover.run_round()
    [after] = await object_sizes(depot)
    assert after < before // 2
    assert await depot.state.content(inos[9]) == CONTENT


async def test_a_large_file_has_an_object_of_its_own(tmp_path: Path) -> None:
    config = replace(SMALL_FRAMES, glacier=GlacierConfig(batch_file_bytes_max=4096))
    depot = Depot(tmp_path / "state", config)
    small, large = await depot.create("small", b"x"), await depot.create("large", CONTENT)
    await depot.pin(ROOT_INODE, Tier.GLACIER)
    await depot.steps(2)
    forms = [await depot.state.form(ino, FormKind.REMOTE) for ino in (small, large)]
    assert [form.place.offset is not None for form in forms] == [True, False]
    depot.state.close()


async def test_the_background_rests_without_a_word_while_changes_are_refused(
    open_depot: Callable[..., Depot],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A database that is gone for an hour must not fill the log."""
    depot = open_depot()
    ino = await depot.create("a")
    await depot.pin(ino, Tier.COLD)
    database = depot.state.engine._database
    database.refusal = MetadataError("cut off")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(depot.mover.run)
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    database.refusal = None
    assert caplog.records == []
    assert (await depot.state.engine.get_inode(ino)).raw


async def test_a_node_that_reads_makes_and_drops_copies_and_nothing_else(
    open_depot: Callable[..., Depot],
) -> None:
    """It packs nothing, and leaves the store as it is, with all that is garbage or sparse there."""
    depot = open_depot()
    state = depot.state
    pinned, removed, unused = [
        await depot.create(name, idle=True) for name in ("pinned", "removed", "unused")
    ]
    for ino in (pinned, removed, unused):
        await upload(state.parts, ino)
        await drop_raw(state.parts, ino)
    await hydrate(state.parts, unused)
    await state.unlink("removed")
    objects = sorted(path.name for path in state.objects_dir.rglob("*"))
    state.parts.writes, state.parts.source = False, "this node reads"
    await depot.pin(pinned, Tier.COLD)
    await depot.pin(unused, Tier.GLACIER)
    await depot.steps(4)
    assert await state.forms(pinned) == {FormKind.RAW, FormKind.REMOTE}
    assert await state.forms(unused) == {FormKind.REMOTE}
    assert sorted(path.name for path in state.objects_dir.rglob("*")) == objects


async def test_a_node_that_reads_rechecks_nothing(open_depot: Callable[..., Depot]) -> None:
    """Its raw files were fetched: another time of one tells of no write."""
    depot = open_depot()
    state = depot.state
    ino = await depot.create("file")
    await upload(state.parts, ino)
    inode = await state.engine.get_inode(ino)
    os.utime(state.raw_store.path(inode.raw), (1, 1))
    assert state.sealer.is_changed(inode)
    state.parts.writes = state.sealer.writes = False
    await state.recovery.begin()
    assert (state.recovery.recheck.done, state.recovery.recheck.proven) == (True, True)
    assert not state.sealer.is_changed(inode)
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE


async def test_a_full_disk_gets_room_though_nothing_else_can_be_done(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is removed goes, whichever other part of the upkeep or of a round fails first."""
    freed = []

    async def collect(limit: int) -> int:
        freed.append(limit)
        return 0

    async def fail(*_: object) -> int:
        raise NoSpaceError("the disk is full")

    mover = depot.mover
    monkeypatch.setattr(mover._context.garbage, "collect_local", collect)
    for owner, broken, step in (
        (mover._upkeep, "_make_durable", mover._upkeep.tidy),
        (mover, "_finish_requests", mover._round),
        (mover._context.quotas, "save_if_due", mover._round),
    ):
        freed.clear()
        depot.activity.note_freed(FREED_BYTES_MIN)
        with monkeypatch.context() as patch:
            patch.setattr(owner, broken, fail)
            with pytest.raises(NoSpaceError):
                await step()
        assert freed, broken
