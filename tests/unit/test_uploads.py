"""Uploads soon after the seal, on a mount that other nodes may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import (
    GlacierConfig,
    MetadataConfig,
    NodesConfig,
    PolicyConfig,
    WarmConfig,
)
from memfs.content.opening import OpenMode
from memfs.moves.dropping import drop_raw
from memfs.moves.packing import pack
from memfs.placement import uploads
from memfs.placement.uploads import AGAIN_S, IDLE_S
from memfs.types import FormKind, InodeNo, Tier
from tests.faulty_store import Fault, FaultKind
from tests.moving import compressible
from tests.unit.test_mover import CONTENT, LONG_AGO_NS, Depot, open_depot

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

__all__ = ["open_depot"]

SHARED = MetadataConfig(url="postgresql://nobody@nowhere/nothing")
"""The mover does not ask the database."""
LONE = GlacierConfig(batch_file_bytes_max=0)
"""Each file has an object of its own."""


@pytest.fixture
def depot(open_depot: Callable[..., Depot], mock_clock: MockClock) -> Depot:
    del mock_clock
    return open_depot(metadata=SHARED, glacier=LONE)


async def remote(depot: Depot, *inos: InodeNo) -> list[bool]:
    return [FormKind.REMOTE in await depot.state.forms(ino) for ino in inos]


async def test_a_file_is_uploaded_once_nobody_writes_to_it_and_stays_on_the_disk(
    depot: Depot, mock_clock: MockClock
) -> None:
    """And `why` can tell the reason."""
    ino = await depot.create("a")
    await depot.mover.run_round()
    mock_clock.jump(IDLE_S - 0.1)
    await depot.mover.run_round()
    assert await remote(depot, ino) == [False]
    await depot.state.rewrite(ino, CONTENT + CONTENT)
    depot.activity.note_sealed(ino)
    await depot.mover.run_round()
    mock_clock.jump(IDLE_S - 0.1)
    await depot.mover.run_round()
    assert await remote(depot, ino) == [False]
    mock_clock.jump(0.2)
    await depot.mover.run_round()
    assert await depot.state.forms(ino) == {FormKind.RAW, FormKind.REMOTE}
    assert depot.state.residency.is_held(ino)
    assert await depot.rule(ino) == "upload"
    assert await depot.state.content(ino) == CONTENT + CONTENT


@pytest.mark.parametrize("nodes", [NodesConfig(upload="policy"), None])
async def test_without_that_files_go_where_the_policy_sends_them(
    open_depot: Callable[..., Depot], mock_clock: MockClock, nodes: NodesConfig | None
) -> None:
    """As on a mount that nobody else reads."""
    metadata = SHARED if nodes else MetadataConfig()
    depot = open_depot(metadata=metadata, nodes=nodes or NodesConfig(), glacier=LONE)
    ino = await depot.create("a")
    for _ in range(3):
        await depot.mover.run_round()
        mock_clock.jump(AGAIN_S)
    assert await depot.state.forms(ino) == {FormKind.RAW}


async def test_the_loop_of_the_mover_does_it_by_itself(depot: Depot, mock_clock: MockClock) -> None:
    """Many files, of which some are gone by then, and some are empty."""
    mock_clock.rate = 1.0
    kept = [await depot.create(f"{number}", compressible(20_000, number)) for number in range(20)]
    empty = await depot.create("empty", b"")
    await depot.create("gone")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(depot.mover.run)
        await depot.state.unlink("gone")
        while not all(await remote(depot, *kept)):
            mock_clock.jump(0.5)
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert await remote(depot, empty) == [False]
    assert {await depot.rule(ino) for ino in kept} == {"upload"}


async def test_small_files_share_an_object(
    open_depot: Callable[..., Depot], mock_clock: MockClock
) -> None:
    depot = open_depot(metadata=SHARED)
    inos = [await depot.create(f"{number}", compressible(5000, number)) for number in range(5)]
    await depot.mover.run_round()
    mock_clock.jump(IDLE_S)
    await depot.mover.run_round()
    forms = [await depot.state.form(ino, FormKind.REMOTE) for ino in inos]
    assert len({form.place.key for form in forms}) == 1


@pytest.mark.parametrize("tier", [Tier.HOT, Tier.WARM, Tier.COLD])
async def test_a_pin_keeps_the_local_copy_and_does_not_stop_the_upload(
    depot: Depot, mock_clock: MockClock, tier: Tier
) -> None:
    ino = await depot.create("a")
    await depot.pin(ino, tier)
    for _ in range(3):
        await depot.mover.run_round()
        mock_clock.jump(IDLE_S)
    local = FormKind.PACKED if tier == Tier.COLD else FormKind.RAW
    assert await depot.state.forms(ino) == {local, FormKind.REMOTE}
    assert depot.state.residency.is_held(ino) is (tier == Tier.WARM)


async def test_a_file_that_is_open_for_reading_is_uploaded(
    depot: Depot, mock_clock: MockClock
) -> None:
    ino = await depot.create("a")
    depot.state.open_table.add(ino, OpenMode.CACHED, writable=False)
    await depot.mover.run_round()
    mock_clock.jump(IDLE_S)
    await depot.mover.run_round()
    assert await remote(depot, ino) == [True]


async def test_after_a_start_files_without_an_object_are_found(
    depot: Depot, mock_clock: MockClock
) -> None:
    """A kill between the seal and the upload is no reason to forget a file."""
    raw, packed = await depot.create("raw"), await depot.create("packed")
    await pack(depot.state.parts, packed)
    await drop_raw(depot.state.parts, packed)
    depot.activity.take_sealed()
    for _ in range(3):
        await depot.again().run_round()
        mock_clock.jump(0.1)
    again = depot.again()
    await again.run_round()
    await again.run_round()
    assert await remote(depot, raw, packed) == [True, True]
    assert await depot.state.forms(packed) == {FormKind.PACKED, FormKind.REMOTE}


async def test_what_does_not_fit_is_found_later(
    depot: Depot, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files are sealed at once, and of whatever events are lost."""
    monkeypatch.setattr(uploads, "KNOWN_COUNT_MAX", 2)
    inos = [await depot.create(f"{number}") for number in range(9)]
    for _ in range(12):
        await depot.mover.run_round()
        mock_clock.jump(AGAIN_S)
    assert all(await remote(depot, *inos))
    late = await depot.create("late")
    depot.activity.take_sealed()
    depot.activity.look_at_all()
    for _ in range(3):
        await depot.mover.run_round()
        mock_clock.jump(AGAIN_S)
    assert await remote(depot, late) == [True]


