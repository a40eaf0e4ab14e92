"""An object store that goes away: moves wait and say why, reads fail in time, nothing hangs."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.servers.seaweedfs import find_weed, make_bucket
from tests.tiers.tiering import forms_of
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.servers.seaweedfs import S3Server

pytestmark = pytest.mark.skipif(find_weed() is None, reason="SeaweedFS is not installed")

BUCKET = "dead-store"
CONTENT = bytes(random.Random(2).choices(b"abcdefgh", k=300_000))
TIMEOUT_S = 2.0
SLACK_S = 28.0
"""Beyond the configured time-out, for a loaded machine; a hang is far longer."""

CONFIG = """
[warm]
size = "0"
[cold]
frame = "64KiB"
hydrate_max = "{hydrate_max}"
[glacier]
url = "s3://{bucket}/of-test"
timeout = "{timeout}s"
[glacier.options]
endpoint_url = "{endpoint}"
key = "{key}"
secret = "{secret}"
[policy]
interval = "50ms"
retry_min = "100ms"
retry_max = "500ms"
"""

UNREACHABLE = r"WARNING.*/gone: its remote form can(not)? be (read|used): .*"


@pytest.fixture(scope="module")
def server(s3_server: S3Server) -> S3Server:
    make_bucket(s3_server, BUCKET)
    return s3_server


def pending_of(path: Path) -> dict[str, object]:
    pending: dict[str, object] = json.loads(os.getxattr(path, "user.memfs.why")).get("pending", {})
    return pending


@pytest.mark.slow
@pytest.mark.expects_log(UNREACHABLE)
@pytest.mark.parametrize("hydrate_max", ["16KiB", "1MiB"])
def test_a_store_that_does_not_answer_fails_reads_in_time_and_comes_back(
    driver: str, hydrate_max: str, mount_factory: MountFactory, server: S3Server
) -> None:
    """Every process of the server is stopped: connections open, and no answer comes."""
    mount = mount_factory(
        driver,
        config=CONFIG.format(
            hydrate_max=hydrate_max,
            bucket=BUCKET,
            timeout=TIMEOUT_S,
            endpoint=server.endpoint_url,
            key=server.access_key,
            secret=server.secret_key,
        ),
    )
    gone, local = mount.root / "gone", mount.root / "local"
    gone.write_bytes(CONTENT)
    os.setxattr(gone, "user.memfs.tier", b"glacier")
    wait_for(lambda: forms_of(gone) == ["remote"], "the file was not uploaded")
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert error_of(gone.read_bytes) == "EIO"
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
        local.write_bytes(CONTENT)
        os.setxattr(local, "user.memfs.tier", b"glacier")
        # It waits for its turn first, and for the store when that is known.
        wait_for(
            lambda: "s3://" in str(pending_of(local).get("reason")),
            lambda: pending_of(local),
        )
        assert local.read_bytes() == CONTENT
    finally:
        server.signal(signal.SIGCONT)
    wait_for(lambda: forms_of(local) == ["remote"], "the upload was not tried again")
    assert local.read_bytes() == CONTENT
    # A busy server may take longer than the time-out at first.
    wait_for(lambda: error_of(gone.read_bytes) is None, "the store is not read again")
    assert gone.read_bytes() == CONTENT
    # fsck at the end of the test is told of no object store.
    gone.unlink()
    local.unlink()
