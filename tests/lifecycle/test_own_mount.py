"""Managers that start a mount of their own: nothing else is needed, and many processes share it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from memfs import ColdMemory, GlacierMemory, HotMemory, MemoryManager
from memfs.manager.errors import ClosedManagerError, MountUnavailableError
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


def test_hot_memory_is_a_dictionary_and_tells_mistakes(own_place: Path) -> None:
    hot = HotMemory(size_gb=0.01)
    hot["a"] = torch.ones(3)
    hot.store("named", {"x": torch.zeros(2), "y": torch.ones(1)})
    assert torch.equal(hot["a"], torch.ones(3))  # type: ignore[arg-type]
    assert ("a" in hot, "b" in hot, len(hot), list(hot)) == (True, False, 2, ["a", "named"])
    del hot["a"]
    assert repr(hot) == f"HotMemory('{hot.directory}')"
    for value in (np.ones(3), [1, 2], {"x": 1}):
        with pytest.raises(TypeError, match="it can be a tensor, or a dictionary of tensors"):
            hot.store("b", value)  # type: ignore[arg-type]
    for key in ("a/b", "", ".a", None):
        with pytest.raises(ValueError, match="cannot be a file name"):
            hot.store(key, torch.ones(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="priority = 1000"):
        hot.store("b", torch.ones(3), priority=1000)
    assert list(hot) == ["named"]
    mistakes: list[dict[str, Any]] = [
        {"size_gb": "2"},
        {"precision": "float8"},
        {"garbage_collection_threshold": 2},
    ]
    for mistake in mistakes:
        with pytest.raises(ValueError, match=rf"^hot_config\['{next(iter(mistake))}'\] = "):
            HotMemory(**mistake)
    hot.close(unmount=True)
    for call in (lambda: hot["named"], lambda: list(hot), lambda: hot.store("b", torch.ones(1))):
        with pytest.raises(ClosedManagerError, match="was closed"):
            call()


def test_a_mount_that_cannot_be_started_says_why(own_place: Path) -> None:
    (own_place / "taken").mkdir()
    (own_place / "taken/file").write_bytes(b"")
    with pytest.raises(MountUnavailableError, match="no state directory of memfs"):
        MemoryManager(state=own_place / "taken")
    with pytest.raises(MountUnavailableError, match=r"unknown key 'sizes' in \[warm\]"):
        MemoryManager(state=own_place / "new", options={"warm.sizes": 1})
