"""Blocking calls of stores: what was given up never comes after what was done instead."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import ObjectMissingError, StoreUnavailableError
from memfs.stores.calls import BlockingCalls
from memfs.stores.directory import DirectoryStore
from memfs.stores.disk import Draft
from tests.waiting import wait_until_set

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.calls import TransferProgress

STALL_S = 60.0


async def give_up(nursery: trio.Nursery, begun: threading.Event) -> None:
    await trio.to_thread.run_sync(wait_until_set, begun)
    nursery.cancel_scope.cancel()


async def test_two_attempts_never_write_one_object_at_a_time() -> None:
    """Else the late end of the first may cut what the second has written and read back."""
    calls = BlockingCalls("test://", STALL_S, 4)
    begun, release = threading.Event(), threading.Event()
    events: list[str] = []

    def first(_progress: TransferProgress) -> None:
        begun.set()
        wait_until_set(release)
        events.append("first ended")

    def second(_progress: TransferProgress) -> None:
        events.append("second began")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(calls.transfer, "put k", first, STALL_S, "k")
        await give_up(nursery, begun)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(calls.transfer, "put k", second, STALL_S, "k")
        # Others are not held up.
        await calls.transfer("put l", lambda _progress: events.append("other"), STALL_S, "l")
        release.set()
    assert events == ["other", "first ended", "second began"]


async def test_what_waits_for_an_earlier_attempt_has_a_deadline() -> None:
    calls = BlockingCalls("test://", STALL_S, 4)
    begun, release = threading.Event(), threading.Event()
    written: list[str] = []

    def stuck(_progress: TransferProgress) -> None:
        begun.set()
        wait_until_set(release)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(calls.transfer, "put k", stuck, STALL_S, "k")
        await give_up(nursery, begun)
    with pytest.raises(StoreUnavailableError):
        await calls.transfer("put k", lambda _progress: written.append("k"), 0.01, "k")
    release.set()
    await calls.run("delete k", lambda: None, writes="k")
    assert written == [], "it was given up while it waited"


async def test_an_object_whose_upload_was_given_up_is_removed_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on with it: nothing may appear after the removal."""
    store = DirectoryStore(tmp_path / "store", STALL_S, 4)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()
    publish = Draft.publish

    def publish_late(draft: Draft) -> None:
        begun.set()
        wait_until_set(release)
        publish(draft)
        ended.set()

    monkeypatch.setattr(Draft, "publish", publish_late)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put_file, "k", source)
        await give_up(nursery, begun)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.delete, "k")
        await trio.testing.wait_all_tasks_blocked()
        release.set()
    await trio.to_thread.run_sync(wait_until_set, ended)
    with pytest.raises(ObjectMissingError):
        await store.stat("k")
