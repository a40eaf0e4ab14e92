"""Glacier in a real S3 server: what is pinned there is there, and comes back to another mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import blake3
import pytest

from tests.mounting import MountError, run_memfs
from tests.posix.capabilities import Capability
from tests.servers.seaweedfs import find_weed, make_bucket
from tests.tiers.tiering import (
    SMALL_FRAMES,
    compressible,
    pin,
    residence,
    send,
    status,
    told,
    wait_until_at,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Site
    from tests.mounting import Mount
    from tests.servers.seaweedfs import S3Server

pytestmark = [
    pytest.mark.needs(Capability.MEMFS_XATTRS),
    pytest.mark.slow,
    pytest.mark.skipif(find_weed() is None, reason="SeaweedFS is not installed"),
]

BUCKET = "tiers"
PREFIX = "some/prefix"
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(s3_server: S3Server) -> S3Server:
    make_bucket(s3_server, BUCKET)
    return s3_server


@pytest.fixture(scope="module")
def tier_config(server: S3Server) -> str:
    options = "\n".join(f'{name} = "{value}"' for name, value in server.options.items())
    return (
        f'{SMALL_FRAMES}\n[glacier]\nurl = "s3://{BUCKET}/{PREFIX}/SITE"\ncodec = "zstd:5"\n'
        f'server_side_encryption = "AES256"\n[glacier.options]\n{options}\n'
    )


def keys(server: S3Server) -> set[str]:
    """All but the mark of the state, which a mount writes in the background."""
    client = server.client()
    try:
        answer = client.list_objects_v2(Bucket=BUCKET)
        found = {item["Key"] for item in answer.get("Contents", ())}
        return {key for key in found if "/states/" not in key}
    finally:
        client.close()


@pytest.mark.any_driver
def test_a_pinned_file_is_one_encrypted_object_below_the_prefix(
    place: Path, server: S3Server, mount: Mount
) -> None:
    """Bucket, prefix, codec and encryption are those of the configuration."""
    path = place / "file"
    content = compressible(MIB)
    path.write_bytes(content)
    before = keys(server)
    send("glacier", path)
    assert told(path, "state") == "remote"
    assert told(path, "digest") == blake3.blake3(content).hexdigest()
    [key] = keys(server) - before
    assert key.startswith(f"{PREFIX}/")
    client = server.client()
    try:
        answer = client.get_object(Bucket=BUCKET, Key=key)
        assert answer["ServerSideEncryption"] == "AES256"
        stored = answer["Body"].read()
    finally:
        client.close()
    assert stored.startswith(bytes.fromhex("28b52ffd"))
    assert len(stored) < len(content)
    assert "secret" not in status(mount)["store_url"]
    assert path.read_bytes() == content


def test_ranges_come_from_the_object(place: Path) -> None:
    """A large file is read by frames over the network, and not fetched for it."""
    path = place / "large"
    content = compressible(8 * MIB)
    path.write_bytes(content)
    send("glacier", path)
    fd = os.open(path, os.O_RDONLY)
    try:
        for offset in (0, 3 * MIB - 5, 8 * MIB - 100):
            assert os.pread(fd, 1000, offset) == content[offset : offset + 1000]
    finally:
        os.close(fd)
    assert residence(path).forms == ["remote"]


@pytest.mark.any_driver
def test_a_changed_file_has_a_new_object_and_the_old_one_goes(
    place: Path, server: S3Server
) -> None:
    """An object of an earlier generation is garbage once the new one is there."""
    path = place / "file"
    path.write_bytes(compressible(300_000))
    before = keys(server)
    send("glacier", path)
    [old] = keys(server) - before
    with path.open("r+b") as file:
        file.write(b"changed")
    wait_until_at("glacier", path)
    assert path.read_bytes() == b"changed" + compressible(300_000)[7:]
    wait_for(lambda: old not in keys(server), lambda: keys(server) - before)


@pytest.mark.any_driver
def test_objects_are_found_after_unmounting_and_mounting(place: Path, site: Site) -> None:
    """Remote forms, pins and bytes, with the store named by the configuration only."""
    assert site.mount is not None
    directory = place / "tree"
    directory.mkdir()
    pin(directory, "glacier")
    files = [directory / f"file-{number}" for number in range(10)]
    for number, path in enumerate(files):
        path.write_bytes(compressible(200_000, seed=number))
    wait_until_at("glacier", *files)
    site.mount.stop()
    site.mount.start()
    for number, path in enumerate(files):
        assert residence(path).forms == ["remote"]
        assert told(path, "pin") == "glacier"
        assert path.read_bytes() == compressible(200_000, seed=number)


@pytest.mark.any_driver
def test_fsck_calls_no_object_superfluous_that_may_be_of_another_mount(
    site: Site, server: S3Server
) -> None:
    """Two state directories may share a prefix: whose an object is, fsck cannot know."""
    assert site.mount is not None
    client = server.client()
    key = f"{PREFIX}/{site.name}/blobs/00/of-another"
    site.mount.stop()
    client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    try:
        config = site.mount.base / "config.toml"
        with pytest.raises(MountError, match="another state directory uses this store"):
            run_memfs("fsck", "-c", config, site.mount.state)
    finally:
        client.delete_object(Bucket=BUCKET, Key=key)
        client.close()
        site.mount.start()
