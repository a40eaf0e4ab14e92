"""A copy of a state whose original went on is refused; a silent store holds up nobody."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import StoreUnavailableError, UsageError
from memfs.exit_codes import ExitCode
from memfs.moves.generation import PATIENCE_S, StateGeneration
from memfs.stores.directory import DirectoryStore
from memfs.stores.forwarding import ForwardingStore
from tests.moving import State

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.store import RemoteStore


@pytest.fixture
def store(tmp_path: Path) -> RemoteStore:
    """Beside the state directories, as a bucket is."""
    return DirectoryStore(tmp_path / "store", 30.0, 4)


def generation(state: State, store: RemoteStore) -> StateGeneration:
    return StateGeneration(state.engine, store, state.packed_store.temporary_path)


async def mount_once(path: Path, store: RemoteStore, *, take_stale: bool = False) -> None:
    """Open a state directory, raise its generation, note it, and close."""
    state = State(path)
    try:
        counter = generation(state, store)
        await counter.begin(take_stale=take_stale)
        assert await counter.step()
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
    tmp_path: Path, store: RemoteStore, autojump_clock: trio.testing.MockClock
) -> None:
    state = State(tmp_path / "state")
    silent = SilentStore(store)
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
    assert (await store.get_range(key, 0, 100)).endswith(b" 1\n")
