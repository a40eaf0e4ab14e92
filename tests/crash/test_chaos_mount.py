"""Chaos on a mount: programs write while the store stops and goes on, and the daemon is killed."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.crash.test_daemon_kill import check_promises
from tests.crash.writers import Log, writing
from tests.mounting import run_memfs
from tests.servers.seaweedfs import find_weed, make_bucket

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.servers.seaweedfs import S3Server

pytestmark = pytest.mark.skipif(find_weed() is None, reason="SeaweedFS is not installed")

BUCKET = "chaos"
KILL_COUNT = 4
WRITER_COUNT = 3
STEPS_MAX = 60
PAUSES_MAX = 3

CONFIG = """
[warm]
size = "256KiB"
[cold]
size = "1MiB"
frame = "16KiB"
hydrate_max = "64KiB"
[glacier]
url = "s3://{bucket}/{prefix}"
timeout = "2s"
[glacier.options]
endpoint_url = "{endpoint}"
key = "{key}"
secret = "{secret}"
[policy]
warm_to_cold = "0s"
pack_after = "0s"
cold_to_glacier = "0s"
interval = "10ms"
retry_min = "10ms"
retry_max = "100ms"
"""

STORE_STOPPED = (
    r"WARNING.* its (packed|remote) form can(not)? be (read|used): .*",
    r"WARNING.*s3://.*",
)


@pytest.fixture(scope="module")
def server(s3_server: S3Server) -> S3Server:
    make_bucket(s3_server, BUCKET)
    return s3_server


@pytest.mark.timeout(900)
@pytest.mark.expects_log(*STORE_STOPPED)
def test_programs_lose_nothing_while_the_store_stops_and_the_daemon_dies(
    driver: str, mount_factory: MountFactory, server: S3Server, tmp_path: Path
) -> None:
    """What was closed or fsynced is there after each kill, whatever the store was at."""
    config = CONFIG.format(
        bucket=BUCKET,
        prefix=driver,
        endpoint=server.endpoint_url,
        key=server.access_key,
        secret=server.secret_key,
    )
    mount = mount_factory(driver, config=config)
    log = Log(tmp_path / "log")
    schedule = random.Random(f"chaos {driver}")
    compared_count = 0
    for round_number in range(KILL_COUNT):
        with (
            writing(mount.root, log, WRITER_COUNT, seed=round_number) as progress,
        ):
            try:
                for _ in range(schedule.randrange(1, PAUSES_MAX)):
                    progress.wait(schedule.randrange(1, STEPS_MAX))
                    server.signal(signal.SIGSTOP)
                    progress.wait(schedule.randrange(1, WRITER_COUNT))
                    server.signal(signal.SIGCONT)
                progress.wait(schedule.randrange(1, STEPS_MAX))
                if schedule.random() < 0.5:
                    server.signal(signal.SIGSTOP)
                # The dead mount stays while they write: else they would go on below it.
                mount.kill_daemon()
            finally:
                server.signal(signal.SIGCONT)
        mount.kill()
        # The server has just been woken, on a machine that is busy with all of that.
        patient = mount.base / "patient.toml"
        patient.write_text(config.replace('timeout = "2s"', 'timeout = "60s"'))
        run_memfs("fsck", "-c", patient, mount.state)
        mount.start()
        mount.check_log(STORE_STOPPED)
        compared_count += check_promises(mount.root, log)
    assert compared_count > KILL_COUNT
    run_memfs("umount", mount.root)
    run_memfs("fsck", "--verify", "-c", mount.base / "config.toml", mount.state)
    mount.start()
    check_promises(mount.root, log)
    for path in mount.root.iterdir():
        # fsck at the end of the test is told of no object store.
        path.unlink()
