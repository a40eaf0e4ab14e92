"""Loading tensors, way by way: `python -m tests.bench.tensors`.

Invariant: all ways load the same model in the same minutes, in turns; a ratio divides the medians
of one run. There is no GPU here: *hot* is the CPU twin, and copying all bytes into memory of the
process's own stands for the copy to a device.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

import memfs.torch as mt
from memfs.torch.borrowing import wait_freed
from tests import scratch
from tests.bench.machine import Machine
from tests.mounting import Mount
from tests.tiers.tiering import tier_status
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
TENSOR_COUNT = 160

CONFIG = """
[hot]
devices = ["cpu"]
size = "4GiB"
reserve = 0

[warm]
size = 0
"""
"""Without a RAM tier, so that the file can leave the page cache."""


def model(size: int) -> dict[str, torch.Tensor]:
    """A model in bfloat16 of about that many bytes, in tensors of several sizes."""
    weights = torch.tensor([1 + number % 8 for number in range(TENSOR_COUNT)])
    counts = (weights * (size // 2) // int(weights.sum())).tolist()
    return {
        f"layers.{number}.weight": torch.full((count // 1024, 1024), number, dtype=torch.bfloat16)
        for number, count in enumerate(counts)
    }


def drop_caches() -> None:
    """Have the next read of any file come from the disk; needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")


def measure(
    way: Callable[[], dict[str, torch.Tensor]], target: torch.Tensor
) -> tuple[float, float]:
    """Return the seconds until all tensors are there, and until all bytes are copied as well."""
    gc.collect()
    # Unmapping a gibibyte takes 20 ms, and the kernel's lock of the address space as long.
    wait_freed()
    begin_s = time.perf_counter()
    tensors = way()
    attached_s = time.perf_counter()
    at = 0
    for tensor in tensors.values():
        flat = tensor.view(torch.uint8).reshape(-1)
        target[at : at + len(flat)].copy_(flat)
        at += len(flat)
    return attached_s - begin_s, time.perf_counter() - begin_s


def run(size: int, round_count: int, directory: Path, tmpfs: Path) -> dict[str, Any]:
    """Return medians, least and most of each way."""
    tensors = model(size)
    target = torch.empty(size + MIB, dtype=torch.uint8)
    (directory / "mounted").mkdir()
    mount = Mount(directory / "mounted", "kernel", CONFIG)
    mount.start()
    try:
        wait_for(lambda: tier_status(mount, "hot")["note"] is None, "the hot server", 60)
        cold, warm = mount.root / "model.safetensors", mount.root / "hot.safetensors"
        pickled, native = mount.root / "model.pt", directory / "native.safetensors"
        shared = tmpfs / "model.safetensors"
        for path in (cold, warm, native, shared):
            mt.save(tensors, path, fsync=True)
        torch.save(tensors, pickled)
        mt.pin(warm)
        mt.wait_hot(warm, 120)
        del tensors
        load_file = safetensors.torch.load_file
        ways: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
            "memfs.torch.load, hot twin": lambda: mt.load(warm, share="require"),
            "memfs.torch.load, through the mount": lambda: mt.load(cold),
            "safetensors load_file, through the mount": lambda: load_file(cold),
            "torch.load(mmap=True), through the mount": lambda: torch.load(pickled, mmap=True),
            "safetensors load_file, ext4": lambda: load_file(native),
            "safetensors load_file, tmpfs": lambda: load_file(shared),
        }
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(round_count + 1):
            for name, way in ways.items():
                found = measure(way, target)
                # The first round fills page tables and caches of the libraries.
                if number:
                    samples[name].append(found)
        first: dict[str, list[float]] = {"memfs.torch.load, through the mount": [], "ext4": []}
        for _ in range(round_count):
            for name, way in (
                ("memfs.torch.load, through the mount", lambda: mt.load(cold)),
                ("ext4", lambda: load_file(native)),
            ):
                wait_freed()
                drop_caches()
                first[name].append(measure(way, target)[1])
    finally:
        mount.stop()
    return {
        "size_bytes": size,
        "machine": dataclasses.asdict(Machine.here(directory)),
        "attach_ms": {name: _spread([a for a, _ in found]) for name, found in samples.items()},
        "copied_ms": {name: _spread([b for _, b in found]) for name, found in samples.items()},
        "from_disk_ms": {name: _spread(found) for name, found in first.items()},
    }


def _spread(seconds: list[float]) -> list[float]:
    """Median, least and most, in milliseconds."""
    found = (statistics.median(seconds), min(seconds), max(seconds))
    return [round(1000 * each, 2) for each in found]


def as_markdown(result: dict[str, Any]) -> str:
    """Return the result as the table of docs/guide/tensors.md."""
    base = result["attach_ms"]["safetensors load_file, tmpfs"][0]
    copied = result["copied_ms"]["safetensors load_file, ext4"][0]
    lines = [
        "| way | all tensors, ms | of tmpfs | all bytes copied, ms | rate of ext4 |",
        "|---|---|---|---|---|",
    ]
    for name, (median, least, most) in result["attach_ms"].items():
        also = result["copied_ms"][name]
        lines.append(
            f"| {name} | {median:.2f} ({least:.2f}..{most:.2f}) | {median / base:.2f} | "
            f"{also[0]:.0f} ({also[1]:.0f}..{also[2]:.0f}) | {copied / also[0]:.2f} |"
        )
    ours, theirs = result["from_disk_ms"].values()
    shown = [f"{each[0]:.0f} ms ({each[1]:.0f}..{each[2]:.0f})" for each in (ours, theirs)]
    lines.append(
        f"\nFirst touch, from the disk: through the mount {shown[0]}, ext4 {shown[1]}, so "
        f"{theirs[0] / ours[0]:.2f} of its rate."
    )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with scratch.workspace(Path("/var/tmp")) as workspace:
        # Unmounted with all else below.
        tmpfs = workspace.directory("tmpfs")
        subprocess.run(["mount", "-t", "tmpfs", "memfs-bench", tmpfs], check=True)
        size = arguments.size_mib * MIB
        result = run(size, arguments.rounds, workspace.directory("tensors"), tmpfs)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(as_markdown(result))


if __name__ == "__main__":
    main()
