"""Random loads, leases, pins, snapshots and outside use: the pool's sums and promises hold."""

from __future__ import annotations

from contextlib import suppress

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memfs.hot.pool import DeviceCapacity, HotTierFullError, Pool, SlabInfo, SlabKey, SlabState

DEVICES = {"GPU-a": 100, "GPU-b": 60}
"""Capacities by UUID; each device has twice that."""

INDEXES = st.integers(0, 50)
"""Taken modulo what there is."""


class PoolMachine(RuleBasedStateMachine):
    """A pool beside plain sums."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool([DeviceCapacity(name, size) for name, size in DEVICES.items()])
        self.outside = dict.fromkeys(DEVICES, 0)
        self.leases: list[SlabInfo] = []
        self.loading: list[SlabInfo] = []
        self.generations: dict[int, int] = {}
        for name in DEVICES:
            self.measure(name)

    def measure(self, name: str) -> None:
        used_bytes = self.pool.used_bytes(name) + self.outside[name]
        self.pool.measure(name, 2 * DEVICES[name] - used_bytes)

    def held(self) -> list[SlabInfo]:
        return [slab for slab in self.pool if slab.lease_count or slab.pinned]

    @rule(
        ino=st.integers(1, 6),
        size=st.integers(1, 60),
        priority=st.sampled_from([10, 50, 90]),
        pinned=st.booleans(),
        device=st.sampled_from([None, *DEVICES]),
    )
    def begin(self, ino: int, size: int, priority: int, pinned: bool, device: str | None) -> None:
        held, before = self.held(), [(e.key, e.size_bytes) for e in self.pool]
        generation = self.generations[ino] = self.generations.get(ino, 0) + 1
        key = SlabKey(ino, generation)
        for name in DEVICES:
            self.measure(name)
        try:
            chosen = self.pool.place(key, size, device, pinned=pinned)
            for gone in self.pool.make_room(chosen, size):
                assert gone not in held
                assert not gone.snapshots
        except HotTierFullError:
            assert before == [(e.key, e.size_bytes) for e in self.pool]
            return
        assert device in (None, chosen)
        assert pinned or size <= DEVICES[chosen] // 2
        slab = self.pool.begin(key, chosen, size, priority, pinned=pinned)
        assert self.pool.used_bytes(chosen) <= self.pool.limit_bytes(chosen)
        self.loading.append(slab)

    @precondition(lambda self: self.loading)
    @rule(index=INDEXES, failed=st.booleans())
    def finish(self, index: int, failed: bool) -> None:
        slab = self.loading.pop(index % len(self.loading))
        if failed:
            self.pool.remove(slab)
            return
        newest = all(e.key.generation <= slab.key.generation for e in self.ready(slab.key.ino))
        for gone in self.pool.publish(slab):
            assert not gone.lease_count
            assert gone.key.generation < slab.key.generation
        if newest:
            assert all(e is slab or e.snapshots for e in self.ready(slab.key.ino))

    def ready(self, ino: int) -> list[SlabInfo]:
        return [e for e in self.pool.of_inode(ino) if e.state == SlabState.READY]

    @rule(index=INDEXES)
    def attach(self, index: int) -> None:
        ready = [slab for slab in self.pool if slab.state == SlabState.READY]
        if ready:
            slab = ready[index % len(ready)]
            self.pool.attach(slab)
            self.leases.append(slab)

    @precondition(lambda self: self.leases)
    @rule(index=INDEXES)
    def release(self, index: int) -> None:
        slab = self.leases.pop(index % len(self.leases))
        gone = self.pool.release(slab)
        assert gone == (slab.state == SlabState.DOOMED and slab not in self.leases)

    @rule(index=INDEXES)
    def doom(self, index: int) -> None:
        ready = [slab for slab in self.pool if slab.state == SlabState.READY]
        if ready:
            slab = ready[index % len(ready)]
            assert self.pool.doom(slab) == (slab not in self.leases)

    @rule(ino=st.integers(1, 6), priority=st.sampled_from([10, 50, 90]), pinned=st.booleans())
    def mark(self, ino: int, priority: int, pinned: bool) -> None:
        self.pool.mark(ino, priority, pinned=pinned)

    @rule(index=INDEXES, name=st.sampled_from(["x", "y"]), add=st.booleans())
    def snapshot(self, index: int, name: str, add: bool) -> None:
        ready = [slab for slab in self.pool if slab.state == SlabState.READY]
        if ready and add:
            self.pool.keep(ready[index % len(ready)], name)
        elif not add:
            for slab in self.pool:
                if name in slab.snapshots:
                    self.pool.forget(slab, name)

    @rule(name=st.sampled_from([*DEVICES]), size=st.integers(0, 150))
    def use_from_outside(self, name: str, size: int) -> None:
        self.outside[name] = min(size, 2 * DEVICES[name] - self.pool.used_bytes(name))

    @rule(name=st.sampled_from([*DEVICES]))
    def collect(self, name: str) -> None:
        held = self.held()
        self.measure(name)
        limit_bytes = self.pool.limit_bytes(name)
        full = self.pool.used_bytes(name) > 0.8 * limit_bytes
        gone = self.pool.collect(name)
        assert not set(gone) & set(held)
        assert full or not gone
        stays = any(slab.evictable and slab.device == name for slab in self.pool)
        if full and stays:
            assert self.pool.used_bytes(name) <= int(0.7 * limit_bytes)

    @invariant()
    def sums_agree(self) -> None:
        for name, size in DEVICES.items():
            here = [slab for slab in self.pool if slab.device == name]
            assert self.pool.used_bytes(name) == sum(slab.size_bytes for slab in here)
            assert self.pool.used_bytes(name) <= size
        for slab in set(self.leases):
            assert self.pool.get(slab.key) is slab
            assert slab.lease_count == self.leases.count(slab)

    def teardown(self) -> None:
        with suppress(IndexError):
            while True:
                self.pool.release(self.leases.pop())
        for slab in self.loading:
            self.pool.remove(slab)
        for slab in self.pool:
            self.pool.doom(slab)
        assert [self.pool.used_bytes(name) for name in DEVICES] == [0, 0]


PoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True
)
TestPool = PoolMachine.TestCase
