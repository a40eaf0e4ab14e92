"""Uploads in parts that the end of the daemon cuts off: nothing of them stays in the bucket."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.servers.seaweedfs import find_weed, make_bucket
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MountFactory
    from tests.servers.seaweedfs import S3Server

pytestmark = pytest.mark.skipif(find_weed() is None, reason="SeaweedFS is not installed")

BUCKET = "unfinished"
MIB = 1 << 20

CONFIG = """
[warm]
size = "0"
[cold]
codec = "none"
[glacier]
url = "s3://{bucket}/of-{how}"
codec = "none"
[glacier.options]
endpoint_url = "{server.endpoint_url}"
key = "{server.access_key}"
secret = "{server.secret_key}"
[quotas]
upload_rate = "32MiB"
[policy]
interval = "50ms"
retry_min = "100ms"
retry_max = "500ms"
"""


@pytest.fixture(scope="module")
def server(s3_server: S3Server) -> S3Server:
    make_bucket(s3_server, BUCKET)
    return s3_server


@pytest.fixture(scope="module")
def uploads_below(server: S3Server) -> Iterator[Callable[[str], list[str]]]:
    """By one client: to make one takes as long as an upload, on a busy machine."""
    with contextlib.closing(server.client()) as client:

        def ask(prefix: str) -> list[str]:
            answer = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
            return [each["Key"] for each in answer.get("Uploads", ())]

        yield ask


@pytest.mark.any_driver
@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "umount"])
def test_an_upload_that_was_cut_off_leaves_no_parts(
    driver: str,
    mount_factory: MountFactory,
    server: S3Server,
    uploads_below: Callable[[str], list[str]],
    how: str,
) -> None:
    """They would be paid for, for ever; the next mount removes them by the record of the move."""
    place = f"{how}-{driver}"
    mount = mount_factory(driver, config=CONFIG.format(bucket=BUCKET, server=server, how=place))

    def uploads() -> list[str]:
        return uploads_below(f"of-{place}/")

    path = mount.root / "file"
    with path.open("wb") as file:
        for number in range(64):
            file.write(random.Random(number).randbytes(MIB))
    os.setxattr(path, "user.memfs.tier", b"glacier")
    wait_for(uploads, lambda: os.getxattr(path, "user.memfs.why").decode())
    if how == "kill":
        mount.kill_daemon()
        assert uploads()
    else:
        mount.stop()
    mount.start()
    # Its own new upload comes and goes as well.
    wait_for(
        lambda: os.getxattr(path, "user.memfs.tier") == b"glacier",
        lambda: os.getxattr(path, "user.memfs.why"),
    )
    wait_for(lambda: not uploads(), uploads)
    path.unlink()
