"""Time clones and restores of trees at a mount, in processor time of the daemon a file.

Run: python -m tests.bench.copies [--count N] [--rounds N] [--base DIR] [--json]

Files have 4 KiB each, a hundred in a directory, and are sealed when a round begins. A round clones
the tree, restores it to another name, after its removal and after a write to each file, and copies
it by cp(1), which sets owner, mode and times of each file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.client.mount import Mount as Client
from tests import scratch
from tests.bench import quiet
from tests.mounting import Mount

if TYPE_CHECKING:
    from collections.abc import Callable

FILES_A_DIRECTORY = 100
CONTENT = b"memfs" * 819


class Round:
    """One after the other, at a mount that is served."""

    def __init__(self, mount: Mount, count: int) -> None:
        self._mount = mount
        self._count = count
        self._client = Client.of(mount.root)

    def run(self) -> dict[str, float]:
        """Return the processor time of the daemon by row, in us a file."""
        root, client = self._mount.root, self._client
        source = root / "source"
        self._write(source)
        client.snapshots.create("bench")
        rows = {"clone": self._time(lambda: client.clone(source, root / "clone"))}
        shutil.rmtree(root / "clone")
        rows["restore to another name"] = self._time(
            lambda: client.snapshots.restore(source, snapshot="bench", to=root / "other")
        )
        shutil.rmtree(root / "other")
        shutil.rmtree(source)
        rows["restore, removed"] = self._time(
            lambda: client.snapshots.restore(source, snapshot="bench")
        )
        self._write(source)
        rows["restore, written to"] = self._time(
            lambda: client.snapshots.restore(source, snapshot="bench")
        )
        rows["cp -a"] = self._time(
            lambda: subprocess.run(["cp", "-a", source, root / "copy"], check=True)
        )
        shutil.rmtree(root / "copy")
        client.snapshots.delete([each["name"] for each in client.snapshots.list()])
        shutil.rmtree(source)
        return rows

    def _write(self, directory: Path) -> None:
        for number in range(self._count):
            path = directory / f"{number // FILES_A_DIRECTORY}/{number}"
            if not number % FILES_A_DIRECTORY:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENT + os.urandom(1))

    def _time(self, work: Callable[[], object]) -> float:
        pids = self._mount.daemon_pids()
        quiet.await_rest(pids)
        before_ns = quiet.processor_ns(pids)
        work()
        return (quiet.processor_ns(pids) - before_ns) / 1e3 / self._count


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1500, help="files of a tree")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base", type=Path, default=Path("/dev/shm"), help="where the state is")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = []
    with scratch.workspace(options.base) as workspace:
        mount = Mount(workspace.directory("copies"), "kernel")
        mount.start()
        try:
            for _ in range(options.rounds):
                rounds.append(Round(mount, options.count).run())
                time.sleep(1)
        finally:
            mount.stop()
    figures = {name: [each[name] for each in rounds] for name in rounds[0]}
    if options.json:
        json.dump(figures, sys.stdout)
        return
    print(f"{'us of the daemon a file':30} {'median':>8} {'least':>8} {'most':>8}")
    for name, row in figures.items():
        print(f"{name:30} {statistics.median(row):8.0f} {min(row):8.0f} {max(row):8.0f}")


if __name__ == "__main__":
    main()
