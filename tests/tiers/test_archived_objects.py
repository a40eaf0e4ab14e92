"""Glacier in an archive class: a read starts the restore, and the file opens when that is done."""

from __future__ import annotations

import contextlib
import errno
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from memfs import MemoryManager
from memfs.client.mount import Mount
from memfs.manager.batches import BatchError
from memfs.manager.errors import ArchivedError
from tests.posix.capabilities import Capability
from tests.servers.moto import set_restore_looks
from tests.servers.seaweedfs import make_bucket
from tests.tiers.tiering import SMALL_FRAMES, compressible, pin, residence, send, told, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.seaweedfs import S3Server

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.slow]

BUCKET = "tiers"
LOOK_COUNT = 100
"""More requests for the object than two reads and the mover's looks meanwhile make."""
NEVER = 1_000_000
"""More requests than any test makes: a restore stays as it is."""


@pytest.fixture(scope="module")
def server(moto_server: S3Server) -> S3Server:
    make_bucket(moto_server, BUCKET)
    return moto_server


@pytest.fixture(scope="module")
def tier_config(server: S3Server) -> str:
    options = "\n".join(f'{name} = "{value}"' for name, value in server.options.items())
    return (
        f'{SMALL_FRAMES}\n[glacier]\nurl = "s3://{BUCKET}/SITE"\nstorage_class = "GLACIER"\n'
        f'restore_tier = "bulk"\n[glacier.options]\n{options}\n'
    )


@pytest.fixture(autouse=True)
def restores(server: S3Server) -> Iterator[None]:
    """Restores begin with the next request and then stay as they are until a test ends them."""
    set_restore_looks(server, 1)
    yield
    set_restore_looks(server, 0)


def archive(path: Path, server: S3Server, content: bytes) -> None:
    """Send a new file to the archive class."""
    path.write_bytes(content)
    send("glacier", path)
    with contextlib.closing(server.client()) as client:
        found = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    # The mark of the state is read at each mount, and is not archived.
    containers = [item for item in found if "/states/" not in item["Key"]]
    assert {item["StorageClass"] for item in containers} == {"GLACIER"}


def begin_restore(path: Path, server: S3Server) -> None:
    """Read twice: the first read asks for the restore, the second one meets it under way.

    A state of the server ends after `LOOK_COUNT` requests for the object. Those of the first state,
    in which a restore that was asked for seems to be over, have all been made before.
    """
    set_restore_looks(server, LOOK_COUNT)
    with contextlib.closing(server.client()) as client:
        for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
            for _ in range(LOOK_COUNT):
                client.head_object(Bucket=BUCKET, Key=item["Key"])
    for _ in range(2):
        with pytest.raises(OSError, match="busy") as caught:
            read(path)
        assert caught.value.errno == errno.EBUSY
    set_restore_looks(server, NEVER)


def read(path: Path) -> bytes:
    """Read a file by system calls; an error of any of them is raised as it is."""
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def pending_reason(path: Path) -> str:
    return str(why(path).get("pending", {}).get("reason", ""))


def test_a_small_file_does_not_open_until_its_object_is_restored(
    place: Path, server: S3Server
) -> None:
    """It is made local by open(2), which says EBUSY at once."""
    check_restore(place, server, 100_000)


@pytest.mark.needs(Capability.PASSTHROUGH)
def test_a_large_file_is_not_read_until_its_object_is_restored(
    place: Path, server: S3Server
) -> None:
    """It opens, and read(2) says EBUSY at once.

    Behind a page cache one failing read(2) is several requests, and so several looks at the
    restore.
    """
    check_restore(place, server, 1_000_000)


def check_restore(place: Path, server: S3Server, size: int) -> None:
    path = place / "file"
    content = compressible(size)
    archive(path, server, content)
    begin_restore(path, server)
    check_manager(place)
    reason = ""

    def is_told() -> bool:
        # The restore is looked at again and again: meanwhile the reason is another one.
        nonlocal reason
        reason = pending_reason(path)
        return "ends by" in reason

    wait_for(is_told, lambda: why(path))
    assert "storage class GLACIER" in reason
    assert "bulk" in reason
    assert "12 h" in reason
    assert told(path, "tier") == "glacier"
    set_restore_looks(server, 0)
    assert read(path) == content


def check_manager(place: Path) -> None:
    """By key, the error says when the value can be retrieved."""
    memory = MemoryManager(mount=place, root=str(place.relative_to(Mount.of(place).mountpoint)))
    for retrieve in (memory.retrieve, lambda key: memory.batch_retrieve([key])):
        with pytest.raises((ArchivedError, BatchError)) as caught:
            retrieve("file")
        error = caught.value
        if isinstance(error, BatchError):
            (error,) = error.exceptions  # type: ignore[assignment]
        assert isinstance(error, ArchivedError)
        assert error.errno == errno.EBUSY
        assert "'file' cannot be read yet" in str(error)
        if error.until is not None:
            # While the restore is looked at there is another reason.
            assert timedelta() < error.until - datetime.now(tz=UTC) < timedelta(hours=13)


def test_a_file_that_was_wanted_comes_by_itself_when_it_is_restored(
    place: Path, server: S3Server
) -> None:
    path = place / "file"
    content = compressible(100_000)
    archive(path, server, content)
    pin(path, "auto")
    # Once: the mover asks the server as well, and the restore may be over at a second read.
    with pytest.raises(OSError, match="busy"):
        read(path)
    set_restore_looks(server, 0)
    wait_for(lambda: "raw" in residence(path).forms, lambda: why(path))
    assert "pending" not in why(path)
    assert path.read_bytes() == content


def test_a_pin_waits_for_the_restore_and_then_comes_true(place: Path, server: S3Server) -> None:
    path = place / "file"
    content = compressible(100_000)
    archive(path, server, content)
    pin(path, "cold")
    wait_for(lambda: "GLACIER" in pending_reason(path), lambda: why(path))
    set_restore_looks(server, 0)
    wait_for(lambda: residence(path).forms != ["remote"], lambda: why(path))
    wait_for(lambda: "pending" not in why(path), lambda: why(path))
    assert path.read_bytes() == content
