"""Barriers and compression on a real engine and real stores, file by file, without a mount."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.backoff import CircuitBreaker
from memfs.codecs.registry import get_codec, parse_codec
from memfs.config import Config, GlacierConfig, QuotasConfig
from memfs.errors import InvalidValueError, QuotaSpentError, StaleInodeError
from memfs.jobs.barriers import LocalBarrier, RemoteBarrier
from memfs.jobs.compression import Compression, CompressionRequest
from memfs.jobs.file_work import WorkResults
from memfs.metadata.records import PendingMove
from memfs.moves import packing
from memfs.moves.dropping import drop_raw
from memfs.moves.uploading import upload
from memfs.placement.quotas import Quotas
from memfs.policy.access_stats import AccessStats
from memfs.policy.quotas import Spent
from memfs.stores.metered import MeteredStore
from memfs.types import FormKind, InodeNo, PendingCode, Tier
from tests.disk_calls import intercept
from tests.faulty_store import Fault, FaultKind
from tests.moving import SMALL_FRAMES, State, compressible, incompressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.jobs.file_work import FileWork

CONTENT = compressible(100_000)

ZSTD_9 = get_codec(parse_codec("zstd:9"))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


@pytest.fixture
def breaker(state: State) -> CircuitBreaker:
    return breaker_of(state.config)


def breaker_of(config: Config) -> CircuitBreaker:
    policy = config.policy
    return CircuitBreaker(policy.retry_s_min, policy.retry_s_max, random.Random(1))


async def run(work: FileWork, *inos: InodeNo) -> WorkResults:
    """Do a work to files, one after the other."""
    results = WorkResults()
    for ino in inos:
        await work.do(ino, results)
    await work.finish(results)
    return results


def compression(state: State, request: CompressionRequest) -> Compression:
    quotas = spending_of(state)
    return Compression(state.parts, AccessStats(), quotas, request)


def spending_of(state: State) -> Quotas:
    """Return the quotas of a state's configuration, of which nothing is spent."""
    return Quotas(state.config.quotas, state.engine)


def remote_barrier(
    state: State, breaker: CircuitBreaker, quotas: Quotas | None = None
) -> RemoteBarrier:
    return RemoteBarrier(state.parts, lambda _: breaker, quotas or spending_of(state))


async def unseal(state: State, ino: InodeNo) -> None:
    inode = await state.engine.get_inode(ino)
    await state.engine.unseal(ino, inode.raw)
    state.engine.commit_nowait()


