"""Transfers through the store against the bare client: `python -m tests.bench.transfers`.

Invariant: both move the same bytes to and from the same server within the same minutes, in turns;
a ratio divides the medians of one run. The server and both clients share one machine, so that the
rates say nothing of a network; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import s3fs
import trio

from memfs.codecs.registry import get_codec
from memfs.config import GlacierConfig
from memfs.moves.batching import upload_batch
from memfs.moves.uploading import upload
from memfs.placement.batcher import FILES_A_BATCH_MAX
from memfs.stores.packing import pack_file
from memfs.stores.reading import FrameReader
from memfs.stores.remote import open_remote_store
from memfs.types import CodecSpec
from tests import scratch
from tests.bench.samples import Samples
from tests.moving import State
from tests.servers.moto import running_moto
from tests.servers.seaweedfs import running_seaweedfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo
    from tests.servers.seaweedfs import S3Server

BUCKET = "bench"
MIB = 1 << 20
FRAME_BYTES = 256 << 10

SERVERS = {"seaweedfs": running_seaweedfs, "moto": running_moto}


async def measure(server: S3Server, size: int, round_count: int, directory: Path) -> Samples:
    """Return MiB/s of `put` and `get`, by `memfs` and by the `bare` client.

    memfs stores a container and fetches it as a hydration does: by ranges, decoded and checked on
    the way. It is not compressed, so that both move the same bytes.

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
    container = directory / "container"
    with container.open("wb") as file:
        pack_file(source, file.fileno(), get_codec(CodecSpec("none", None)), FRAME_BYTES)
    store = _open_store(server, directory)
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
        turns = [("memfs", _memfs(store, container, target)), ("bare", (bare_put, bare_get))]
        # The second one finds the server's memory as the first one has left it.
        for place, (put, get) in turns if number % 2 else reversed(turns):
            await timed("put", place, put)
            await timed("get", place, get)
            assert target.stat().st_size == size
            target.unlink()
    await store.aclose()
    return samples


async def measure_small(
    server: S3Server, file_count: int, round_count: int, directory: Path
) -> Samples:
    """Return files/s uploaded by moves, verified and published: `batched`, and one by one.

    Args:
        server: With the bucket.
        file_count: Files of 4 KiB in a batch; a tenth of it go one by one.
        round_count: Samples of each.
        directory: For the state.
    """
    samples = Samples()
    state = State(directory / "state")
    state.parts.remote = _open_store(server, directory)
    single_count = max(1, file_count // 10)

    async def create(prefix: str, count: int) -> list[InodeNo]:
        return [await state.create(f"{prefix}-{at}", os.urandom(4096)) for at in range(count)]

    async def upload_singly(inos: list[InodeNo]) -> None:
        left = iter(inos)

        async def work() -> None:
            for ino in left:
                await upload(state.parts, ino)

        async with trio.open_nursery() as nursery:
            for _ in range(GlacierConfig().transfer_count_max):
                nursery.start_soon(work)

    for number in range(round_count):
        batched, single = (
            await create(f"b{number}", file_count),
            await create(f"s{number}", single_count),
        )
        begin_s = time.perf_counter()
        for start in range(0, file_count, FILES_A_BATCH_MAX):
            await upload_batch(state.parts, batched[start : start + FILES_A_BATCH_MAX])
        samples.add("small files", "batched", file_count / (time.perf_counter() - begin_s))
        begin_s = time.perf_counter()
        await upload_singly(single)
        samples.add("small files", "single", single_count / (time.perf_counter() - begin_s))
    await state.parts.remote.aclose()
    state.close()
    return samples


def _open_store(server: S3Server, directory: Path) -> RemoteStore:
    config = GlacierConfig(url=f"s3://{BUCKET}/memfs", options=server.options)
    return open_remote_store(config, directory)


def _memfs(
    store: RemoteStore, container: Path, target: Path
) -> tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]:
    stored_bytes = container.stat().st_size

    async def get() -> None:
        read_range = functools.partial(store.get_range, "object")
        reader = await FrameReader.open(read_range, stored_bytes, "object")
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        try:
            await reader.unpack_to(fd)
        finally:
            os.close(fd)

    return lambda: store.put_file("object", container), get


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
    parser.add_argument("--files", type=int, default=10_000, help="small files in batches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", choices=SERVERS, default="seaweedfs")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with (
        scratch.workspace(options.directory) as workspace,
        SERVERS[options.server](BUCKET) as server,
    ):
        base = workspace.directory("transfers")
        large = trio.run(measure, server, options.size_mib * MIB, options.rounds, base)
        small = trio.run(measure_small, server, options.files, options.rounds, base)
    answer: dict[str, object] = {
        "size_mib": options.size_mib,
        "files": options.files,
        "rounds": options.rounds,
    }
    answer |= _describe(large, "put", ("memfs", "bare"), "mib_s")
    answer |= _describe(large, "get", ("memfs", "bare"), "mib_s")
    answer |= _describe(small, "small files", ("batched", "single"), "files_s")
    print(json.dumps(answer, indent=1))


def _describe(
    samples: Samples, metric: str, places: tuple[str, str], unit: str
) -> dict[str, object]:
    name = metric.replace(" ", "_")
    answer: dict[str, object] = {}
    for place in places:
        summary = samples.summary(metric, place)
        assert summary is not None
        answer[f"{name}_{place}_{unit}"] = {
            "median": round(summary.median, 1),
            "min": round(summary.minimum, 1),
            "max": round(summary.maximum, 1),
        }
    ratio = samples.ratio(metric, *places)
    assert ratio is not None
    answer[f"{name}_ratio"] = round(ratio, 2)
    return answer


if __name__ == "__main__":
    main()
