"""A server that sends a byte now and then keeps nobody waiting, and no thread either."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import StoreUnavailableError
from memfs.stores.azure import AzureStore
from memfs.stores.gcs import GcsStore
from memfs.stores.s3 import S3Store
from memfs.stores.web import WebStore
from tests.servers.azurite import ACCOUNT, KEY
from tests.servers.dripping import SIZE, DrippingServer, running_dripping_server
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.objects import FsspecStore

THREADS = 2


def s3_store(server: DrippingServer, timeout_s: float) -> FsspecStore:
    options = {"endpoint_url": server.url, "key": "key", "secret": "secret", "region": "us-east-1"}
    return S3Store("s3://bucket/a", options, timeout_s, THREADS)


def gcs_store(server: DrippingServer, timeout_s: float) -> FsspecStore:
    options = {"endpoint_url": server.url, "token": "anon", "project": "tests"}
    return GcsStore("gs://bucket/a", options, timeout_s, THREADS)


def azure_store(server: DrippingServer, timeout_s: float) -> FsspecStore:
    text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
    options = {"connection_string": f"{text}BlobEndpoint={server.url}/{ACCOUNT};"}
    return AzureStore("abfs://bucket/a", options, timeout_s, THREADS)


def http_store(server: DrippingServer, timeout_s: float) -> FsspecStore:
    return WebStore(f"{server.url}/a", {}, timeout_s, THREADS)


STORES = {"s3": s3_store, "gcs": gcs_store, "azure": azure_store, "http": http_store}


async def has_ended(store: FsspecStore, server: DrippingServer) -> None:
    """Return when no thread of a store is at work, and no connection is left; it drips on."""
    wanted = {"threads": 0, "answers": 0}

    def now() -> dict[str, float]:
        return {"threads": store._calls._limiter.borrowed_tokens, "answers": server.open_count}

    await trio.to_thread.run_sync(wait_for, lambda: now() == wanted, now)
    assert not server.stopped.is_set()


async def until_dripping(server: DrippingServer) -> None:
    await trio.to_thread.run_sync(wait_for, lambda: server.drip_count > 1, "nobody has asked")


@pytest.mark.parametrize("in_head", [False, True], ids=["bytes", "head"])
@pytest.mark.parametrize("kind", STORES)
async def test_a_read_that_nobody_waits_for_ends(kind: str, in_head: bool) -> None:
    with running_dripping_server(in_head=in_head) as server:
        store = STORES[kind](server, WAIT_S)
        async with trio.open_nursery() as nursery:
            for _ in range(THREADS):
                nursery.start_soon(store.get_range, "b", 0, SIZE)
            await until_dripping(server)
            nursery.cancel_scope.cancel()
        await has_ended(store, server)
        await store.aclose()


async def test_a_read_has_a_deadline_and_leaves_no_thread_behind() -> None:
    with running_dripping_server() as server:
        store = s3_store(server, 1.0)
        for _ in range(THREADS + 1):
            with pytest.raises(StoreUnavailableError, match="get b: no answer within 1 s"):
                await store.get_range("b", 0, SIZE)
            await has_ended(store, server)
        await store.aclose()


@pytest.mark.parametrize("kind", ["s3", "gcs", "azure"])
async def test_a_question_that_nobody_waits_for_ends(kind: str) -> None:
    with running_dripping_server(in_head=True) as server:
        store = STORES[kind](server, WAIT_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.stat, "b")
            await until_dripping(server)
            nursery.cancel_scope.cancel()
        await has_ended(store, server)
        await store.aclose()


@pytest.mark.parametrize("kind", ["s3", "gcs", "azure"])
async def test_an_upload_that_nobody_waits_for_ends_after_a_while(
    kind: str, tmp_path: Path
) -> None:
    """Its time-out later: the store may be about to say that it has all of it."""
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    with running_dripping_server(in_head=True) as server:
        store = STORES[kind](server, 3.0)

        async def put() -> None:
            # On a busy machine it is late before the server is asked.
            with contextlib.suppress(StoreUnavailableError):
                await store.put_file("b", source)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await until_dripping(server)
            nursery.cancel_scope.cancel()
        await has_ended(store, server)
        await store.aclose()
