"""Moves between forms on a real engine and real stores: content is equal, nothing is left over."""

from __future__ import annotations

import mmap
import os
import random
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.content.opening import OpenMode
from memfs.errors import (
    CorruptDataError,
    NoSpaceError,
    StaleInodeError,
    StoreError,
    StoreUnavailableError,
)
from memfs.metadata.records import AttributeChanges, InodeFlags
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.faults import FAULT_POINTS, FaultPoints
from memfs.moves.garbage import REFUSALS_MAX, GarbageCollector
from memfs.moves.hydrating import hydrate, take_hydrated
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.types import FormKind
from tests.faulty_store import Fault, FaultKind
from tests.moving import MOVES_BY_NAME, State, compressible, incompressible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from memfs.types import InodeNo

CONTENT = compressible(100_000)


class Hook(FaultPoints):
    """Runs a test's code at one fault point."""

    def __init__(self) -> None:
        self.actions: dict[str, Callable[[], None]] = {}

    def reach(self, point: str) -> None:
        assert point in FAULT_POINTS
        if point in self.actions:
            self.actions.pop(point)()


@pytest.fixture
def hook() -> Hook:
    return Hook()


@pytest.fixture
def state(tmp_path: Path, hook: Hook) -> Iterator[State]:
    state = State(tmp_path / "state", faults=hook)
    yield state
    state.close()


def run_now(step: Callable[[], Awaitable[object]]) -> None:
    """Run a coroutine that does not suspend to its end, as a driver does."""
    with pytest.raises(StopIteration):
        step().__await__().send(None)


async def collect_all(state: State) -> None:
    while await state.garbage.collect(100):
        pass


async def to_glacier(state: State, ino: InodeNo) -> None:
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    await drop_form(state.parts, ino, FormKind.PACKED)
    await collect_all(state)


async def test_a_packed_file_reads_back_equal(state: State) -> None:
    """The raw file may go once the packed one is published."""
    ino = await state.create("a", CONTENT)
    result = await pack(state.parts, ino)
    assert result.outcome == MoveOutcome.DONE
    assert result.moved_bytes < len(CONTENT) // 2
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE
    await collect_all(state)
    assert await state.forms(ino) == {FormKind.PACKED}
    assert await state.content(ino) == CONTENT
    assert await state.leaks() == []


async def test_a_remote_file_reads_back_equal(state: State) -> None:
    """The local forms may go once the object is published."""
    ino = await state.create("a", CONTENT)
    await to_glacier(state, ino)
    assert await state.forms(ino) == {FormKind.REMOTE}
    assert await state.content(ino) == CONTENT
    assert await state.leaks() == []


async def test_an_empty_file_goes_to_glacier_and_back(state: State) -> None:
    """No bytes are content too."""
    ino = await state.create("a", b"")
    await to_glacier(state, ino)
    assert await state.content(ino) == b""


async def test_upload_copies_the_packed_file_of_the_same_codec(state: State) -> None:
    """Bytes that are compressed already are not compressed again."""
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    await upload(state.parts, ino)
    packed = await state.form(ino, FormKind.PACKED)
    remote = await state.form(ino, FormKind.REMOTE)
    packed_bytes = state.packed_store.path(packed.place.key).read_bytes()
    assert (state.objects_dir / remote.place.key).read_bytes() == packed_bytes


async def test_upload_takes_the_codec_of_the_file(state: State) -> None:
    """A codec set on the file holds for both of its stored forms."""
    ino = await state.create("a", CONTENT)
    await state.engine.set_codec(ino, "lz4")
    await upload(state.parts, ino)
    form = await state.form(ino, FormKind.REMOTE)
    assert form.coding.codec == "lz4"


async def test_object_keys_tell_no_names(state: State) -> None:
    """Names of files are not given to the object store."""
    ino = await state.create("secret-plan", CONTENT)
    await upload(state.parts, ino)
    assert "secret" not in (await state.form(ino, FormKind.REMOTE)).place.key


async def test_a_file_that_does_not_shrink_stays_raw(state: State) -> None:
    """Packing must save at least a block of disk."""
    ino = await state.create("a", incompressible(100_000))
    assert (await pack(state.parts, ino)).outcome == MoveOutcome.INCOMPRESSIBLE
    await collect_all(state)
    assert await state.forms(ino) == {FormKind.RAW}
    assert await state.leaks() == []


async def test_an_unsealed_file_is_not_moved(state: State) -> None:
    """A file with a writer never leaves."""
    ino = await state.create("a", CONTENT)
    inode = await state.engine.get_inode(ino)
    await state.engine.unseal(ino, inode.raw)
    state.engine.commit_nowait()
    assert (await pack(state.parts, ino)).outcome == MoveOutcome.BUSY
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.BUSY
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.BUSY