# --- local ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [3, 100])
async def test_a_local_barrier_makes_files_durable(
    state: State, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Few by an fsync each, many by one syncfs; the engine only after them."""
    calls: list[str] = []
    engine_sync = state.engine.sync

    def note(call: str, fd: int) -> None:
        if call == "syncfs" or str(state.raw_store.root) in os.readlink(f"/proc/self/fd/{fd}"):
            calls.append(call)

    def note_engine() -> None:
        calls.append("engine")
        engine_sync()

    inos = [await state.create(f"{number}", CONTENT) for number in range(count)]
    intercept(monkeypatch, "fsync", "syncfs", before=note)
    monkeypatch.setattr(state.engine, "sync", note_engine)
    barrier = LocalBarrier(state.parts)
    results = await run(barrier, *inos)
    assert results.outcomes == {"done": count}
    assert calls.count("syncfs") == (count > 32)
    assert calls.count("fsync") >= (count if count <= 32 else 0)
    assert calls[-1] == "engine"
    assert await state.engine.list_not_durable(1000) == []


async def test_a_local_barrier_syncs_names_without_any_file(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree of empty directories has names, too."""
    calls: list[str] = []
    monkeypatch.setattr(state.engine, "sync", lambda: calls.append("engine"))
    results = await run(LocalBarrier(state.parts))
    assert (results.outcomes, calls) == ({}, ["engine"])


async def test_a_local_barrier_takes_an_open_file_as_it_is(state: State) -> None:
    """Its bytes so far are safe, and it is told apart from those that are closed."""
    ino = await state.create("a", CONTENT)
    await unseal(state, ino)
    barrier = LocalBarrier(state.parts)
    assert (await run(barrier, ino)).outcomes == {"open": 1}


async def test_a_local_barrier_reports_a_file_that_the_disk_refuses(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on reporting it: the kernel says so only once."""
    lost, sound = await state.create("a", CONTENT), await state.create("b", CONTENT)
    raw = (await state.engine.get_inode(lost)).raw
    refusals = ["Input/output error"]

    def refuse_once(_call: str, fd: int) -> None:
        if os.path.samestat(os.fstat(fd), state.raw_store.stat(raw)) and refusals:
            raise OSError(5, refusals.pop())

    intercept(monkeypatch, "fsync", before=refuse_once)
    for _ in range(2):
        results = await run(LocalBarrier(state.parts), lost, sound)
        assert results.outcomes["failed"] == 1
        assert results.left[lost][0] == "failed"
    assert [inode.ino for inode in await state.engine.list_not_durable(10)] == [lost]


# --- remote --------------------------------------------------------------------------------------
async def test_a_remote_barrier_uploads_what_is_not_there(
    state: State, breaker: CircuitBreaker
) -> None:
    """Small files share one object, local forms stay, and nothing is done twice."""
    inos = [await state.create(f"{number}", compressible(5000, number)) for number in range(10)]
    results = await run(remote_barrier(state, breaker), *inos)
    assert results.outcomes == {"done": 10}
    assert len([stat async for stat in state.remote.list("")]) == 1
    for ino in inos:
        assert await state.forms(ino) == {FormKind.RAW, FormKind.REMOTE}
    again = await run(remote_barrier(state, breaker), *inos)
    assert again.outcomes == {"unneeded": 10}


async def test_what_a_remote_barrier_uploaded_outlives_its_raw_files(
    state: State, breaker: CircuitBreaker
) -> None:
    """That is the promise: the store alone is enough."""
    inos = [await state.create(f"{number}", compressible(5000, number)) for number in range(4)]
    await run(remote_barrier(state, breaker), *inos)
    for ino in inos:
        inode = await state.engine.get_inode(ino)
        state.raw_store.unlink(inode.raw)
    assert await state.sealer.adopt_doubtful() == len(inos)
    for number, ino in enumerate(inos):
        assert await state.content(ino) == compressible(5000, number)


async def test_large_files_get_objects_of_their_own(tmp_path: Path) -> None:
    """By the same bound as the mover's uploads."""
    config = Config(cold=SMALL_FRAMES.cold, glacier=GlacierConfig(batch_file_bytes_max=10_000))
    state = State(tmp_path / "state", config)
    try:
        inos = [await state.create(str(size), compressible(size)) for size in (100, 20_000, 30_000)]
        breaker = breaker_of(config)
        await run(remote_barrier(state, breaker), *inos)
        assert len([stat async for stat in state.remote.list("blobs/")]) == 3
    finally:
        state.close()


async def test_a_remote_barrier_reports_a_file_that_is_being_written(
    state: State, breaker: CircuitBreaker
) -> None:
    """Its content has no end yet that could be uploaded."""
    ino = await state.create("a", CONTENT)
    await unseal(state, ino)
    results = await run(remote_barrier(state, breaker), ino)
    assert results.outcomes == {"busy": 1}
    assert "open for writing" in results.left[ino][1]


async def test_a_store_that_is_down_is_asked_once_for_many_files(
    tmp_path: Path,
) -> None:
    """The files wait with its reason, and get there when it is back."""
    config = Config(cold=SMALL_FRAMES.cold, glacier=GlacierConfig(batch_file_bytes_max=0))
    state = State(tmp_path / "state", config)
    breaker = breaker_of(config)
    try:
        inos = [await state.create(str(number), CONTENT) for number in range(5)]
        state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file"))
        results = await run(remote_barrier(state, breaker), *inos)
        assert results.outcomes == {"waiting": 5}
        breaker.succeed()
        results = await run(remote_barrier(state, breaker), *inos)
        assert results.outcomes == {"done": 5}
    finally:
        state.close()


async def test_a_file_that_the_mover_uploads_as_well_is_uploaded_once(
    tmp_path: Path,
) -> None:
    """Who comes second waits, and finds the object: alone, and in a batch."""
    config = Config(cold=SMALL_FRAMES.cold, glacier=GlacierConfig(batch_file_bytes_max=10_000))
    state = State(tmp_path / "state", config)
    breaker = breaker_of(config)
    try:
        sizes = (100, 200, 20_000)
        inos = [await state.create(str(size), compressible(size)) for size in sizes]
        stored = trio.Event()
        results = []

        async def upload_all() -> None:
            async with trio.open_nursery() as nursery:
                for ino in inos:
                    nursery.start_soon(upload, state.parts, ino)
                while not state.parts.progress.describe():
                    await trio.lowlevel.checkpoint()
                stored.set()

        async def wait_behind() -> None:
            await stored.wait()
            results.append(await run(remote_barrier(state, breaker), *inos))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload_all)
            nursery.start_soon(wait_behind)
        assert results[0].outcomes == {"unneeded": len(inos)}
        assert len([stat async for stat in state.remote.list("")]) == len(inos)
        assert not await state.leaks()
    finally:
        state.close()


BUDGETS = Config(
    cold=SMALL_FRAMES.cold,
    glacier=GlacierConfig(batch_file_bytes_max=10_000),
    quotas=QuotasConfig(upload_bytes_per_day=150_000, disk_writes_bytes_per_day=1 << 20),
)


@pytest.mark.parametrize("size", [9_000, 20_000])
async def test_a_remote_barrier_stays_inside_the_quotas(tmp_path: Path, size: int) -> None:
    """What there is no room for waits with the name of the quota; small files in part as well."""
    state = State(tmp_path / "state", BUDGETS)
    breaker = breaker_of(BUDGETS)
    quotas = spending_of(state)
    state.parts.remote = MeteredStore(state.remote, quotas)
    try:
        inos = [await state.create(str(n), incompressible(size, n)) for n in range(20)]
        results = await run(remote_barrier(state, breaker, quotas), *inos)
        assert results.outcomes.keys() == {"done", "waiting"}
        assert 0 < results.outcomes["done"] <= 150_000 // size
        assert all("quotas.upload_per_day" in reason for _, reason in results.left.values())
        used = {use.spent: use for use in quotas.uses()}
        assert used[Spent.UPLOAD].used <= 150_000
        assert used[Spent.DISK_WRITES].used >= results.outcomes["done"] * size
        assert not any(use.reserved for use in used.values())
        assert breaker.wait_s == 0
    finally:
        state.close()


async def test_what_a_quota_never_has_room_for_has_failed(tmp_path: Path) -> None:
    """Waiting would not help: the quota has to be raised."""
    state = State(tmp_path / "state", BUDGETS)
    breaker = breaker_of(BUDGETS)
    try:
        ino = await state.create("a", incompressible(200_000))
        results = await run(remote_barrier(state, breaker), ino)
        assert results.outcomes == {"failed": 1}
        assert "raise it" in results.left[ino][1]
    finally:
        state.close()


async def test_a_file_that_waits_for_a_quota_is_looked_at_once_it_is_uploaded(
    state: State, breaker: CircuitBreaker
) -> None:
    """Else its reason would stand for an hour."""
    ino = await state.create("a", CONTENT)
    later_ns = time.time_ns() + 3600 * 10**9
    await state.engine.set_pending(
        PendingMove(ino, Tier.GLACIER, "a quota is spent", 1, later_ns, 1, PendingCode.QUOTA)
    )
    await run(remote_barrier(state, breaker), ino)
    pending = await state.engine.get_pending(ino)
    assert pending is not None
    assert pending.retry_ns <= time.time_ns()


# --- compress ------------------------------------------------------------------------------------
async def test_compress_packs_and_gives_back_the_raw_file(state: State) -> None:
    """Before and after are what the file takes up on the disk."""
    ino = await state.create("a", CONTENT)
    blocks = (await state.engine.get_inode(ino)).blocks
    results = await run(compression(state, CompressionRequest()), ino)
    packed = await state.form(ino, FormKind.PACKED)
    assert results.outcomes == {"done": 1}
    assert (results.before_bytes, results.after_bytes) == (blocks * 512, packed.stored_bytes)
    assert await state.forms(ino) == {FormKind.PACKED}
    decision = await state.engine.get_decision(ino)
    assert decision is not None
    assert decision.rule == "compress"
    assert await state.content(ino) == CONTENT


async def test_compress_keeps_raw_files_on_request_and_drops_them_later(state: State) -> None:
    """What a first run has packed, a second one need not."""
    ino = await state.create("a", CONTENT)
    await run(compression(state, CompressionRequest(drop_raw=False)), ino)
    assert await state.forms(ino) == {FormKind.RAW, FormKind.PACKED}
    location = (await state.form(ino, FormKind.PACKED)).place.key
    again = await run(compression(state, CompressionRequest(drop_raw=False)), ino)
    assert again.outcomes == {"unneeded": 1}
    await run(compression(state, CompressionRequest()), ino)
    assert await state.forms(ino) == {FormKind.PACKED}
    assert (await state.form(ino, FormKind.PACKED)).place.key == location


async def test_a_codec_for_this_once_packs_anew_and_sets_nothing(state: State) -> None:
    """The codec in force is the user's to set, by user.memfs.codec."""
    ino = await state.create("a", CONTENT)
    await run(compression(state, CompressionRequest()), ino)
    results = await run(compression(state, CompressionRequest(ZSTD_9)), ino)
    assert results.outcomes == {"done": 1}
    form = await state.form(ino, FormKind.PACKED)
    assert form.coding.codec == "zstd:9"
    assert await state.engine.effective_codec(ino) is None
    assert await state.content(ino) == CONTENT
    again = await run(compression(state, CompressionRequest(ZSTD_9, drop_raw=False)), ino)
    assert again.outcomes == {"unneeded": 1}


async def test_compress_tells_why_files_are_left_alone(state: State) -> None:
    """Each kind by its own word, and only those that are open count as undone."""
    noise = await state.create("noise", incompressible(100_000))
    written = await state.create("written", CONTENT)
    await unseal(state, written)
    read = await state.create("read", CONTENT)
    state.open_table.begin(read)
    pinned = await state.create("pinned", CONTENT)
    await state.engine.set_pin(pinned, Tier.WARM)
    gone = await state.create("gone", CONTENT)
    await upload(state.parts, gone)
    await drop_raw(state.parts, gone)
    results = await run(
        compression(state, CompressionRequest()), noise, written, read, pinned, gone
    )
    assert results.outcomes == {"incompressible": 1, "busy": 2, "pinned": 1, "absent": 1}
    assert results.left.keys() == {written, read}
    assert await state.forms(read) == {FormKind.RAW, FormKind.PACKED}


async def test_a_dry_run_estimates_and_changes_nothing(state: State) -> None:
    """Within a tenth of what packing comes to, for content that is alike throughout."""
    ino, noise = await state.create("a", CONTENT), await state.create("b", incompressible(50_000))
    told = await run(compression(state, CompressionRequest(dry_run=True)), ino, noise)
    assert told.outcomes == {"due": 1, "incompressible": 1}
    assert await state.forms(ino) == {FormKind.RAW}
    made = await run(compression(state, CompressionRequest()), ino, noise)
    assert told.before_bytes == made.before_bytes
    assert told.after_bytes == pytest.approx(made.after_bytes, rel=0.1)


async def test_compression_stays_inside_the_quota_of_disk_writes(tmp_path: Path) -> None:
    """The caller is told by the error, and has the file wait."""
    config = Config(cold=SMALL_FRAMES.cold, quotas=QuotasConfig(disk_writes_bytes_per_day=150_000))
    state = State(tmp_path / "state", config)
    try:
        first, second = [await state.create(str(n), compressible(100_000, n)) for n in range(2)]
        work = Compression(state.parts, AccessStats(), spending_of(state), CompressionRequest())
        results = await run(work, first)
        assert results.outcomes == {"done": 1}
        third = await state.create("3", incompressible(140_000))
        with pytest.raises(QuotaSpentError, match=r"quotas.disk_writes_per_day"):
            await run(work, third)
        assert (await run(work, second)).outcomes == {"done": 1}
        assert await state.forms(third) == {FormKind.RAW}
    finally:
        state.close()


async def test_what_the_mover_packs_meanwhile_is_compressed_all_the_same(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pin to cold packs a file just when `memfs compress` does."""
    ino = await state.create("a", CONTENT)
    verify = packing._verify

    def verify_after_the_mover(*arguments: Any) -> None:  # noqa: ANN401 - as it takes them
        monkeypatch.setattr(packing, "_verify", verify)
        trio.from_thread.run(packing.pack, state.parts, ino)
        verify(*arguments)

    monkeypatch.setattr(packing, "_verify", verify_after_the_mover)
    results = await run(compression(state, CompressionRequest()), ino)
    assert packing._verify is verify, "the mover was first"
    assert (results.left, results.outcomes) == ({}, {"done": 1})
    assert await state.forms(ino) == {FormKind.PACKED}


async def test_the_codec_none_is_refused(state: State) -> None:
    """It would pack nothing, and unpack what is packed."""
    with pytest.raises(InvalidValueError, match="compresses nothing"):
        compression(state, CompressionRequest(get_codec(parse_codec("none"))))


async def test_a_deleted_file_is_left_to_the_caller(state: State, breaker: CircuitBreaker) -> None:
    """The caller counts it as done: nothing is left to do."""
    ino = await state.create("a", CONTENT)
    await state.unlink("a")
    with pytest.raises(StaleInodeError):
        await run(remote_barrier(state, breaker), ino)
