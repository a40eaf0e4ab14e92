"""`MemoryManager` on a mount: tiers, parts of values in each of them, and a mount of its own."""

from __future__ import annotations

import errno
import os
import time
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memfs import MemoryManager, WarmMemory
from memfs.control.client import ControlError, ControlUnavailableError
from memfs.manager.errors import (
    DiskFullError,
    FilterError,
    MissingKeyError,
    MissingSnapshotError,
    TierUnavailableError,
)
from memfs.manager.root import Root
from tests.posix.capabilities import Capability
from tests.processes import ALICE, run_as
from tests.tiers.tiering import residence, wait_until_at
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]


@pytest.fixture
def manager(place: Path, mount: Mount) -> MemoryManager:
    return MemoryManager(mount=place, root=str(place.relative_to(mount.root)))


def test_values_are_in_the_tier_that_is_asked_for(manager: MemoryManager) -> None:
    array = np.arange(300_000.0).reshape(300, 1000)
    for tier in ("warm", "cold", "glacier"):
        entry = manager.store(f"in/{tier}", array, tier=tier, metadata={"tier": tier})
        wait_until_at(tier, entry.path)
        assert entry.tier == tier
        assert np.array_equal(manager.retrieve(f"in/{tier}", start=10, end=12), array[10:12])
    assert manager.why("in/glacier")["rule"] == "pin"
    manager.move("in/warm", "glacier")
    wait_until_at("glacier", manager.path("in/warm"))
    assert np.array_equal(manager["in/warm"], array)
    assert manager.prefetch(["in/cold", "in/glacier"]) == 2
    metrics = manager.get_metrics()
    assert set(metrics) == {"hot", "warm", "cold", "glacier", "total", "moves", "snapshots"}
    assert metrics["glacier"]["items"] >= 2
    assert metrics["hot"] == {
        "usage_bytes": 0,
        "size_bytes": 0,
        "usage_percent": 0.0,
        "items": 0,
        "hit_ratio": 0.0,
    }
    assert 0 < metrics["glacier"]["hit_ratio"] <= 1
    assert 0 <= metrics["total"]["hit_ratio"] < 1
    assert set(metrics["moves"]) == {"running", "queued", "waiting"}
    assert set(metrics["snapshots"]) == {"count", "kept_items", "kept_bytes"}
    assert 0 < metrics["cold"]["usage_percent"] <= 100


@pytest.mark.any_driver
def test_a_tier_that_is_missing_leaves_the_former_value(manager: MemoryManager) -> None:
    manager.store("k", "before")
    with pytest.raises(TierUnavailableError, match=r"no hot tier; set hot\.devices"):
        manager.store("k", np.arange(3), tier="hot")
    assert manager["k"] == "before"
    with pytest.raises(TierUnavailableError, match="no hot tier"):
        manager.move("k", "hot")
    with pytest.raises(ValueError, match="'tepid' is not one of hot, warm, cold, glacier"):
        manager.store("k", b"", tier="tepid")
    for priority in (1000, -1, "high"):
        with pytest.raises(ValueError, match="it can be a whole number from 0 to 100"):
            manager.store("k", b"", tier="warm", priority=priority)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="it can be a whole number from 0 to 100"):
            manager.move("k", "warm", priority)  # type: ignore[arg-type]
    assert manager["k"] == "before"


@pytest.mark.any_driver
def test_values_are_compressed_on_request(manager: MemoryManager) -> None:
    for number in range(3):
        manager.store(f"z{number}", b"0" * 200_000, tier="cold", durable=True)
    wait_until_at("cold", *(manager.path(f"z{number}") for number in range(3)))
    report = manager.compress(tier="cold", compression_level=5)
    assert report.files == 3
    assert report.bytes_after <= report.bytes_before
    assert report.failures == {}
    assert residence(manager.path("z0")).forms == ["packed"]
    assert manager.retrieve("z0", start=100_000, end=100_010) == b"0" * 10
    with pytest.raises(ControlError, match="zstd"):
        manager.compress(tier="cold", compression_level=500)
    with pytest.raises(MissingKeyError, match="nothing is stored under the key 'gone'"):
        manager.compress(keys=["gone"])