async def test_a_store_that_fails_is_asked_again_and_holds_up_nothing_else(
    open_depot: Callable[..., Depot], mock_clock: MockClock
) -> None:
    """`why` tells what the file waits for; meanwhile it leaves RAM and is packed as any other."""
    policy = PolicyConfig(retry_s_min=60.0, retry_s_max=60.0, cold_to_glacier_s=1e10)
    depot = open_depot(metadata=SHARED, glacier=LONE, policy=policy)
    depot.state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file"))
    ino = await depot.create("a")
    await depot.mover.run_round()
    mock_clock.jump(IDLE_S)
    await depot.mover.run_round()
    pending = await depot.state.engine.get_pending(ino)
    assert pending is not None
    assert pending.wanted == Tier.GLACIER
    await depot.state.engine.record_access([(ino, LONG_AGO_NS)])
    depot.state.engine.commit_nowait()
    await depot.steps(4)
    assert await depot.state.forms(ino) == {FormKind.PACKED}
    depot.later_ns += int(130e9)
    mock_clock.jump(130)
    await depot.steps(3)
    assert await depot.state.forms(ino) == {FormKind.PACKED, FormKind.REMOTE}
    assert await depot.reason(ino) == ""


async def test_an_upload_leaves_alone_what_waits_for_ram(
    open_depot: Callable[..., Depot], mock_clock: MockClock
) -> None:
    """A file pinned to a tier that is full waits for that still."""
    warm = WarmConfig(size_bytes=64 << 10, high_watermark=1, low_watermark=1)
    depot = open_depot(metadata=SHARED, glacier=LONE, warm=warm)
    ino = await depot.create("a")
    await depot.pin(ino, Tier.WARM)
    await depot.mover.run_round()
    reason = await depot.reason(ino)
    assert "warm" in reason
    mock_clock.jump(IDLE_S)
    await depot.mover.run_round()
    assert await remote(depot, ino) == [True]
    assert await depot.reason(ino) == reason
