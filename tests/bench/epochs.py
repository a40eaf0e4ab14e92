"""Shuffled epochs over a slow store, with and without hints: `python -m tests.bench.epochs`.

Invariant: each epoch reads every file once, whole, in the order of a seeded sampler; a hit is a
file that was on the local disk when the loop asked for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

import memfs.torch as mt
from memfs.simulation.comparison import Capacities, compare
from memfs.traces.trace import Event, Trace
from tests import scratch
from tests.bench.throttle import throttled
from tests.mounting import Mount
from tests.servers.moto import running_moto
from tests.tiers.tiering import residence, send, told
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BUCKET = "epochs"
MIB = 1 << 20
SHARE = 0.3
"""The part of the data that the local disk and RAM take."""


class Setting(NamedTuple):
    """What is measured."""

    file_count: int
    file_bytes: int
    step_s: float
    """What the training does with each file, without the disk or the store."""
    store_bytes_per_s: float
    epoch_count: int

    @property
    def data_bytes(self) -> int:
        """All files together."""
        return self.file_count * self.file_bytes

    def orders(self) -> list[list[int]]:
        """The order of each epoch."""
        generator = torch.Generator().manual_seed(11)
        sampler = RandomSampler(range(self.file_count), generator=generator)
        return [list(sampler) for _ in range(self.epoch_count)]


def config(setting: Setting, port: int) -> str:
    """The mount: a store behind the proxy, a disk and RAM for a share of the data."""
    # The mover keeps the disk below its high watermark.
    size = int(setting.data_bytes * SHARE / 0.9)
    return f"""
[warm]
size = {size}
[cold]
size = {size}
[glacier]
url = "s3://{BUCKET}/epochs"
codec = "none"
batch_file_max = 0
[glacier.options]
endpoint_url = "http://127.0.0.1:{port}"
key = "key"
secret = "secret"
region = "us-east-1"
[policy]
interval = "100ms"
"""


def train(data: mt.TensorDirectory, order: Iterable[int], setting: Setting) -> tuple[float, int]:
    """Do one epoch; returns its seconds, and how many files were on the disk when asked for."""
    begin_s, hit_count = time.perf_counter(), 0
    for index in order:
        hit_count += "raw" in residence(Path(data.paths[index])).forms
        data[index]
        time.sleep(setting.step_s)
    return time.perf_counter() - begin_s, hit_count


def simulate(setting: Setting, orders: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the hit ratios of queues without foresight, and of Belady's, in the last epochs."""
    trace = Trace(names=[str(number) for number in range(setting.file_count)])
    for order in orders:
        for index in order:
            trace.add(Event.ACCESS, index, setting.file_bytes)
    held_bytes = int(setting.data_bytes * SHARE)
    found = compare(trace, Capacities(held_bytes, None), ["lru", "s3fifo"], lambda *_: None)
    figures = (*found.figures, found.belady)
    # The first epoch misses all files whatever the policy.
    scale = len(orders) / (len(orders) - 1)
    return {each.policy: round(each.hit_ratio() * scale, 3) for each in figures}


def run(setting: Setting, directory: Path) -> dict[str, Any]:
    """Return epochs with and without hints."""
    orders = setting.orders()
    result: dict[str, Any] = {"setting": setting._asdict(), "simulated": simulate(setting, orders)}
    with running_moto(BUCKET) as server:
        port = int(server.endpoint_url.rpartition(":")[2])
        with throttled(port, setting.store_bytes_per_s) as slow:
            for name in ("without hints", "with hints"):
                base = directory / name.replace(" ", "-")
                base.mkdir()
                mount = Mount(base, "kernel", config(setting, slow))
                mount.start()
                try:
                    result[name] = _epochs(mount, setting, orders, hinted=name == "with hints")
                finally:
                    mount.stop()
    ideal_s = setting.file_count * setting.step_s
    fetched_bytes = setting.data_bytes * (1 - SHARE)
    result["bound_s"] = round(max(ideal_s, fetched_bytes / setting.store_bytes_per_s), 2)
    return result


def _epochs(
    mount: Mount, setting: Setting, orders: Sequence[Sequence[int]], *, hinted: bool
) -> list[dict[str, float]]:
    generator = torch.Generator().manual_seed(5)
    for number in range(setting.file_count):
        noise = torch.randint(
            0, 256, (setting.file_bytes - 1000,), dtype=torch.uint8, generator=generator
        )
        mt.save({"noise": noise}, mount.root / f"{number:04}.safetensors")
    paths = sorted(mount.root.iterdir())
    send("glacier", *paths)
    for path in paths:
        mt.unpin(path)
    data = mt.TensorDirectory(mount.root)
    epochs = []
    remaining = iter(orders)

    class Next:
        def __iter__(self) -> Any:  # noqa: ANN401  as samplers are
            return iter(next(remaining))

    order = mt.HintSampler(Next(), data.paths) if hinted else Next()
    for _ in orders:
        elapsed_s, hit_count = train(data, order, setting)
        epochs.append(
            {"epoch_s": round(elapsed_s, 2), "hit_ratio": round(hit_count / len(paths), 3)}
        )
    return epochs


