"""Snapshots: slabs that a user has kept as they are, whatever becomes of their files.

Invariants:
- A snapshot is of one user; only that user, and root, get at it or change it.
- What the snapshots of one user other than root keep on a device is within that user's share of it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import NotPermittedError
from memfs.hot.pool import HotTierFullError
from memfs.hot.protocol import HotMissError
from memfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memfs.hot.pool import Pool, SlabInfo, SlabKey

ROOT_UID = 0


class UserLimits(NamedTuple):
    """What one user's snapshots may be together."""

    snapshot_count: int = 256
    label_count: int = 100_000
    """That of all of them: some 30 MB. Guess."""


LIMITS = UserLimits()


class _Snapshot(NamedTuple):
    """Slabs by what their owner calls them."""

    uid: int
    keys: dict[str, SlabKey]


class SnapshotReport(NamedTuple):
    """What a snapshot keeps."""

    name: str
    uid: int
    slab_count: int
    size_bytes: int


class Snapshots:
    """The snapshots of all users.

    Args:
        pool: Has the slabs.
        limits: Those of each user.
    """

    def __init__(self, pool: Pool, limits: UserLimits = LIMITS) -> None:
        self._pool = pool
        self._limits = limits
        self._snapshots: dict[str, _Snapshot] = {}

    def check(self, uid: int, name: str, label_count: int) -> None:
        """Raise NotPermittedError if a user may not add so many slabs to a snapshot.

        Args:
            uid: That of the user; what root adds to the snapshot of another counts as that user's.
            name: That of the snapshot, which need not be there yet.
            label_count: Slabs to be added.
        """
        if name in self._snapshots:
            uid = self._own(uid, name).uid
        own = [each for each in self._snapshots.values() if each.uid == uid]
        if name not in self._snapshots and len(own) >= self._limits.snapshot_count:
            raise NotPermittedError(
                f"user {uid} has {self._limits.snapshot_count} snapshots already; drop one"
            )
        if sum(len(each.keys) for each in own) + label_count > self._limits.label_count:
            raise NotPermittedError(
                f"the snapshots of user {uid} may have {self._limits.label_count} slabs; drop one"
            )

    def add(self, uid: int, name: str, slabs: Mapping[str, SlabInfo]) -> None:
        """Keep slabs, by labels; the snapshot is made if it is not there.

        Raises:
            NotPermittedError: As of `check`; nothing is kept.
            HotTierFullError: They are more than the user's share of a device; likewise.
        """
        self.check(uid, name, len(slabs))
        snapshot = self._snapshots.get(name, _Snapshot(uid, {}))
        if snapshot.uid != ROOT_UID:
            self._check_share(snapshot.uid, slabs.values())
        self._snapshots[name] = snapshot
        for label, slab in slabs.items():
            self._pool.keep(slab, name)
            snapshot.keys[label] = slab.key

    def find(self, uid: int, name: str, label: str) -> SlabInfo:
        """Return a slab.

        Raises:
            HotMissError: There is no such snapshot, or it has no such slab.
            NotPermittedError: It is another user's.
        """
        key = self._own(uid, name).keys.get(label)
        slab = None if key is None else self._pool.get(key)
        if slab is None:
            raise HotMissError(f"snapshot {name!r} has nothing that is called {label!r}")
        return slab

    def forget(self, uid: int, name: str) -> None:
        """Forget a snapshot; its slabs are the caller's to let go. Raises as `find`."""
        self._own(uid, name)
        del self._snapshots[name]

    def names(self, uid: int) -> set[str]:
        """Return the names of a user's own snapshots."""
        return {name for name, snapshot in self._snapshots.items() if snapshot.uid == uid}

    def describe(self, uid: int = ROOT_UID) -> list[SnapshotReport]:
        """Return the snapshots that a user gets at, by name."""
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for slab in self._pool:
            for name in slab.snapshots:
                counts[name] += 1
                sizes[name] += slab.size_bytes
        return [
            SnapshotReport(name, snapshot.uid, counts[name], sizes[name])
            for name, snapshot in sorted(self._snapshots.items())
            if uid in (ROOT_UID, snapshot.uid)
        ]

    def _check_share(self, uid: int, slabs: Iterable[SlabInfo]) -> None:
        own = self.names(uid)
        kept = {slab for slab in self._pool if not own.isdisjoint(slab.snapshots)}
        sizes: Counter[str] = Counter()
        for slab in kept | set(slabs):
            sizes[slab.device] += slab.size_bytes
        for device, size_bytes in sizes.items():
            capacity = self._pool.capacity(device)
            limit_bytes = int(capacity.snapshot_share * capacity.size_bytes)
            if size_bytes > limit_bytes:
                raise HotTierFullError(
                    f"snapshots of user {uid} would keep {format_size(size_bytes)} of {device}, "
                    f"and may keep {format_size(limit_bytes)}: drop some, or raise "
                    "hot.snapshot_share"
                )

    def _own(self, uid: int, name: str) -> _Snapshot:
        snapshot = self._snapshots.get(name)
        if snapshot is None:
            raise HotMissError(f"there is no snapshot {name!r}")
        if uid not in (ROOT_UID, snapshot.uid):
            raise NotPermittedError(f"snapshot {name!r} is another user's")
        return snapshot
