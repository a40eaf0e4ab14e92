"""SIGKILL of the daemon under writing programs: the next mount has all that was promised."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.crash.writers import Log, pattern, writing
from tests.mounting import run_memfs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory

KILL_COUNT = 8
WRITER_COUNT = 3
STEPS_MAX = 120

BUSY_MOVER = """
[warm]
size = "256KiB"
[cold]
size = "1MiB"
frame = "16KiB"
hydrate_max = "64KiB"
[policy]
warm_to_cold = "0s"
pack_after = "0s"
cold_to_glacier = "{to_glacier}"
interval = "10ms"
retry_min = "10ms"
retry_max = "20ms"
"""
"""Every closed file is packed, uploaded and dropped at once, beside the programs."""


def check_promises(root: Path, log: Log) -> int:
    """Compare every file with what the log says; returns how many were compared."""
    promises = log.promises()
    for name, promise in promises.items():
        path = root / name
        if promise is None:
            assert not path.exists(), f"{name} was removed and is back"
        else:
            assert pattern(promise) == path.read_bytes(), f"{name} is not as it was closed"
    return len(promises)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("to_glacier", ["0s", "30d"])
def test_killing_the_daemon_loses_nothing_that_was_closed(
    driver: str, to_glacier: str, mount_factory: MountFactory, tmp_path: Path
) -> None:
    """The kernel keeps what was written to a raw file; names and forms were committed before."""
    mount = mount_factory(driver, config=BUSY_MOVER.format(to_glacier=to_glacier))
    log = Log(tmp_path / "log")
    schedule = random.Random(f"{driver} {to_glacier}")
    compared_count = 0
    for round_number in range(KILL_COUNT):
        with (
            writing(mount.root, log, WRITER_COUNT, seed=round_number) as progress,
        ):
            progress.wait(schedule.randrange(1, STEPS_MAX))
            # The dead mount stays while they write: else they would go on below it.
            mount.kill_daemon()
        mount.kill()
        run_memfs("fsck", mount.state)
        mount.start()
        mount.check_log()
        compared_count += check_promises(mount.root, log)
    assert compared_count > KILL_COUNT
    run_memfs("umount", mount.root)
    run_memfs("fsck", "--verify", mount.state)
    mount.start()
    check_promises(mount.root, log)
