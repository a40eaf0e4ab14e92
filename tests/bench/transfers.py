"""Transfers through the store against the bare client: `python -m tests.bench.transfers`.

Invariant: both move the same bytes to and from the same server within the same minutes, in turns;
a ratio divides the medians of one run. The server and both clients share one machine, so that the
rates say nothing of a network; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import s3fs
import trio

from memfs.config import GlacierConfig
from memfs.stores.remote import open_remote_store
from tests.bench.samples import Samples
from tests.servers.moto import running_moto
from tests.servers.seaweedfs import running_seaweedfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.stores.store import RemoteStore
    from tests.servers.seaweedfs import S3Server

BUCKET = "bench"
MIB = 1 << 20

SERVERS = {"seaweedfs": running_seaweedfs, "moto": running_moto}


async def measure(server: S3Server, size: int, round_count: int, directory: Path) -> Samples:
    """Return MiB/s of `put` and `get`, by `memfs` and by the `bare` client.

    Args:
        server: With the bucket.
        size: Bytes of the object.
        round_count: Samples of each.
        directory: With room for two files of that size.
    """
    samples = Samples()
    source, target = directory / "source", directory / "target"
    with source.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    url = f"s3://{BUCKET}/memfs"
    store = open_remote_store(GlacierConfig(url=url, options=server.options), directory)
    bare = _bare_client(server)
    path = f"{BUCKET}/bare/object"

    async def timed(metric: str, place: str, call: Callable[[], Awaitable[object]]) -> None:
        begin_s = time.perf_counter()
        await call()
        samples.add(metric, place, size / MIB / (time.perf_counter() - begin_s))

    def bare_put() -> Awaitable[object]:
        return trio.to_thread.run_sync(bare.put_file, str(source), path)

    def bare_get() -> Awaitable[object]:
        return trio.to_thread.run_sync(bare.get_file, path, str(target))

    for number in range(round_count):
        turns = [("memfs", _memfs(store, source, target)), ("bare", (bare_put, bare_get))]
        # Whoever comes second finds the server's memory as the first has left it.
        for place, (put, get) in turns if number % 2 else reversed(turns):
            await timed("put", place, put)
            await timed("get", place, get)
            assert target.stat().st_size == size
            target.unlink()
    await store.aclose()
    return samples


def _memfs(
    store: RemoteStore, source: Path, target: Path
) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]:
    return lambda: store.put_file("object", source), lambda: store.get_file("object", target)


def _bare_client(server: S3Server) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key=server.access_key,
        secret=server.secret_key,
        client_kwargs={"endpoint_url": server.endpoint_url, "region_name": "us-east-1"},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def main() -> None:
    """Measure, and print medians and ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", choices=SERVERS, default="seaweedfs")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="memfs-transfers-") as directory,
        SERVERS[options.server](BUCKET) as server,
    ):
        samples = trio.run(measure, server, options.size_mib * MIB, options.rounds, Path(directory))
    answer: dict[str, object] = {"size_mib": options.size_mib, "rounds": options.rounds}
    for metric in ("put", "get"):
        for place in ("memfs", "bare"):
            summary = samples.summary(metric, place)
            assert summary is not None
            answer[f"{metric}_{place}_mib_s"] = {
                "median": round(summary.median, 1),
                "min": round(summary.minimum, 1),
                "max": round(summary.maximum, 1),
            }
        ratio = samples.ratio(metric, "memfs", "bare")
        assert ratio is not None
        answer[f"{metric}_ratio"] = round(ratio, 2)
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
