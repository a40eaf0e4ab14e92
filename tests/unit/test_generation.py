"""A copy of a state whose original went on is refused; a silent store holds up nobody."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import StaleStateError, StoreUnavailableError, UsageError
from memfs.exit_codes import ExitCode
from memfs.moves.generation import PATIENCE_S, StateGeneration
from memfs.stores.asking import AskingStore
from memfs.stores.directory import DirectoryStore
from memfs.stores.forwarding import ForwardingStore
from memfs.stores.health import StoreHealth
from tests.moving import State
from tests.unit.fakes.memory_store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.store import RemoteStore


@pytest.fixture
def store(tmp_path: Path) -> RemoteStore:
    """Beside the state directories, as a bucket is."""
    return DirectoryStore(tmp_path / "store", 30.0, 4)


@pytest.fixture
def memory() -> MemoryStore:
    """One without threads, for clocks that jump."""
    return MemoryStore()


def generation(state: State, store: RemoteStore) -> StateGeneration:
    return StateGeneration(state.engine, store, state.packed_store.temporary_path)


async def mount_once(path: Path, store: RemoteStore, *, take_stale: bool = False) -> None:
    """Open a state directory, raise its generation, note it, and close."""
    state = State(path)
    try:
        counter = generation(state, store)
        await counter.begin(take_stale=take_stale)
        assert await counter.try_to_mark()
        assert counter.noted
    finally:
        state.close()


async def test_an_older_copy_is_refused_and_can_be_taken(
    tmp_path: Path, store: RemoteStore
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    await mount_once(original, store)
    shutil.copytree(original, copy)
    await mount_once(original, store)
    with pytest.raises(UsageError, match=r"older copy.*take_stale_state") as refused:
        await mount_once(copy, store)
    assert refused.value.exit_code == ExitCode.STATE_UNUSABLE
    with pytest.raises(UsageError, match="older copy"):
        await mount_once(copy, store)
    await mount_once(original, store)
    await mount_once(copy, store, take_stale=True)
    # From now on the copy is the one that was used last.
    await mount_once(copy, store)
    with pytest.raises(UsageError, match="older copy"):
        await mount_once(original, store)


async def test_states_of_their_own_share_a_store(tmp_path: Path, store: RemoteStore) -> None:
    for _ in range(3):
        await mount_once(tmp_path / "one", store)
    await mount_once(tmp_path / "other", store)


class SilentStore(ForwardingStore):
    """Answers once it is told to."""

    def __init__(self, inner: RemoteStore) -> None:
        super().__init__(inner)
        self.silent = True
        self.refusing = False

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        if self.silent:
            await trio.sleep_forever()
        if self.refusing:
            raise StoreUnavailableError("down")
        return await super().get_range(key, start, end)


async def test_a_store_that_does_not_answer_holds_up_no_mount(
    tmp_path: Path, memory: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    state = State(tmp_path / "state")
    silent = SilentStore(memory)
    counter = generation(state, silent)
    begin_s = trio.current_time()
    await counter.begin()
    assert trio.current_time() - begin_s == pytest.approx(PATIENCE_S)
    silent.silent, silent.refusing = False, True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counter.run)
        await trio.sleep(300)
        assert not counter.noted
        silent.refusing = False
    assert counter.noted
    state.close()


async def test_an_unreadable_mark_is_written_anew(
    tmp_path: Path, store: RemoteStore, caplog: pytest.LogCaptureFixture
) -> None:
    state = State(tmp_path / "state")
    key = generation(state, store).key
    source = tmp_path / "noise"
    source.write_bytes(b"noise")
    await store.put_file(key, source)
    state.close()
    await mount_once(tmp_path / "state", store)
    assert "no generation mark" in caplog.text
    assert (await store.get_range(key, 0, 100)).startswith(b"memfs state generation 1 ")


async def list_objects(store: RemoteStore) -> dict[str, bytes]:
    return {stat.key: await store.get_range(stat.key, 0, 100) async for stat in store.list("")}


async def test_a_copy_that_proves_stale_later_changes_nothing_any_more(
    tmp_path: Path, memory: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    await mount_once(original, memory)
    shutil.copytree(original, copy)
    await mount_once(original, memory)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    await memory.put_file("object", source)
    before = await list_objects(memory)
    state, silent, health = State(copy), SilentStore(memory), StoreHealth()
    counter = StateGeneration(
        state.engine, silent, state.packed_store.temporary_path, health=health
    )
    await counter.begin()
    used = AskingStore(silent, counter.confirm)
    silent.silent, silent.refusing = False, True
    with pytest.raises(StoreUnavailableError):
        await used.put_file("object", source)
    silent.refusing = False
    source.write_bytes(b"of the copy")
    for change in (
        used.put_file("object", source),
        used.delete("object"),
        used.abort_uploads("object"),
        used.archive("object"),
        used.stat("object"),
    ):
        with pytest.raises(StaleStateError, match=r"older copy.*take_stale_state"):
            await change
    assert await used.get_range("object", 0, 100) == b"content"
    assert await counter.try_to_mark(), "there is nothing left to try"
    assert not counter.noted
    assert before == await list_objects(memory)
    health.note()
    assert health.well is False
    assert "older copy" in str(health.reason)
    state.close()
    with pytest.raises(UsageError, match="older copy"):
        await mount_once(copy, memory)


async def test_nothing_is_changed_before_the_store_has_told_the_mark(
    tmp_path: Path, memory: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    state, silent = State(tmp_path / "state"), SilentStore(memory)
    counter = generation(state, silent)
    await counter.begin()
    used = AskingStore(silent, counter.confirm)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(used.put_file, f"{number}", source)
        await trio.testing.wait_all_tasks_blocked(1.0)
        assert await list_objects(memory) == {}
        # The request that was asked in vain is given up by the store in time.
        nursery.cancel_scope.cancel()
    silent.silent = False
    await used.put_file("object", source)
    assert await memory.get_range("object", 0, 100) == b"content"
    state.close()


async def test_a_copy_that_was_mounted_as_often_is_told_from_the_original(
    tmp_path: Path, memory: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    """The copy counts its mount while the store is silent, and reaches the original's number."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    await mount_once(original, memory)
    shutil.copytree(original, copy)
    await mount_once(original, memory)
    for _ in range(2):
        state, silent = State(copy), SilentStore(memory)
        counter = generation(state, silent)
        await counter.begin()
        silent.silent = False
        with pytest.raises(StaleStateError):
            await counter.confirm()
        state.close()
    await mount_once(original, memory)


async def test_a_mount_whose_mark_was_noted_unseen_is_no_copy(
    tmp_path: Path, memory: MemoryStore, autojump_clock: trio.testing.MockClock
) -> None:
    """Killed between the mark in the store and the end; then mounts that the store does not see."""
    path = tmp_path / "state"
    await mount_once(path, memory)
    for _ in range(3):
        state, silent = State(path), SilentStore(memory)
        await generation(state, silent).begin()
        state.close()
    await mount_once(path, memory)
    await mount_once(path, memory)


async def test_marks_of_older_versions_are_compared_by_number(
    tmp_path: Path, store: RemoteStore
) -> None:
    path = tmp_path / "state"
    await mount_once(path, store)
    state = State(path)
    key, source = generation(state, store).key, tmp_path / "mark"
    await state.engine.put_setting("generation", b"1")
    state.engine.commit_nowait()
    state.close()
    source.write_bytes(b"memfs state generation 2\n")
    await store.put_file(key, source)
    with pytest.raises(UsageError, match="older copy"):
        await mount_once(path, store)
    source.write_bytes(b"memfs state generation 1\n")
    await store.put_file(key, source)
    await mount_once(path, store)