@pytest.mark.any_driver
def test_wishes_that_the_mount_does_not_meet_name_the_key(place: Path) -> None:
    with pytest.raises(ValueError, match=r"warm_memory_size=100000: .* raise warm\.size"):
        MemoryManager(warm_memory_size=100_000, mount=place)
    with pytest.raises(ValueError, match=r"glacier_enabled=False: .* glacier\.enabled"):
        MemoryManager(glacier_enabled=False, mount=place)
    with pytest.raises(ValueError, match=r"has 'zstd:3'; set cold\.codec in its configuration"):
        MemoryManager(cold_config={"compression": "lz4"}, mount=place)
    MemoryManager(
        mount=place,
        cold_config={"compression": "zstd"},
        hot_config={"garbage_collection_threshold": 0.8},
    )


@pytest.mark.any_driver
def test_a_pool_is_a_directory_of_keys(place: Path) -> None:
    warm = WarmMemory(directory=place)
    for size in (0, -1, "5"):
        with pytest.raises(ValueError, match="is no size in MB"):
            warm.allocate_pool("frequent", size_mb=size)  # type: ignore[arg-type]
    warm.allocate_pool("frequent", size_mb=1)
    warm.store("frequent/a", b"1")
    assert os.getxattr(warm.path("frequent/a"), "user.memfs.pool") == b"frequent"
    assert warm.get_metrics()["size_bytes"] > 0
    warm.mount.pool_remove("frequent")  # type: ignore[union-attr]


@pytest.mark.any_driver
def test_values_are_found_by_their_metadata(manager: MemoryManager, place: Path) -> None:
    """The advanced usage of the feature list, and what its users would ask next."""
    for number in range(30):
        manager.store(
            f"sat/{number}",
            bytes([number]),
            metadata={
                "location": "San Francisco" if number % 2 else "Ulm",
                "date": date(2025, 1, 1 + number) if number else date(2024, 12, 31),
                "cloud": number / 2,
                "good": number > 20,
            },
        )
    manager.store("other/[x]", b"", metadata={"location": "Ulm"})
    (place / "elsewhere").mkdir()
    results = manager.query(
        metadata_filter={"location": "San Francisco", "date": {"$gte": "2025-01-10"}}
    )
    assert sorted(results.keys(), key=lambda key: int(key[4:])) == [
        f"sat/{number}" for number in range(9, 30, 2)
    ]
    assert results[0].metadata["location"] == "San Francisco"
    assert isinstance(results[0].metadata["date"], date)
    found = manager.query({"good": True, "date": {"$lt": date(2025, 1, 24)}}, sort="-cloud")
    assert [entry.metadata["cloud"] for entry in found] == [11.0, 10.5]
    assert manager.query({"location": "Ulm"}, prefix="other/").keys() == ["other/[x]"]
    assert manager.query({"location": "Ulm"}, prefix="other/[x").keys() == ["other/[x]"]
    assert len(manager.query(limit=7)) == 7
    assert manager.query({"location": "Ulm"}).explain["driver"] == "user.location"
    assert len(manager.query()) == 31
    assert not manager.query({"cloud": {"$gt": 100}})
    frame = manager.query({"cloud": {"$gte": 14}}, sort="cloud").pandas()
    assert frame["key"].tolist() == ["sat/28", "sat/29"]
    assert frame["cloud"].tolist() == [14.0, 14.5]
    with pytest.raises(FilterError, match=r"^at cloud\.\$ge: .*\$gte"):
        manager.query({"cloud": {"$ge": 1}})
    with pytest.raises(FilterError, match="a filter is a dictionary"):
        manager.query("cloud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit = -1"):
        manager.query(limit=-1)
    with pytest.raises(MissingSnapshotError, match="None cannot be the name of a snapshot"):
        manager.restore_snapshot(None)  # type: ignore[arg-type]
    manager.close(unmount=True)
    assert (place / "sat/1").exists(), "a mount of others is left alone"


