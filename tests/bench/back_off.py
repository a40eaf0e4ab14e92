"""What a program notices of the mover: `python -m tests.bench.back_off`.

A program reads at random and writes in sequence on a mount, while a backlog of files leaves for the
object store: with the back-off of `policy.give_way`, without it, and without a backlog.

Invariant: the three are measured in turns within one run, each on a fresh mount of the same disk;
a ratio divides the medians of one run.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from pathlib import Path

from tests import scratch
from tests.bench.samples import Samples
from tests.mounting import Mount, run_memfs

MIB = 1 << 20
FILE_MIB = 16

CONFIG = """
[warm]
size = 0
[cold]
frame = "256KiB"
[glacier]
codec = "zstd:6"
[policy]
interval = "200ms"
give_way = {give_way}
"""

ARMS = ("no backlog", "back-off", "no back-off")
METRICS = ("reads_s", "read_p99_ms", "write_mib_s", "moved_mib")


def measure(base: Path, arm: str, options: argparse.Namespace) -> dict[str, float]:
    """Return what one run of the program reached, and how much the mover did meanwhile."""
    give_way = "false" if arm == "no back-off" else "true"
    mount = Mount(base, "auto", CONFIG.format(give_way=give_way))
    mount.start()
    try:
        backlog = mount.root / "backlog"
        backlog.mkdir()
        _fill(backlog, options.backlog_mib)
        _write(mount.root / "data", options.data_mib, random.Random(1).randbytes(MIB))
        subprocess.run(["sync", "-f", mount.state], check=True)
        if arm != "no backlog":
            run_memfs("pin", "glacier", backlog)
        answer = _run_fio(mount.root, options)
        return answer | {"moved_mib": _remote_count(mount) * FILE_MIB}
    finally:
        mount.stop()


def _fill(directory: Path, size_mib: int) -> None:
    """Write files that shrink to about a third."""
    rng = random.Random(2)
    block = bytes(rng.choices(b"abcdefgh", k=MIB))
    for number in range(size_mib // FILE_MIB):
        _write(directory / f"file-{number:03}", FILE_MIB, block)


def _write(path: Path, size_mib: int, block: bytes) -> None:
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(block)


def _run_fio(root: Path, options: argparse.Namespace) -> dict[str, float]:
    done = subprocess.run(
        [
            "fio",
            "--output-format=json",
            "--time_based",
            f"--runtime={options.seconds}",
            "--ioengine=psync",
            "--name=reads",
            f"--filename={root}/data",
            "--rw=randread",
            "--bs=4k",
            "--direct=1",
            "--name=writes",
            f"--filename={root}/written",
            "--rw=write",
            "--bs=1m",
            f"--size={options.data_mib}m",
            "--fdatasync=8",
            "--rate=,30m",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    reads, writes = json.loads(done.stdout)["jobs"]
    return {
        "reads_s": reads["read"]["iops"],
        "read_p99_ms": reads["read"]["clat_ns"]["percentile"]["99.000000"] / 1e6,
        "write_mib_s": writes["write"]["bw_bytes"] / MIB,
    }


def _remote_count(mount: Mount) -> int:
    status = json.loads(run_memfs("status", "--json", mount.root))
    [remote] = [tier for tier in status["tiers"] if tier["tier"] == "glacier"]
    return int(remote["file_count"])


def main() -> None:
    """Measure, and print medians and ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--backlog-mib", type=int, default=2048)
    parser.add_argument("--data-mib", type=int, default=512)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    samples = Samples()
    with scratch.workspace(options.directory) as workspace:
        for number in range(options.rounds):
            for arm in ARMS:
                base = workspace.directory(f"{number}-{arm.replace(' ', '-')}")
                for metric, value in measure(base, arm, options).items():
                    samples.add(metric, arm, value)
                subprocess.run(["rm", "-rf", base], check=True)
    print(json.dumps(_describe(samples), indent=1))


def _describe(samples: Samples) -> dict[str, object]:
    answer: dict[str, object] = {}
    for metric in METRICS:
        for arm in ARMS:
            summary = samples.summary(metric, arm)
            assert summary is not None
            answer[f"{metric} {arm}"] = [
                round(number, 3) for number in (summary.median, summary.minimum, summary.maximum)
            ]
    return answer


if __name__ == "__main__":
    main()
