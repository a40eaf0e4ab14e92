"""A daemon that can do nothing more does nothing: full tiers, and a store that refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lifecycle.idling import wait_until_idle
from tests.servers.process import free_ports
from tests.tiers.tiering import incompressible, pin, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

FILE_COUNT = 200
FILE_BYTES = 32 << 10

NOWHERE_TO_GO = """
[warm]
size = "1MiB"
[cold]
size = "2MiB"
[glacier]
enabled = false
"""

REFUSING_STORE = """
[warm]
size = "1MiB"
[cold]
size = "2MiB"
[glacier]
url = "s3://nowhere/of-test"
timeout = "2s"
[glacier.options]
endpoint_url = "http://127.0.0.1:{port}"
key = "key"
secret = "secret"
"""


def write_files(mount: Mount, tiers: tuple[str, ...]) -> list[Path]:
    """Write more than any tier takes, pinned to the tiers by turns."""
    paths = [mount.root / f"file-{index}" for index in range(FILE_COUNT)]
    for index, path in enumerate(paths):
        path.write_bytes(incompressible(FILE_BYTES, index))
        pin(path, tiers[index % len(tiers)])
    return paths


def waiting_count(paths: list[Path]) -> int:
    """Return how many files cannot go where they should, and say so."""
    return sum("pending" in why(path) for path in paths)


@pytest.mark.any_driver
def test_a_daemon_with_full_tiers_and_no_store_is_idle(
    driver: str, mount_factory: MountFactory
) -> None:
    """A tier over its capacity with nothing that may leave it is not looked at all the time."""
    mount = mount_factory(driver, config=NOWHERE_TO_GO)
    paths = write_files(mount, ("warm", "auto"))
    wait_for(lambda: waiting_count(paths), "no file waits for room in RAM")
    wait_until_idle(mount)


@pytest.mark.any_driver
@pytest.mark.expects_log(r"WARNING memfs\.stores\.health: the store does not serve: ")
def test_a_daemon_whose_store_refuses_is_idle(driver: str, mount_factory: MountFactory) -> None:
    """Hundreds of files that wait for the store cost one attempt from time to time."""
    [port] = free_ports(1)
    mount = mount_factory(driver, config=REFUSING_STORE.format(port=port))
    paths = write_files(mount, ("warm", "glacier", "auto"))
    wait_for(lambda: waiting_count(paths) > FILE_COUNT // 3, "too few files wait")
    wait_until_idle(mount)
