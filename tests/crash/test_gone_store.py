"""An object store that is taken away: what is local stays, and the mount says since when."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.mounting import run_memfs
from tests.tiers.tiering import forms_of, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory

CONTENT = bytes(random.Random(3).choices(b"abcdefgh", k=300_000))

# A store that was well a moment ago is waited for as long as the time-out says.
CONFIG = """
[warm]
size = "0"
[glacier]
url = "file://{store}"
timeout = "2s"
[policy]
interval = "50ms"
retry_min = "100ms"
retry_max = "500ms"
"""


@pytest.mark.expects_log("WARNING.*the directory is gone")
def test_a_file_read_again_stays_while_its_store_is_away(
    driver: str, mount_factory: MountFactory, tmp_path: Path
) -> None:
    """Pinned to the glacier, it would leave again; the store's directory was moved away."""
    store = tmp_path / "store"
    store.mkdir()
    mount = mount_factory(driver, config=CONFIG.format(store=store))
    path = mount.root / "file"
    path.write_bytes(CONTENT)
    os.setxattr(path, "user.memfs.tier", b"glacier")
    wait_for(lambda: forms_of(path) == ["remote"], "the file was not uploaded")
    # Local again, as after `read`; then the pin sends it away once more.
    os.setxattr(path, "user.memfs.tier", b"cold")
    wait_for(lambda: "remote" in forms_of(path) and len(forms_of(path)) > 1, "not fetched")
    store.rename(tmp_path / "away")
    os.setxattr(path, "user.memfs.tier", b"glacier")
    wait_for(
        lambda: "gone" in str(why(path).get("pending", "")),
        lambda: (why(path), forms_of(path)),
    )
    assert forms_of(path) != ["remote"]
    assert path.read_bytes() == CONTENT
    told = json.loads(run_memfs("status", "--json", mount.root))["store"]
    assert told["well"] is False
    assert told["lasts_s"] >= 0
    assert "the directory is gone" in told["reason"]
    assert "the directory is gone" in why(path)["store"]["reason"]
    assert "store    fails for" in run_memfs("why", path)
    assert "the directory is gone" in run_memfs("status", mount.root)
    (tmp_path / "away").rename(store)
    # Pinned anew: what a program has read stays for a minute.
    os.setxattr(path, "user.memfs.tier", b"glacier")
    wait_for(lambda: forms_of(path) == ["remote"], lambda: (why(path), forms_of(path)))
    assert path.read_bytes() == CONTENT
    assert json.loads(run_memfs("status", "--json", mount.root))["store"]["well"] is True
    path.unlink()