@pytest.mark.parametrize("point", ["pack.begun", "pack.written", "pack.verified"])
async def test_a_file_rewritten_while_it_is_packed_keeps_the_new_bytes(
    state: State, hook: Hook, point: str
) -> None:
    """Publishing checks the generation again."""
    ino = await state.create("a", CONTENT)
    hook.actions[point] = lambda: run_now(lambda: state.rewrite(ino, b"new"))
    if point == "pack.begun":
        # It is shorter now: refused before or after packing, in any case not published.
        assert (await pack(state.parts, ino)).outcome != MoveOutcome.DONE
    else:
        assert (await pack(state.parts, ino)).outcome == MoveOutcome.SUPERSEDED
    await collect_all(state)
    assert await state.content(ino) == b"new"
    assert await state.forms(ino) == {FormKind.RAW}
    assert await state.leaks() == []


@pytest.mark.parametrize("kind", [FormKind.PACKED, FormKind.REMOTE])
async def test_a_file_whose_other_form_goes_while_it_is_moved_has_moved_on(
    state: State, hook: Hook, kind: FormKind
) -> None:
    """Its blob goes with its last form: that is no failure of the move, nor of the store."""
    ino = await state.create("a", CONTENT)
    first, second, point = (
        (pack, upload, "upload.begun") if kind == FormKind.PACKED else (upload, pack, "pack.begun")
    )
    await first(state.parts, ino)
    hook.actions[point] = lambda: run_now(lambda: drop_form(state.parts, ino, kind))
    with pytest.raises(StaleInodeError):
        await second(state.parts, ino)
    await collect_all(state)
    assert await state.forms(ino) == {FormKind.RAW}
    assert await state.leaks() == []
    assert (await second(state.parts, ino)).outcome == MoveOutcome.DONE


@pytest.mark.parametrize("point", ["upload.prepared", "upload.stored", "upload.verified"])
async def test_a_file_deleted_while_it_is_uploaded_leaves_no_object(
    state: State, hook: Hook, point: str
) -> None:
    """What a superseded move wrote is garbage."""
    ino = await state.create("a", CONTENT)
    hook.actions[point] = lambda: run_now(lambda: state.unlink("a"))
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.SUPERSEDED
    await collect_all(state)
    assert await state.leaks() == []


async def test_a_file_truncated_while_it_is_hydrated_keeps_the_new_bytes(
    state: State, hook: Hook
) -> None:
    """A writer that needs nothing of the old content does not wait for it, and wins."""
    ino = await state.create("a", CONTENT)
    await to_glacier(state, ino)
    hook.actions["hydrate.verified"] = lambda: run_now(lambda: state.rewrite(ino, b"new"))
    inode = await hydrate(state.parts, ino)
    assert state.raw_store.path(inode.raw).read_bytes() == b"new"
    await collect_all(state)
    assert await state.leaks() == []


async def test_an_open_file_keeps_its_raw_file(state: State) -> None:
    """A passthrough reader must keep its backing file."""
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    handle = state.open_table.add(ino, OpenMode.CACHED, writable=False)
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.BUSY
    state.open_table.remove(ino, handle)
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE


async def test_a_mapped_file_keeps_its_raw_file(state: State) -> None:
    """A mapping outlives the last handle, and must go on seeing what later writers write."""
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    inode = await state.engine.get_inode(ino)
    fd = state.raw_store.open(inode.raw, os.O_RDONLY)
    mapping = mmap.mmap(fd, len(CONTENT), prot=mmap.PROT_READ)
    os.close(fd)
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.BUSY
    mapping.close()
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE


async def test_a_locked_file_is_unlocked_when_its_raw_file_goes(state: State) -> None:
    """The RAM tier holds no pages of files that are elsewhere."""
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    inode = await state.engine.get_inode(ino)
    await state.residency.lock(ino, inode.raw, inode.size)
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE
    assert state.residency.used_bytes == 0


async def test_the_only_form_is_never_dropped(state: State) -> None:
    """A copy goes only when another one holds the same content."""
    ino = await state.create("a", CONTENT)
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.SUPERSEDED
    await to_glacier(state, ino)
    assert (await drop_form(state.parts, ino, FormKind.REMOTE)).outcome == MoveOutcome.SUPERSEDED
    assert await state.content(ino) == CONTENT


