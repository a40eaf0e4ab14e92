"""Quotas of the day on a mount: what waits tells for what, and a restart forgets nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mounting import MountError, run_memfs
from tests.tiers.tiering import incompressible, pin, status, told, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.conftest import MountFactory
    from tests.mounting import Mount

MIB = 1 << 20

CONFIG = """
[policy]
interval = "100ms"
retry_min = "100ms"
retry_max = "400ms"
[glacier]
batch_file_max = 0
[quotas]
egress_per_day = "5MiB"
upload_rate = "1GiB"
"""


def egress(mount: Mount) -> dict[str, int]:
    [quota] = status(mount)["quotas"]
    assert quota["quota"] == "egress_per_day"
    return dict(quota)


@pytest.mark.any_driver
def test_uploads_wait_for_the_egress_that_reading_them_back_takes(
    mount_factory: MountFactory, driver: str
) -> None:
    """Programs read on all the same, and are counted."""
    mount = mount_factory(driver, config=CONFIG)
    paths = [mount.root / f"file-{number}" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(incompressible(MIB, seed=number))
    pin(mount.root, "glacier")

    def waiting() -> list[str]:
        reasons = [str(why(path)) for path in paths]
        needed = ("quotas.egress_per_day", "more at ")
        return [reason for reason in reasons if all(words in reason for words in needed)]

    def gone() -> list[int]:
        return [number for number, path in enumerate(paths) if told(path, "tier") == "glacier"]

    wait_for(
        lambda: len(gone()) + len(waiting()) == len(paths),
        lambda: [why(path) for path in paths],
    )
    assert 2 <= len(gone()) < len(paths)
    assert egress(mount)["used"] <= 5 * MIB
    text = run_memfs("status", mount.root)
    assert "quota egress_per_day: " in text
    assert "of 5.0 MiB used" in text
    left = len(gone())
    with pytest.raises(MountError, match=r"waiting: .*quotas\.egress_per_day"):
        run_memfs("barrier", "--level", "remote", "--timeout", "1", mount.root)
    assert len(gone()) == left
    assert egress(mount)["used"] <= 5 * MIB
    mount.stop()
    mount.start()
    assert egress(mount)["used"] >= left * MIB
    for number, path in enumerate(paths):
        assert path.read_bytes() == incompressible(MIB, seed=number)
    assert egress(mount)["used"] >= 2 * left * MIB
