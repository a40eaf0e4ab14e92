"""Snapshots: whose they are, and how much of a device and of the server one user may take."""

from __future__ import annotations

import pytest

from memfs.errors import NotPermittedError
from memfs.hot.pool import DeviceCapacity, HotTierFullError, Pool, SlabInfo, SlabKey
from memfs.hot.protocol import HotMissError
from memfs.hot.snapshots import ROOT_UID, SnapshotReport, Snapshots, UserLimits

ALICE, BOB = 1000, 1001
A, B = "GPU-a", "GPU-b"
BUDGET = 100


@pytest.fixture
def pool() -> Pool:
    """Two devices, of which a user's snapshots may keep a quarter each."""
    pool = Pool([DeviceCapacity(name, BUDGET, 1.0, 0.9, 1.0, 0.25) for name in (A, B)])
    for name in (A, B):
        pool.measure(name, BUDGET)
    return pool


def load(pool: Pool, ino: int, size: int, device: str = A) -> SlabInfo:
    slab = pool.begin(SlabKey(ino, 1), device, size, 50, pinned=False)
    pool.publish(slab)
    return slab


def test_a_user_keeps_a_share_of_each_device_over_all_snapshots(pool: Pool) -> None:
    """What is kept already counts, in whichever snapshot; the other device counts by itself."""
    snapshots = Snapshots(pool)
    first, second, elsewhere = load(pool, 1, 20), load(pool, 2, 10), load(pool, 3, 25, B)
    snapshots.add(ALICE, "one", {"x": first})
    with pytest.raises(HotTierFullError, match=r"would keep 30 .* may keep 25 .*drop some"):
        snapshots.add(ALICE, "two", {"y": second})
    assert snapshots.names(ALICE) == {"one"}
    assert not second.snapshots
    snapshots.add(ALICE, "two", {"z": elsewhere})
    snapshots.add(BOB, "bobs", {"y": second})


def test_a_slab_in_two_snapshots_of_a_user_counts_once(pool: Pool) -> None:
    snapshots = Snapshots(pool)
    slab = load(pool, 1, 20)
    for name in ("one", "two"):
        snapshots.add(ALICE, name, {"x": slab})
    assert snapshots.describe(ALICE) == [
        SnapshotReport(name, ALICE, 1, 20) for name in ("one", "two")
    ]


def test_what_is_dropped_makes_room(pool: Pool) -> None:
    snapshots = Snapshots(pool)
    first, second = load(pool, 1, 20), load(pool, 2, 20)
    snapshots.add(ALICE, "one", {"x": first})
    snapshots.forget(ALICE, "one")
    pool.forget(first, "one")
    snapshots.add(ALICE, "two", {"y": second})


def test_root_has_no_share_and_fills_nobody_elses(pool: Pool) -> None:
    """What root adds to the snapshot of a user counts as that user's."""
    snapshots = Snapshots(pool)
    slabs = [load(pool, ino, 20) for ino in (1, 2, 3)]
    snapshots.add(ROOT_UID, "roots", {f"{slab.key.ino}": slab for slab in slabs})
    snapshots.add(ALICE, "alices", {"1": slabs[0]})
    with pytest.raises(HotTierFullError, match=f"user {ALICE} would keep"):
        snapshots.add(ROOT_UID, "alices", {"2": slabs[1]})


def test_users_have_so_many_snapshots_and_entries(pool: Pool) -> None:
    """Each by itself; slabs of all snapshots of a user together, root's additions included."""
    snapshots = Snapshots(pool, UserLimits(snapshot_count=2, label_count=5))
    slab = load(pool, 1, 1)
    snapshots.add(ALICE, "one", {"a": slab, "b": slab})
    snapshots.add(ALICE, "two", {"a": slab, "b": slab})
    with pytest.raises(NotPermittedError, match=f"user {ALICE} has 2 snapshots already"):
        snapshots.add(ALICE, "three", {"a": slab})
    snapshots.add(BOB, "bobs", {"a": slab})
    for uid in (ALICE, ROOT_UID):
        with pytest.raises(NotPermittedError, match=f"snapshots of user {ALICE} may have 5"):
            snapshots.add(uid, "two", {"c": slab, "d": slab})
    snapshots.add(ALICE, "two", {"c": slab})


def test_only_the_owner_and_root_get_at_a_snapshot(pool: Pool) -> None:
    snapshots = Snapshots(pool)
    slab = load(pool, 1, 1)
    snapshots.add(ALICE, "one", {"x": slab})
    for uid in (ALICE, ROOT_UID):
        assert snapshots.find(uid, "one", "x") is slab
    for action in (
        lambda: snapshots.find(BOB, "one", "x"),
        lambda: snapshots.forget(BOB, "one"),
        lambda: snapshots.add(BOB, "one", {"y": slab}),
    ):
        with pytest.raises(NotPermittedError, match="another user's"):
            action()
    assert snapshots.describe(BOB) == []
    for name, label in (("one", "y"), ("two", "x")):
        with pytest.raises(HotMissError):
            snapshots.find(ALICE, name, label)
