"""Managers that start a mount of their own: nothing else is needed, and many processes share it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memfs import ColdMemory, GlacierMemory, MemoryManager
from memfs.manager.errors import MountUnavailableError
from tests.tiers.tiering import wait_until_at

if TYPE_CHECKING:
    from pathlib import Path


def test_the_first_lines_of_a_user_need_nothing_else(own_place: Path) -> None:
    """The basic usage of the feature list, word for word but for the import."""
    location_data = {"city": "San Francisco", "points": [[1.5, 2], [3, 4]]}
    memory_manager = MemoryManager(
        hot_memory_size=2,  # GB
        warm_memory_size=0.25,  # GB
        cold_memory_size=1,  # GB
        glacier_enabled=True,
    )
    memory_manager.store(key="location_data", value=location_data, tier="warm")
    assert memory_manager.retrieve("location_data") == location_data
    assert memory_manager.exists("location_data")
    metrics = memory_manager.get_metrics()
    for tier in ("hot", "warm", "cold"):
        assert 0 <= metrics[tier]["usage_percent"] <= 100
    memory_manager.delete("location_data")
    assert not memory_manager.exists("location_data")

    joined = MemoryManager()
    assert joined.directory == memory_manager.directory
    joined.store("kept", b"1")
    attached = MemoryManager(mount=memory_manager.directory)
    assert attached.mount == memory_manager.mount
    memory_manager.close(unmount=True)
    assert list((own_place / "run").iterdir()) == []
    again = MemoryManager()
    assert again["kept"] == b"1"
    again.close(unmount=True)


def test_processes_that_start_at_once_share_one_mount(own_place: Path) -> None:
    program = (
        "import os, sys\nfrom memfs import MemoryManager\n"
        "m = MemoryManager(); m.store(f'k{sys.argv[1]}', os.getpid()); print(m.directory)"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(number)], stdout=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    places = {child.communicate(timeout=120)[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    assert len(places) == 1
    manager = MemoryManager()
    assert sorted(manager) == ["k0", "k1", "k2", "k3"]
    manager.close(unmount=True)


def test_the_tiers_of_the_feature_list(own_place: Path) -> None:
    cold = ColdMemory(size_gb=1, storage_path=own_place / "cold", compression="lz4")
    cold.store("historical_data", b"x" * 5000)
    assert cold.retrieve("historical_data", partial=True, start=0, end=1000) == b"x" * 1000
    wait_until_at("cold", cold.path("historical_data"))
    assert cold.compress("historical_data").files == 1
    cold.close(unmount=True)

    glacier = GlacierMemory(
        provider="local",
        config={"storage_path": own_place / "objects"},
        state=own_place / "glacier",
    )
    result = glacier.batch_store(
        [{"key": f"archive_{number}", "value": bytes([number]) * 1000} for number in range(3)]
    )
    assert len(result) == 3
    wait_until_at("glacier", *(glacier.path(key) for key in glacier))
    assert glacier["archive_2"] == b"\2" * 1000
    assert any((own_place / "objects").iterdir())
    glacier.close(unmount=True)


def test_a_mount_that_cannot_be_started_says_why(own_place: Path) -> None:
    (own_place / "taken").mkdir()
    (own_place / "taken/file").write_bytes(b"")
    with pytest.raises(MountUnavailableError, match="no state directory of memfs"):
        MemoryManager(state=own_place / "taken")
    with pytest.raises(MountUnavailableError, match=r"unknown key 'sizes' in \[warm\]"):
        MemoryManager(state=own_place / "new", options={"warm.sizes": 1})