async def test_holes_come_back_as_holes(state: State) -> None:
    """A sparse file stays sparse on its way through glacier."""
    ino = await state.create("a", b"x" * 4096)
    inode = await state.engine.get_inode(ino)
    await state.engine.unseal(ino, inode.raw)
    os.truncate(state.raw_store.path(inode.raw), 10 << 20)
    await state.seal(ino)
    await to_glacier(state, ino)
    after = await hydrate(state.parts, ino)
    assert state.raw_store.stat(after.raw).st_size == 10 << 20
    assert state.raw_store.stat(after.raw).st_blocks * 512 < 1 << 20


async def test_a_hydrated_file_has_the_times_of_the_inode(state: State) -> None:
    """An unsealed inode reads its times from the raw file."""
    ino = await state.create("a", CONTENT)
    before = await state.engine.get_inode(ino)
    await to_glacier(state, ino)
    after = await hydrate(state.parts, ino)
    assert state.raw_store.stat(after.raw).st_mtime_ns == before.mtime_ns
    assert after.flags & InodeFlags.DURABLE


async def test_callers_at_a_time_share_one_hydration(state: State) -> None:
    """Hydration is single-flight."""
    ino = await state.create("a", CONTENT)
    await to_glacier(state, ino)
    raws = []

    async def hydrate_it() -> None:
        raws.append((await hydrate(state.parts, ino)).raw)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(hydrate_it)
    assert len(raws) == 5
    assert len(set(raws)) == 1
    assert take_hydrated(state.parts) == [ino]
    assert await state.leaks() == []


async def test_another_caller_takes_over_a_cancelled_hydration(state: State) -> None:
    """Who gives up waiting does not take the others along."""
    ino = await state.create("a", CONTENT)
    await to_glacier(state, ino)
    state.faults.add(Fault(FaultKind.HANG, "get_range"))
    contents = []

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await hydrate(state.parts, ino)

        async def wait() -> None:
            contents.append(await state.content(ino))

        nursery.start_soon(give_up)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert contents == [CONTENT]
    await collect_all(state)
    assert await state.leaks() == []


async def test_waiting_callers_share_the_failure(
    state: State, mock_clock: trio.testing.MockClock
) -> None:
    """A dead store is asked once for all who wait, not once for each."""
    ino = await state.create("a", CONTENT)
    await to_glacier(state, ino)
    state.faults.add(Fault(FaultKind.HANG, count=None))
    failures = []

    async def hydrate_it() -> None:
        try:
            await hydrate(state.parts, ino)
        except StoreUnavailableError as error:
            failures.append(str(error))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(hydrate_it)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(31)
    assert len(failures) == 3
    assert state.faults.hit_counts[FaultKind.HANG] == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.UNAVAILABLE, "put_file"),
        Fault(FaultKind.REFUSED, "put_file"),
        Fault(FaultKind.TORN, "put_file"),
        Fault(FaultKind.LOST_ANSWER, "put_file"),
        Fault(FaultKind.CUT, "put_file"),
        Fault(FaultKind.BIT_FLIP, "get_range", count=None),
        Fault(FaultKind.MISSING, "get_range"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.operation}",
)
async def test_a_failed_upload_publishes_and_leaves_nothing(state: State, fault: Fault) -> None:
    """An object counts only when it was read back equal."""
    ino = await state.create("a", CONTENT)
    state.faults.add(fault)
    with pytest.raises((StoreError, CorruptDataError)):
        await upload(state.parts, ino)
    assert await state.forms(ino) == {FormKind.RAW}
    state.faults.clear()
    await collect_all(state)
    assert await state.leaks() == []
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.DONE