class NearSetting(NamedTuple):
    """An epoch over files that are near already: there, hints can only cost."""

    file_count: int
    file_bytes: int
    pair_count: int
    """Epochs without hints and with, one after the other."""


def run_near(setting: NearSetting, directory: Path) -> dict[str, Any]:
    """Return files a second without hints and with, by pairs, and the median of their ratios."""
    mount = Mount(directory, "kernel")
    mount.start()
    try:
        paths = _write_small(mount.root, setting)
        generator = torch.Generator().manual_seed(11)
        plain = RandomSampler(range(setting.file_count), generator=generator)
        hinted = mt.HintSampler(plain, paths)
        # The first epoch of each is another matter: files are opened for the first time.
        pairs = [
            (_rate(plain, paths), _rate(hinted, paths)) for _ in range(setting.pair_count + 1)
        ][1:]
    finally:
        mount.stop()
    return {
        "setting": setting._asdict(),
        "pairs": [[round(rate) for rate in pair] for pair in pairs],
        "files_per_s": {
            "without hints": round(statistics.median(pair[0] for pair in pairs)),
            "with hints": round(statistics.median(pair[1] for pair in pairs)),
        },
        "ratio": round(statistics.median(with_ / without for without, with_ in pairs), 3),
    }


class _Small(Dataset[int]):
    """Reads files as most data sets do: by `open`."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> int:
        with open(self._paths[index], "rb") as file:
            return len(file.read())


def run_loader(setting: NearSetting, directory: Path, worker_count: int) -> dict[str, Any]:
    """Return seconds of a DataLoader on the state's own disk and on a mount, by pairs.

    The first pair is told apart: there, files are opened for the first time after they were
    written, while they are made durable and brought into RAM.
    """
    (directory / "native").mkdir()
    native = _write(directory / "native", setting)
    (directory / "memfs").mkdir()
    mount = Mount(directory / "memfs", "kernel")
    mount.start()
    try:
        mounted = _write(mount.root, setting)
        pairs = [
            (_loaded_s(native, worker_count), _loaded_s(mounted, worker_count))
            for _ in range(setting.pair_count + 1)
        ]
    finally:
        mount.stop()
    first, *rest = [[round(elapsed_s, 2) for elapsed_s in pair] for pair in pairs]
    return {
        "setting": setting._asdict() | {"worker_count": worker_count},
        "first_pair_s": first,
        "pairs_s": rest,
        "ratio": round(statistics.median(ours / theirs for theirs, ours in rest), 2),
    }


def _loaded_s(paths: Sequence[str], worker_count: int) -> float:
    loader = DataLoader(_Small(paths), batch_size=64, shuffle=True, num_workers=worker_count)
    begin_s = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - begin_s


def _write_small(root: Path, setting: NearSetting) -> list[str]:
    paths = _write(root, setting)
    last = [Path(path) for path in paths[-100:]]
    wait_for(lambda: all(told(path, "tier") == "warm" for path in last), "a warm tier")
    return paths


def _write(root: Path, setting: NearSetting) -> list[str]:
    content = bytes(setting.file_bytes)
    paths = [root / f"{number // 5000}" / f"{number:06}" for number in range(setting.file_count)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return [str(path) for path in paths]


def _rate(order: Iterable[int], paths: Sequence[str]) -> float:
    """Return files a second of one epoch that reads each of them."""
    begin_s = time.perf_counter()
    for index in order:
        with open(paths[index], "rb", buffering=0) as file:
            file.read()
    return len(paths) / (time.perf_counter() - begin_s)


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--file-mib", type=float, default=1.0)
    parser.add_argument("--step-ms", type=float, default=60.0)
    parser.add_argument("--store-mib-per-s", type=float, default=20.0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--near", type=int, help="only this: as many files that are near already")
    parser.add_argument("--near-bytes", type=int, default=4096)
    parser.add_argument(
        "--workers", type=int, help="with --near: a DataLoader with so many, and the bare disk"
    )
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    setting = Setting(
        arguments.files,
        int(arguments.file_mib * MIB),
        arguments.step_ms / 1000,
        arguments.store_mib_per_s * MIB,
        arguments.epochs,
    )
    with scratch.workspace(Path("/var/tmp")) as workspace:
        directory = workspace.directory("epochs")
        if arguments.near is not None:
            near = NearSetting(arguments.near, arguments.near_bytes, arguments.pairs)
            if arguments.workers is not None:
                result = run_loader(near, directory, arguments.workers)
            else:
                result = run_near(near, directory)
        else:
            result = run(setting, directory)
    text = json.dumps(result, indent=1)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
