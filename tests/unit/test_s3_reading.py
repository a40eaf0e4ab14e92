"""Ranges of S3 with a client beside that of s3fs: its options, its connections, its memory."""

from __future__ import annotations

import base64
import gc
import time
import weakref
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.errors import StoreUnavailableError
from memfs.stores.s3 import FORMER_COUNT_MAX, S3Store
from memfs.stores.s3_bucket import CLIENT_ATTEMPTS
from memfs.stores.s3_reading import CONNECTION_AGE_MAX_S
from tests.servers.lying_s3 import Lie, LyingS3, running_lying_s3
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bucket"
DATA = b"0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[LyingS3]:
    with running_lying_s3(BUCKET) as lying:
        lying.objects["a/b"] = DATA
        yield lying


def store_of(server: LyingS3, **options: object) -> S3Store:
    return S3Store(f"s3://{BUCKET}/a", {**server.server.options, **options}, WAIT_S, 4)


async def read(store: S3Store) -> bytes:
    return await store.get_range("b", 2, 5)


@pytest.mark.parametrize(
    "options",
    [
        {"config_kwargs": {"connector_args": {"keepalive_timeout": 5}}},
        {"client_kwargs": {"verify": False}},
        {"requester_pays": True},
        {"cache_regions": True},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_options_of_s3fs_do_not_keep_from_reading(
    server: LyingS3, options: dict[str, object]
) -> None:
    store = store_of(server, **options)
    assert await read(store) == DATA[2:5]
    assert (await store.stat("b")).size == len(DATA)
    await store.aclose()


async def test_a_connection_that_may_be_forgotten_is_not_used(
    server: LyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Firewalls and balancers forget connections that nobody used for a while, some without a word.
    store = store_of(server)
    now_s = time.monotonic()
    monkeypatch.setattr("memfs.stores.s3_reading._now_s", lambda: now_s)
    ports: list[int] = []
    for pause_s in (0.0, CONNECTION_AGE_MAX_S / 2, CONNECTION_AGE_MAX_S):
        now_s += pause_s
        assert await read(store) == DATA[2:5]
        ports.append(server.ports[-1])
    assert ports[0] == ports[1] != ports[2]
    await store.aclose()


async def test_sessions_that_are_renewed_do_not_stay_in_memory(server: LyingS3) -> None:
    store = store_of(server)
    assert await read(store) == DATA[2:5]
    seen: list[weakref.ref[Any]] = []

    def renew() -> None:
        with store._reconnecting:
            store._connect_anew()
        seen.append(weakref.ref(store._fs.session))

    count = 2 * FORMER_COUNT_MAX
    for _ in range(count):
        await trio.to_thread.run_sync(renew)
        assert await read(store) == DATA[2:5]
    gc.collect()
    left = sum(each() is not None for each in seen)
    assert left <= FORMER_COUNT_MAX + 1
    await store.aclose()


@pytest.mark.parametrize("times", [1, 9])
async def test_a_range_that_its_checksum_does_not_fit_is_asked_for_again(times: int) -> None:
    sent = DATA[2:5]
    checksum = base64.b64encode(zlib.crc32(sent).to_bytes(4)).decode()
    with running_lying_s3(BUCKET) as server:
        server.objects["a/b"] = DATA
        server.told_of["a/b"] = {"x-amz-checksum-crc32": checksum}
        store = store_of(server)
        server.lie("GET", Lie.FLIP, times)
        if times == 1:
            assert await read(store) == sent
        else:
            # Not for good: another attempt, a moment later, may go well.
            with pytest.raises(StoreUnavailableError, match="checksum"):
                await read(store)
        assert server.counts["GET"] == CLIENT_ATTEMPTS
        await store.aclose()