async def test_a_packed_file_with_a_flipped_bit_is_replaced_by_the_remote_form(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong bytes are never hydrated, and the log names file and frame."""
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    path = state.packed_store.path((await state.form(ino, FormKind.PACKED)).place.key)
    flip_bit(path, 5000)
    assert await state.content(ino) == CONTENT
    assert "/a: its packed form cannot be used" in caplog.text
    [event] = state.parts.events.take()
    assert (event.kind, event.subject) == ("damage", "/a")
    assert "frame " in caplog.text
    await collect_all(state)
    assert await state.leaks() == []


async def test_a_flipped_bit_in_the_only_form_is_an_error(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    """EIO, never wrong bytes."""
    ino = await state.create("a", CONTENT)
    await pack(state.parts, ino)
    await drop_raw(state.parts, ino)
    flip_bit(state.packed_store.path((await state.form(ino, FormKind.PACKED)).place.key), 5000)
    with pytest.raises(CorruptDataError, match="frame"):
        await hydrate(state.parts, ino)
    assert len(caplog.records) == 1
    await collect_all(state)
    assert await state.leaks() == []


async def test_a_raw_file_that_differs_from_its_packed_form_is_not_uploaded(state: State) -> None:
    """A disk that altered the raw file must not alter the object too."""
    ino = await state.create("a", CONTENT)
    await state.engine.set_codec(ino, "lz4")
    await pack(state.parts, ino)
    await state.engine.set_codec(ino, "zstd")
    inode = await state.engine.get_inode(ino)
    flip_bit(state.raw_store.path(inode.raw), 5000)
    with pytest.raises(CorruptDataError, match="differs"):
        await upload(state.parts, ino)
    await collect_all(state)
    assert await state.leaks() == []


async def test_a_file_that_cannot_be_written_packed_is_left_as_it_was(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is an ordinary case."""

    def full(*_arguments: object, **_options: object) -> None:
        raise NoSpaceError("the disk is full")

    ino = await state.create("a", CONTENT)
    monkeypatch.setattr("memfs.moves.packing.pack_file", full)
    with pytest.raises(NoSpaceError):
        await pack(state.parts, ino)
    await collect_all(state)
    assert await state.content(ino) == CONTENT
    assert await state.leaks() == []


async def test_an_intact_object_of_another_file_is_not_published(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a store that mixes objects up: all checksums are right, the digest is not."""
    first = await state.create("first", incompressible(5000, 1))
    await upload(state.parts, first)
    other = state.objects_dir / (await state.form(first, FormKind.REMOTE)).place.key
    second = await state.create("second", incompressible(5000, 2))
    put_file = state.remote.put_file

    async def put_other(key: str, _source: Path) -> None:
        await put_file(key, other)

    monkeypatch.setattr(state.remote, "put_file", put_other)
    with pytest.raises(CorruptDataError, match="another digest"):
        await upload(state.parts, second)
    assert await state.forms(second) == {FormKind.RAW}


async def test_an_upload_is_known_on_stable_storage_before_its_object_is(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else power loss leaves an object that nobody knows."""
    ino = await state.create("a", CONTENT)
    known: list[bool] = []
    sync = state.parts.file_syncs.syncer.sync

    def note_sync() -> None:
        sync()
        known.append(bool(trio.from_thread.run(state.engine.list_intents)))

    async def look(call: str, _key: str) -> None:
        assert call != "put_file" or known == [True]

    monkeypatch.setattr(state.parts.file_syncs.syncer, "sync", note_sync)
    state.remote.before = look
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.DONE


async def test_nothing_is_removed_before_its_removal_is_on_stable_storage(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else power loss brings back an inode whose bytes are gone."""
    local, remote = [await state.create(name, CONTENT) for name in ("local", "remote")]
    await to_glacier(state, remote)
    await collect_all(state)
    raw = state.raw_store.path((await state.engine.get_inode(local)).raw)
    key = (await state.form(remote, FormKind.REMOTE)).place.key
    await state.unlink("local")
    await state.unlink("remote")
    there: list[bool] = []
    sync = state.parts.file_syncs.syncer.sync

    def note_sync() -> None:
        there.append(raw.exists() and (state.objects_dir / key).exists())
        sync()

    monkeypatch.setattr(state.parts.file_syncs.syncer, "sync", note_sync)
    assert await state.garbage.collect(10) == 2
    assert there == [True]


async def test_garbage_waits_for_a_store_that_is_down(state: State) -> None:
    """Local garbage goes on being removed, and the store is not asked again at once."""
    ino = await state.create("a", CONTENT)
    await to_glacier(state, ino)
    other = await state.create("b", CONTENT)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "delete", count=None))
    await state.unlink("a")
    await state.unlink("b")
    assert other
    assert await state.garbage.collect(1) == 0
    assert await state.garbage.collect(1) == 1
    assert await state.garbage.collect(1) == 0
    assert state.faults.hit_counts[FaultKind.UNAVAILABLE] == 1
    assert len(await state.leaks()) == 1


async def test_a_store_that_does_not_answer_holds_up_no_local_file(state: State) -> None:
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    await state.create("b", CONTENT)
    await state.unlink("a")
    asked = trio.Event()

    async def hang(call: str, _key: str) -> None:
        assert call == "delete"
        asked.set()
        await trio.sleep_forever()

    state.remote.before = hang
    async with trio.open_nursery() as nursery:
        nursery.start_soon(state.garbage.collect, 10)
        await asked.wait()
        await state.unlink("b")
        # The raw file of the first one is gone, and its row waits with that of its object.
        with trio.fail_after(60):
            assert await state.garbage.collect_local(10) == 2
        assert list(state.raw_store.iterate()) == []
        nursery.cancel_scope.cancel()


async def test_an_object_that_the_store_keeps_does_not_hold_up_the_others(state: State) -> None:
    """As one under a legal hold: it is tried again later, the rest goes now."""
    for number in range(3):
        ino = await state.create(f"{number}", CONTENT)
        await upload(state.parts, ino)
        await state.unlink(f"{number}")
    state.faults.add(Fault(FaultKind.REFUSED, "delete"))
    while await state.garbage.collect(10):
        pass
    assert len([stat async for stat in state.remote.list("")]) == 1


async def test_objects_that_wait_for_the_store_do_not_hide_local_garbage(state: State) -> None:
    """However many they are: the disk must not fill up because the store is down."""
    garbage = GarbageCollector(state.parts, random.Random(1), stuck_count_max=2)
    for number in range(8):
        ino = await state.create(f"{number}", CONTENT)
        await to_glacier(state, ino)
    await collect_all(state)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "delete", count=None))
    for number in range(8):
        await state.unlink(f"{number}")
    await state.create("local", CONTENT)
    await state.unlink("local")
    assert await garbage.collect(3) == 0
    assert await garbage.collect(3) == 1


async def test_a_store_that_refuses_everything_is_not_asked_for_each_object(state: State) -> None:
    for number in range(20):
        ino = await state.create(f"{number}", CONTENT)
        await upload(state.parts, ino)
        await state.unlink(f"{number}")
    fault = Fault(FaultKind.REFUSED, "delete", count=REFUSALS_MAX)
    state.faults.add(fault)
    await state.garbage.collect(100)
    assert len([stat async for stat in state.remote.list("")]) == 20


async def test_garbage_is_removed_when_the_store_is_back(
    state: State, mock_clock: trio.testing.MockClock
) -> None:
    """The pause ends."""
    ino = await state.create("a", CONTENT)
    await to_glacier(state, ino)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "delete"))
    await state.unlink("a")
    assert await state.garbage.collect(10) == 0
    mock_clock.jump(2 * state.config.policy.retry_s_min)
    assert await state.garbage.collect(10) == 1
    assert await state.leaks() == []


async def test_a_file_without_a_glacier_tier_is_not_uploaded(state: State) -> None:
    """The reason names the key to set."""
    ino = await state.create("a", CONTENT)
    state.parts.remote = None
    with pytest.raises(Exception, match="glacier"):
        await upload(state.parts, ino)


def flip_bit(path: Path, offset: int) -> None:
    """Damage a file as a disk does, which leaves its times."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_every_fault_point_is_named_once() -> None:
    """Crash tests go by this list."""
    assert len(FAULT_POINTS) == len(set(FAULT_POINTS))


@pytest.mark.parametrize("move", ["pack", "upload", "drop_raw"])
async def test_a_raw_file_that_was_changed_after_sealing_is_a_new_generation(
    state: State, move: str
) -> None:
    """Power loss may forget that it was opened for writing: its other form has other bytes."""
    ino = await state.create("a", compressible(100_000))
    await (upload if move == "pack" else pack)(state.parts, ino)
    raw = (await state.engine.get_inode(ino)).raw
    with state.raw_store.path(raw).open("ab") as file:
        file.write(b"written before power was lost")
    result = await MOVES_BY_NAME[move](state.parts, ino)
    assert result.outcome == MoveOutcome.SUPERSEDED
    assert await state.sealer.seal_all() == 1
    assert await state.forms(ino) == {FormKind.RAW}
    inode = await state.engine.get_inode(ino)
    assert (inode.raw, inode.size) == (raw, 100_029)
    await pack(state.parts, ino)
    await drop_raw(state.parts, ino)
    assert (await state.content(ino)).endswith(b"written before power was lost")


async def test_times_set_while_a_file_is_fetched_are_its_raw_files(
    state: State, hook: Hook
) -> None:
    """Else the raw file would look like one that was written behind the engine's back."""
    ino = await state.create("a", CONTENT)
    await to_glacier(state, ino)

    async def set_times() -> None:
        await state.engine.set_attributes(ino, AttributeChanges(mtime_ns=10**18))

    hook.actions["hydrate.verified"] = lambda: run_now(set_times)
    inode = await hydrate(state.parts, ino)
    assert inode.mtime_ns == 10**18
    assert state.raw_store.stat(inode.raw).st_mtime_ns == 10**18
    assert not inode.flags & InodeFlags.DURABLE
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE
