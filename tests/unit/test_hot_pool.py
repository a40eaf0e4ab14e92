"""The pool of the hot tier: capacities hold, what is in use stays, low priorities leave first."""

from __future__ import annotations

import pytest

from memfs.hot.pool import DeviceCapacity, HotTierFullError, Pool, SlabInfo, SlabKey, SlabState

A, B = "GPU-a", "GPU-b"


def pool_of(*sizes: int, admission_share: float = 1.0) -> Pool:
    """A pool with a device a size, and all of its memory free."""
    names = [A, B][: len(sizes)]
    pool = Pool(
        [
            DeviceCapacity(name, size, admission_share=admission_share)
            for name, size in zip(names, sizes, strict=True)
        ]
    )
    for name, size in zip(names, sizes, strict=True):
        pool.measure(name, size)
    return pool


def load(
    pool: Pool,
    ino: int,
    size: int,
    *,
    generation: int = 1,
    priority: int = 50,
    pinned: bool = False,
    device: str | None = None,
) -> SlabInfo:
    """Do what the loader does with a file that is read at once."""
    key = SlabKey(ino, generation)
    chosen = pool.place(key, size, device, pinned=pinned)
    pool.make_room(chosen, size)
    slab = pool.begin(key, chosen, size, priority, pinned=pinned)
    pool.publish(slab)
    return slab


def inos(pool: Pool) -> set[int]:
    return {slab.key.ino for slab in pool}


def test_room_is_made_by_the_file_that_was_not_used() -> None:
    """S3-FIFO: two uses prove a file, and one without any leaves first."""
    pool = pool_of(100)
    for ino in (1, 2):
        load(pool, ino, 50)
    for _ in range(2):
        used = pool.get(SlabKey(1, 1))
        assert used is not None
        pool.attach(used)
        pool.release(used)
    load(pool, 3, 50)
    assert inos(pool) == {1, 3}


def test_the_lowest_priority_leaves_first_however_much_it_is_used() -> None:
    """Classes come before use."""
    pool = pool_of(100)
    low = load(pool, 1, 50, priority=10)
    load(pool, 2, 50, priority=90)
    for _ in range(3):
        pool.attach(low)
        pool.release(low)
    load(pool, 3, 50)
    assert inos(pool) == {2, 3}


def test_what_is_leased_or_pinned_or_in_a_snapshot_stays() -> None:
    """A refusal names what holds the room, and takes nothing out."""
    pool = pool_of(90)
    leased, pinned, kept = load(pool, 1, 30), load(pool, 2, 30, pinned=True), load(pool, 3, 30)
    pool.attach(leased)
    pool.keep(kept, "before")
    with pytest.raises(HotTierFullError, match=r"90 B may not leave; unpin others"):
        pool.place(SlabKey(4, 1), 30)
    with pytest.raises(HotTierFullError):
        pool.make_room(A, 30)
    assert inos(pool) == {1, 2, 3}
    pool.mark(pinned.key.ino, 50, pinned=False)
    load(pool, 4, 30)
    assert inos(pool) == {1, 3, 4}


def test_a_doomed_slab_counts_until_its_last_lease_ends() -> None:
    """Its memory is not free before, whatever the slab says."""
    pool = pool_of(100)
    slab = load(pool, 1, 60)
    pool.attach(slab)
    pool.attach(slab)
    assert not pool.doom(slab)
    assert not pool.release(slab)
    assert (pool.used_bytes(A), slab.state) == (60, SlabState.DOOMED)
    assert pool.release(slab)
    assert (pool.used_bytes(A), len(pool)) == (0, 0)


def test_a_new_generation_takes_the_place_of_the_one_before() -> None:
    """At once where nobody has it mapped, with the last lease otherwise."""
    pool = pool_of(300)
    first = load(pool, 1, 50)
    pool.attach(first)
    second = load(pool, 1, 50, generation=2)
    assert first.state == SlabState.DOOMED
    third = load(pool, 1, 50, generation=3)
    assert pool.get(second.key) is None
    assert {slab.key.generation for slab in pool} == {1, 3}
    assert pool.release(first)
    assert list(pool) == [third]


def test_a_snapshot_keeps_a_generation_beyond_its_file() -> None:
    """It is not offered for eviction, and goes with its last snapshot."""
    pool = pool_of(100)
    old = load(pool, 1, 40)
    pool.keep(old, "a")
    pool.keep(old, "b")
    load(pool, 1, 40, generation=2)
    assert not pool.forget(old, "a")
    with pytest.raises(HotTierFullError):
        pool.place(SlabKey(2, 1), 70)
    assert pool.forget(old, "b")
    load(pool, 2, 60)
    assert (pool.used_bytes(A), inos(pool)) == (100, {1, 2})


def test_dropping_a_snapshot_of_the_current_generation_keeps_the_slab() -> None:
    """It is an ordinary one again."""
    pool = pool_of(100)
    slab = load(pool, 1, 40)
    pool.keep(slab, "a")
    assert not pool.forget(slab, "a")
    assert slab.evictable


def test_a_file_goes_to_the_device_with_the_most_room() -> None:
    """And an explicit device wins over that."""
    pool = pool_of(100, 200)
    assert load(pool, 1, 50).device == B
    assert load(pool, 2, 50).device == B
    assert load(pool, 3, 50, device=A).device == A
    assert load(pool, 4, 90).device == B


def test_a_new_generation_goes_where_the_file_is_leased() -> None:
    """Programs that use it there will use the new one there."""
    pool = pool_of(100, 200)
    slab = load(pool, 1, 20, device=A)
    pool.attach(slab)
    assert pool.place(SlabKey(1, 2), 20) == A


def test_a_device_that_others_use_has_a_smaller_capacity() -> None:
    """What is free now counts, and grows again when they let go."""
    pool = pool_of(100)
    load(pool, 1, 40)
    pool.measure(A, 10)
    assert pool.limit_bytes(A) == 50
    load(pool, 2, 40)
    assert inos(pool) == {2}
    pool.measure(A, 1000)
    assert pool.limit_bytes(A) == 100


def test_an_unpinned_file_may_not_turn_the_tier_over() -> None:
    """Admission: a file beyond its share is refused, a pinned one is not."""
    pool = pool_of(100, admission_share=0.5)
    with pytest.raises(HotTierFullError, match=r"unpinned files may take 50%"):
        pool.place(SlabKey(1, 1), 60)
    assert load(pool, 1, 60, pinned=True).pinned


def test_collection_stops_at_the_low_watermark() -> None:
    """Above 0.8 of the capacity down to 0.7, and not at all below."""
    pool = pool_of(100)
    for ino in range(8):
        load(pool, ino, 10)
    assert pool.collect(A) == []
    load(pool, 8, 10)
    assert sum(slab.size_bytes for slab in pool.collect(A)) == 20
    assert pool.used_bytes(A) == 70


def test_views_of_one_file_have_places_of_their_own() -> None:
    """A precision view can leave while the file stays."""
    pool = pool_of(100)
    plain = load(pool, 1, 40, pinned=True)
    view = pool.begin(SlabKey(1, 1, "float16"), A, 20, 50, pinned=False)
    pool.publish(view)
    load(pool, 2, 50)
    assert set(pool) == {plain, pool.get(SlabKey(2, 1))}


def test_files_that_no_program_has_for_long_are_idle() -> None:
    """Those that may not leave are not, and a lease that ends is a use."""
    now_s = 0.0
    pool = Pool([DeviceCapacity(A, 100)], lambda: now_s)
    pool.measure(A, 100)
    idle, used, leased = (load(pool, ino, 10) for ino in (1, 2, 3))
    load(pool, 4, 10, pinned=True)
    pool.keep(load(pool, 5, 10), "snapshot")
    for slab in (used, leased):
        pool.attach(slab)
    now_s = 50.0
    pool.release(used)
    now_s = 60.0
    assert pool.idle(60.0) == {idle.key.ino: 60.0}
    assert pool.idle(10.0) == {idle.key.ino: 60.0, used.key.ino: 10.0}
    assert pool.idle(61.0) == {}
    # Programs have a view of it.
    view = SlabKey(1, 1, "float16")
    slab = pool.begin(view, A, 10, 50, pinned=False)
    assert pool.idle(60.0) == {}
    pool.publish(slab)
    assert pool.idle(0.0) == {used.key.ino: 10.0, idle.key.ino: 0.0}


def test_a_file_that_is_to_expire_costs_no_look_at_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of files may be old at once: the server looked at all slabs for each of them."""
    now_s, looks = 0.0, 0
    pool = Pool([DeviceCapacity(A, 1000, admission_share=1.0)], lambda: now_s)
    pool.measure(A, 1000)
    for ino in range(100):
        load(pool, ino, 1)
        pool.publish(pool.begin(SlabKey(ino, 1, "float16"), A, 1, 50, pinned=False))

    def look(slab: SlabInfo) -> bool:
        nonlocal looks
        looks += 1
        return slab.queued and not slab.lease_count

    monkeypatch.setattr(SlabInfo, "evictable", property(look))
    now_s = 60.0
    assert [pool.idle_s(ino) for ino in range(100)] == [60.0] * 100
    assert looks == 200
    for ino in range(100):
        for slab in pool.of_inode(ino):
            pool.remove(slab)
    assert (len(pool), pool.idle(0.0), pool.idle_s(5)) == (0, {}, float("-inf"))
