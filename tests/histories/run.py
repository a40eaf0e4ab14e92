"""A long history of programs on several mounts of one directory, with faults at random.

Run: python -m tests.histories.run [--minutes 30] [--seed N] [--readers 2] [--driver NAME]

Has programs work on a node that writes and on nodes that read, and judges what they have seen.
Exits with 1 if that is not what close-to-open promises. Needs root.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.histories.scene import Scene
from tests.servers.postgresql import running_postgresql

LIMIT_S = 10
"""Ends all waits, as by default."""


def main() -> int:
    """Run it; returns the status to exit with."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--driver", default="kernel", choices=("kernel", "pyfuse3"))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    rng = random.Random(arguments.seed)
    begin_s = time.monotonic()
    end_s = begin_s + 60 * arguments.minutes
    with (
        tempfile.TemporaryDirectory(prefix="memfs-histories-") as directory,
        running_postgresql() as server,
        server.database() as database,
    ):
        base = Path(directory)
        base.chmod(0o755)
        scene = Scene(
            base,
            database,
            arguments.seed,
            readers=arguments.readers,
            driver=arguments.driver,
            limit_s=LIMIT_S,
        )
        fault_count = 0
        with scene.running():
            while time.monotonic() < end_s:
                names = [*scene.faults]
                word = rng.choice(sorted({name.split()[0] for name in names}))
                chosen = rng.choice([name for name in names if name.split()[0] == word])
                print(f"{time.monotonic() - begin_s:.0f} s: {chosen}", flush=True)
                scene.suffer([chosen])
                fault_count += 1
        judge = scene.judge()
        violations = judge.run()
    for violation in violations[:50]:
        print(violation)
    print(
        f"{judge.observed_count} results of {fault_count} faults' time compared, "
        f"{judge.error_count} errors with a reason, {len(violations)} violations"
    )
    return bool(violations)


if __name__ == "__main__":
    sys.exit(main())
