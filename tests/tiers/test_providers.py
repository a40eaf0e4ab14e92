"""Glacier at Google's and Azure's, under a mount: configuration, upload, ranges, hydration."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.posix.capabilities import Capability
from tests.tiers.tiering import SMALL_FRAMES, compressible, pin, residence, send, wait_until_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Site
    from tests.servers.azurite import AzureServer
    from tests.servers.fake_gcs import GcsServer

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.slow]

BUCKET = "tiers"
MIB = 1 << 20


@pytest.fixture(scope="module", params=["gs", "az"])
def provider(request: pytest.FixtureRequest) -> tuple[str, Callable[[], list[str]]]:
    """The configuration of a provider, and what lists the keys of its bucket."""
    fixture = "gcs_server" if request.param == "gs" else "azure_server"
    server: GcsServer | AzureServer = request.getfixturevalue(fixture)
    server.make_bucket(BUCKET)
    options = "\n".join(f"{name} = {json.dumps(value)}" for name, value in server.options.items())
    url = f'[glacier]\nurl = "{request.param}://{BUCKET}/SITE"\n'
    return f"{url}[glacier.options]\n{options}\n", lambda: server.keys(BUCKET, "")


@pytest.fixture(scope="module")
def tier_config(provider: tuple[str, Callable[[], list[str]]]) -> str:
    return f"{SMALL_FRAMES}\n{provider[0]}"


@pytest.mark.any_driver
def test_files_go_there_and_come_back_to_another_mount(
    place: Path, site: Site, provider: tuple[str, Callable[[], list[str]]]
) -> None:
    """Small and large, by ranges and whole, with the store named by the configuration only."""
    small, large = place / "small", place / "large"
    small.write_bytes(compressible(100_000))
    large.write_bytes(compressible(8 * MIB))
    send("glacier", small, large)
    # Other sites have prefixes of their own in the same bucket.
    keys = [key for key in provider[1]() if key.startswith(f"{site.name}/")]
    assert {key.split("/")[1] for key in keys} == {"batches", "blobs", "states"}
    assert site.mount is not None
    site.mount.stop()
    site.mount.start()
    assert small.read_bytes() == compressible(100_000)
    fd = os.open(large, os.O_RDONLY)
    try:
        for offset in (0, 3 * MIB - 5, 8 * MIB - 100):
            expected = compressible(8 * MIB)[offset : offset + 1000]
            assert os.pread(fd, 1000, offset) == expected
    finally:
        os.close(fd)
    assert residence(large).forms == ["remote"]
    pin(large, "warm")
    wait_until_at("warm", large)
    assert large.read_bytes() == compressible(8 * MIB)