def test_a_value_is_found_with_its_size_as_soon_as_it_is_stored(manager: MemoryManager) -> None:
    for number in range(5):
        manager.store(f"a/{number}", np.zeros(100_000 + number), metadata={"number": number})
        [found] = manager.query({"number": number})
        assert found.size_bytes == found.path.stat().st_size > 800_000
        assert found.mtime == found.path.stat().st_mtime
        assert len(manager.query({"$size": {"$gt": 800_000}})) == number + 1
    with manager.open("being/written", "wb") as file:
        file.write(b"1" * 5000)
        file.flush()
        [found] = manager.query(prefix="being/")
        assert found.size_bytes == 5000


@pytest.mark.any_driver
def test_a_full_disk_tells_what_gives_room_back(
    manager: MemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.store("k", b"1" * 100_000, durable=True)
    before = manager.create_snapshot("before")
    manager.store("k", b"2" * 100_000, durable=True)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Root, "write", full)
    kept = r"No space left on device; snapshots keep .*KiB: delete_snapshots gives it back; delete"
    wait_for(lambda: manager.get_metrics()["snapshots"]["kept_bytes"], "the snapshot to keep it")
    with pytest.raises(DiskFullError, match=kept):
        manager.store("k", b"3")
    manager.delete_snapshot(before)


@pytest.mark.any_driver
def test_only_tensors_can_be_hot(manager: MemoryManager) -> None:
    with pytest.raises(TierUnavailableError, match=r"only tensors and arrays .* stored as json"):
        manager.store("k", {"a": 1}, tier="hot")
    assert "k" not in manager


def test_another_user_has_values_on_the_mount(place: Path, mount: Mount) -> None:
    """All but what is asked of the daemon on its control socket, which is its own user's."""
    (place / "alice").mkdir()
    os.chown(place / "alice", ALICE.uid, ALICE.gid)
    root = f"{place.relative_to(mount.root)}/alice"

    def work() -> list[object]:
        manager = MemoryManager(mount=place, root=root)
        manager.store("a", {"x": 1}, tier="cold", metadata={"n": 1})
        manager.batch_store({"b": 2, "c": 3})
        manager.move("b", "warm")
        told = [manager.batch_retrieve(["a", "b"]), sorted(manager), manager.why("b")["rule"]]
        told += [manager.query({"n": 1}).keys(), manager.get_metadata("a")]
        with pytest.raises(ControlUnavailableError, match="or root, may ask its daemon"):
            manager.get_metrics()
        with pytest.raises(ValueError, match=r"^warm_memory_size: .* may ask its daemon; leave it"):
            MemoryManager(warm_memory_size=0.001, mount=place)
        return told

    values, keys, rule, found, metadata = run_as(ALICE, work)
    assert (values, keys, rule) == ({"a": {"x": 1}, "b": 2}, ["a", "b", "c"], "pin")
    assert (found, metadata) == (["a"], {"n": 1})


@pytest.mark.any_driver
def test_thousands_of_keys_are_listed(manager: MemoryManager) -> None:
    began_s = time.monotonic()
    manager.batch_store((f"d{number % 10}/{number}", number) for number in range(2000))
    assert len(manager) == 2000
    assert time.monotonic() - began_s < 120


def test_metadata_change_in_one_step(manager: MemoryManager) -> None:
    """Values that are no text of their own type among them, and such as are removed."""
    entry = manager.store("k", "value", metadata={"a": 1, "gone": "x"})
    before_ns = entry.path.stat().st_ctime_ns
    manager.set_metadata("k", {"a": "1", "day": date(2025, 1, 2)}, replace=True)
    assert entry.path.metadata == {"a": "1", "day": date(2025, 1, 2)}
    assert entry.path.stat().st_ctime_ns > before_ns
    huge = {f"n{number}": "x" * 20_000 for number in range(3)}
    manager.set_metadata("k", huge)
    assert entry.path.metadata == {"a": "1", "day": date(2025, 1, 2)} | huge
