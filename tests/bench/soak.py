"""Hours in minutes: what a mount takes for itself under mixed load: `python -m tests.bench.soak`.

Invariant: the load is of one kind from begin to end, with as many files at the end as after the
first minute, so that what grows on is the daemon's own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests import scratch
from tests.bench.machine import Machine
from tests.mounting import Mount
from tests.servers.moto import running_moto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.synchronize import Event

ANONYMOUS_MB_MAX = 150.0
"""What the daemon may take for itself, as docs/internals/benchmarks.md promises."""
STEADY_S = 120.0
"""From the third minute on it is to be flat."""
GROWTH_MAX = 1.1
"""The last quarter's median of anonymous memory over that of the first steady quarter."""

FILES_A_DIRECTORY = 200
INODE_COUNT = 63_000
"""How many files and directories live at a time, as where the growth was found."""
SIZES = (100, 4096, 20_000, 300_000)
TIER_NAME = "user.memfs.tier"
BUCKET = "soak"


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The daemon at one moment."""

    second: float
    """Since the load began."""
    anonymous_mb: float
    """RssAnon (proc_pid_status(5)), 1e6 bytes, without what is locked of files."""
    descriptor_count: int
    cpu_s: float
    """Processor time since it was started."""
    done_count: int
    """Files made by all workers."""


def work(root: Path, number: int, directory_count: int, stop: Event, done: list[int]) -> None:
    """Make files in so many directories; then make, read, pin, demote and remove until the stop."""
    choices = random.Random(number)
    directories: list[Path] = []
    noise = choices.randbytes(max(SIZES))
    while not stop.is_set():
        directory = root / f"{number}-{done[number]}"
        directory.mkdir()
        directories.append(directory)
        for index in range(FILES_A_DIRECTORY):
            size = choices.choices(SIZES, (4, 4, 2, 1))[0]
            (directory / f"{index:04}").write_bytes(noise[:size])
        done[number] += FILES_A_DIRECTORY
        if len(directories) < directory_count:
            continue
        for _ in range(FILES_A_DIRECTORY):
            chosen = choices.choice(directories) / f"{choices.randrange(FILES_A_DIRECTORY):04}"
            chosen.read_bytes()
            if choices.random() < 0.3:
                tier = choices.choice((b"glacier", b"glacier", b"warm", b"cold"))
                with contextlib.suppress(OSError):  # no room in RAM for now
                    os.setxattr(chosen, TIER_NAME, tier)
        shutil.rmtree(directories.pop(0))


@contextlib.contextmanager
def loaded(root: Path, worker_count: int, inode_count: int) -> Iterator[list[int]]:
    """Run workers beside the block; yields how many files each has made.

    The block begins when there are `inode_count` inodes, which is how many there are at its end.
    """
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    directory_count = max(1, round(inode_count / worker_count / (FILES_A_DIRECTORY + 1)))
    with multiprocessing.Manager() as manager:
        done = manager.list([0] * worker_count)
        workers = [
            context.Process(target=work, args=(root, number, directory_count, stop, done))
            for number in range(worker_count)
        ]
        for worker in workers:
            worker.daemon = True
            worker.start()
        try:
            while min(done) < directory_count * FILES_A_DIRECTORY:
                time.sleep(0.1)
                assert all(worker.is_alive() for worker in workers), "a worker has failed"
            yield done  # type: ignore[misc]  # a proxy that reads like a list
        finally:
            stop.set()
            for worker in workers:
                worker.join()


def read_daemon(pid: int, begin_s: float, done: list[int]) -> Reading:
    """Look at the daemon."""
    process = Path(f"/proc/{pid}")
    fields = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    times = (process / "stat").read_text().rpartition(")")[2].split()
    return Reading(
        second=round(time.monotonic() - begin_s, 1),
        anonymous_mb=round(int(fields["RssAnon"].split()[0]) * 1024 / 1e6, 1),
        descriptor_count=len(list((process / "fd").iterdir())),
        cpu_s=round((int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"), 1),
        done_count=sum(done),
    )


def soak(
    base: Path, config: str, duration_s: float, worker_count: int, inode_count: int
) -> list[Reading]:
    """Load a mount and look at it every few seconds; prints each look."""
    mount = Mount(base, "kernel", config)
    mount.start()
    try:
        [pid] = mount.daemon_pids()
        readings = []
        print("second  anonymous MB  descriptors  CPU s  files", flush=True)
        with loaded(mount.root, worker_count, inode_count) as done:
            begin_s = time.monotonic()
            while time.monotonic() - begin_s < duration_s:
                time.sleep(duration_s / 40)
                reading = read_daemon(pid, begin_s, done)
                readings.append(reading)
                print(
                    f"{reading.second:6.0f}  {reading.anonymous_mb:12.1f}"
                    f"  {reading.descriptor_count:11}  {reading.cpu_s:5.0f}  {reading.done_count}",
                    flush=True,
                )
        return readings
    finally:
        mount.stop()


def judge(readings: list[Reading], steady_s: float = STEADY_S) -> dict[str, object]:
    """Say whether memory stayed within its bound, and was flat once it was steady."""
    steady = [each.anonymous_mb for each in readings if each.second >= steady_s]
    quarter = max(1, len(steady) // 4)
    growth = None
    if steady:
        growth = round(_median(steady[-quarter:]) / _median(steady[:quarter]), 2)
    most = max(each.anonymous_mb for each in readings)
    return {
        "most_mb": most,
        "growth": growth,
        "descriptors": max(each.descriptor_count for each in readings),
        "met": most <= ANONYMOUS_MB_MAX and (growth is None or growth <= GROWTH_MAX),
    }


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def configuration(endpoint: str | None) -> str:
    """The mount: RAM for a part of the files, and a store."""
    if endpoint is None:
        return '[warm]\nsize = "256MiB"\n'
    return f"""
[warm]
size = "256MiB"
[glacier]
url = "s3://{BUCKET}/soak"
[glacier.options]
endpoint_url = "{endpoint}"
key = "key"
secret = "secret"
region = "us-east-1"
"""


def main() -> None:
    """Soak, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--inodes", type=int, default=INODE_COUNT, help="how many live at a time")
    parser.add_argument("--s3", action="store_true", help="an S3 server as the store")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with scratch.workspace(arguments.directory) as workspace:
        base = workspace.directory("soak")
        with contextlib.ExitStack() as stack:
            endpoint = None
            if arguments.s3:
                endpoint = stack.enter_context(running_moto(BUCKET)).endpoint_url
            seconds = arguments.minutes * 60
            settings = configuration(endpoint), seconds, arguments.workers, arguments.inodes
            readings = soak(base, *settings)
        result = {
            "machine": dataclasses.asdict(Machine.here(base)),
            **judge(readings),
            "readings": [dataclasses.asdict(each) for each in readings],
        }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("most_mb", "growth", "descriptors", "met")}))


if __name__ == "__main__":
    main()
