"""How a store answers: what counts as a failure, since when, and how long it is waited for."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.config import GlacierConfig
from memfs.errors import (
    NoSpaceError,
    ObjectArchivedError,
    ObjectMissingError,
    QuotaSpentError,
    StoreError,
    StoreUnavailableError,
    StoreUnreachableError,
)
from memfs.stores.health import LATELY_S, StoreHealth, ask_at_mount
from memfs.stores.remote import open_remote_store
from memfs.stores.retry import RetryingStore, RetryPolicy
from memfs.stores.store import ObjectStat

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.errors import MemfsError

DEADLINE_S = 30.0


class Answering:
    """A store whose answer the test sets."""

    url = "test://bucket"

    def __init__(self) -> None:
        self.error: MemfsError | None = None
        self.call_count = 0

    async def stat(self, key: str) -> ObjectStat:
        self.call_count += 1
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return ObjectStat(key, 1)


@pytest.fixture
def inner() -> Answering:
    return Answering()


@pytest.fixture
def health() -> StoreHealth:
    return StoreHealth()


@pytest.fixture
def store(inner: Answering, health: StoreHealth) -> RetryingStore:
    policy = RetryPolicy(DEADLINE_S)
    return RetryingStore(inner, policy, random.Random(1), health)  # type: ignore[arg-type]  # only asked


async def fail_s(store: RetryingStore) -> float:
    """Return how long a call takes to fail."""
    begun = trio.current_time()
    with pytest.raises(StoreError):
        await store.stat("k")
    return trio.current_time() - begun


async def test_nobody_waits_for_a_store_that_nobody_has_seen(
    autojump_clock: trio.testing.MockClock, inner: Answering, store: RetryingStore
) -> None:
    """One retry, and no waiting for the deadline."""
    inner.error = StoreUnreachableError("connection refused")
    assert await fail_s(store) < 1
    assert inner.call_count == 2


async def test_a_store_that_was_well_a_moment_ago_is_waited_for(
    autojump_clock: trio.testing.MockClock, inner: Answering, store: RetryingStore
) -> None:
    """It may be starting anew; later it is down."""
    await store.stat("k")
    inner.error = StoreUnreachableError("connection refused")
    assert await fail_s(store) > DEADLINE_S / 2
    await trio.sleep(LATELY_S)
    assert await fail_s(store) < 1


async def test_a_store_that_throttles_is_waited_for(
    autojump_clock: trio.testing.MockClock, inner: Answering, store: RetryingStore
) -> None:
    """Somebody is there."""
    inner.error = StoreUnavailableError("slow down")
    assert await fail_s(store) > DEADLINE_S / 2


async def test_health_tells_since_when_and_why(
    autojump_clock: trio.testing.MockClock,
    inner: Answering,
    store: RetryingStore,
    health: StoreHealth,
) -> None:
    assert (health.well, health.lasts_s) == (None, None)
    await store.stat("k")
    assert (health.well, health.reason) == (True, None)
    inner.error = StoreError("bucket does not exist")
    await fail_s(store)
    await trio.sleep(10)
    await fail_s(store)
    assert (health.well, health.reason) == (False, "bucket does not exist")
    assert health.lasts_s == pytest.approx(10)
    inner.error = None
    await store.stat("k")
    assert (health.well, health.reason) == (True, None)
    assert health.lasts_s == pytest.approx(0)


@pytest.mark.parametrize(
    ("error", "well"),
    [
        (ObjectMissingError("no such object"), True),
        (ObjectArchivedError("restored soon", 5.0), True),
        (QuotaSpentError("spent", 5.0), None),
        (NoSpaceError("full"), None),
        (StoreError("wrong key"), False),
        (StoreUnavailableError("503"), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_only_what_concerns_the_store_counts(error: MemfsError, well: bool | None) -> None:
    """An answer about one object is an answer."""
    health = StoreHealth()
    health.note(error)
    assert health.well is well


async def test_a_mount_asks_once(
    autojump_clock: trio.testing.MockClock,
    inner: Answering,
    store: RetryingStore,
    health: StoreHealth,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong key shows before the first upload; nobody has made the object."""
    inner.error = ObjectMissingError("no such object")
    await ask_at_mount(store, health)
    assert (inner.call_count, health.well) == (1, True)
    inner.error = StoreError("403: check key and secret")
    await ask_at_mount(store, health)
    assert (health.well, health.reason) == (False, "403: check key and secret")
    assert "check key and secret" in caplog.text


@pytest.mark.parametrize("scheme", ["s3", "gs", "abfs"])
async def test_a_refused_connection_is_told_from_a_slow_store(tmp_path: Path, scheme: str) -> None:
    """By each protocol: EIO after one more attempt, and not after the deadline."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        options: dict[str, dict[str, object]] = {
            "s3": {"endpoint_url": endpoint, "key": "k", "secret": "s"},
            "gs": {"endpoint_url": endpoint, "token": "anon"},
            "abfs": {
                "connection_string": "DefaultEndpointsProtocol=http;AccountName=a;"
                f"AccountKey=Zm9v;BlobEndpoint={endpoint}/a;"
            },
        }
        config = GlacierConfig(url=f"{scheme}://bucket/p", options=options[scheme])
        store = open_remote_store(config, tmp_path)
        begun = trio.current_time()
        with pytest.raises(StoreUnreachableError):
            await store.stat("blobs/x")
        assert trio.current_time() - begun < config.timeout_s / 3
        await store.aclose()
