"""Loading into devices that are small, shared, and fail: sums agree, and nothing is left behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
from safetensors.numpy import save

from memfs.hot.devices.device import DeviceError, DeviceFullError
from memfs.hot.headers import HeaderReader
from memfs.hot.loading import LoadedSlab, Loader, LoadRequest
from memfs.hot.pool import DeviceCapacity, HotTierFullError, Pool, SlabKey
from memfs.hot.protocol import HotMissError
from memfs.hot.slabs import Layout
from memfs.hot.tensors import FormatError
from tests.tiers.tensors import tensors
from tests.unit.fakes.hot_devices import MemoryDevice

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024


class Depot:
    """A loader over fake devices."""

    def __init__(self, directory: Path, *sizes: int, capacity: int, reserve: int = 0) -> None:
        self.directory = directory
        self.devices = [MemoryDevice(size, index) for index, size in enumerate(sizes)]
        capacities = [DeviceCapacity(device.uuid, capacity) for device in self.devices]
        self.pool = Pool(capacities)
        self.loader = Loader(self.pool, [*self.devices], reserve, HeaderReader(os.environ))

    async def load(
        self, ino: int, size: int, *, generation: int = 1, pinned: bool = True, publish: bool = True
    ) -> LoadedSlab:
        """Load a file of about that many bytes."""
        path = self.directory / f"{ino}-{generation}"
        path.write_bytes(save(tensors(size, ino)))
        fd = os.open(path, os.O_RDONLY)
        try:
            key = SlabKey(ino, generation)
            request = LoadRequest(key, fd, str(path), None, None, 50, pinned, None)
            resident = await self.loader.load(request)
        finally:
            os.close(fd)
        if publish:
            self.loader.publish(key)
        return resident

    def check(self) -> None:
        """The pool and the devices agree."""
        for device in self.devices:
            here = [entry for entry in self.pool if entry.device == device.uuid]
            index_bytes = sum(entry.index_bytes for entry in here)
            assert self.pool.used_bytes(device.uuid) == device.used_bytes + index_bytes

    def inos(self) -> set[int]:
        return {entry.key.ino for entry in self.pool}


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path, 1000 * KIB, capacity=500 * KIB)


async def test_a_device_that_is_full_although_it_seemed_not_is_tried_again(depot: Depot) -> None:
    """Somebody else was faster; what is measured then counts that."""
    depot.devices[0].failing["allocate"] = [DeviceFullError("taken")]
    await depot.load(1, 100 * KIB)
    depot.check()
    depot.devices[0].failing["allocate"] = [DeviceFullError("taken")] * 3
    with pytest.raises(HotTierFullError, match="taken"):
        await depot.load(2, 100 * KIB)
    assert (depot.inos(), depot.loader.refused_count) == ({1}, 1)
    depot.check()


async def test_what_others_take_is_made_room_for(depot: Depot) -> None:
    """Unpinned slabs leave, pinned ones do not."""
    await depot.load(1, 100 * KIB, pinned=False)
    await depot.load(2, 100 * KIB)
    depot.devices[0].outside_bytes = 800 * KIB
    with pytest.raises(HotTierFullError):
        await depot.load(3, 150 * KIB)
    assert depot.inos() == {1, 2}
    depot.devices[0].outside_bytes = 750 * KIB
    await depot.load(3, 100 * KIB)
    assert depot.inos() == {2, 3}
    depot.check()


async def test_memory_is_left_to_others(tmp_path: Path) -> None:
    """The reserve is not taken, whatever the capacity."""
    depot = Depot(tmp_path, 300 * KIB, capacity=300 * KIB, reserve=150 * KIB)
    await depot.load(1, 100 * KIB)
    with pytest.raises(HotTierFullError):
        await depot.load(2, 100 * KIB)
    depot.check()


@pytest.mark.parametrize("call", ["allocate", "write"])
async def test_a_device_that_fails_leaves_no_slab(depot: Depot, call: str) -> None:
    """The next one is loaded as if nothing had been."""
    depot.devices[0].failing[call] = [DeviceError("broken")]
    with pytest.raises(DeviceError, match="broken"):
        await depot.load(1, 100 * KIB)
    assert (len(depot.pool), depot.devices[0].used_bytes) == (0, 0)
    await depot.load(1, 100 * KIB)
    depot.check()


async def test_a_file_that_is_no_tensors_leaves_no_slab(depot: Depot) -> None:
    """Nothing is allocated for it."""
    path = depot.directory / "text"
    path.write_text("text" * 100)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(FormatError, match="text"):
            await depot.loader.load(
                LoadRequest(SlabKey(1, 1), fd, str(path), None, None, 50, False, None)
            )
    finally:
        os.close(fd)
    assert depot.devices[0].slabs == []


async def test_what_comes_is_not_what_leaves(depot: Depot) -> None:
    """A slab beyond the high watermark pushes others down to the low one, and stays."""
    for ino in range(1, 5):
        await depot.load(ino, 90 * KIB, pinned=False)
    await depot.load(5, 90 * KIB, pinned=False)
    assert 5 in depot.inos()
    assert depot.pool.used_bytes("FAKE-0") <= 350 * KIB
    depot.check()


async def test_a_discarded_generation_was_never_there(depot: Depot) -> None:
    """It was rewritten while it was loaded."""
    await depot.load(1, 50 * KIB, publish=False)
    depot.loader.discard(SlabKey(1, 1))
    assert (len(depot.pool), depot.devices[0].used_bytes) == (0, 0)
    with pytest.raises(HotMissError, match="not loaded"):
        depot.loader.publish(SlabKey(1, 1))
    await depot.load(1, 50 * KIB, generation=2)
    depot.check()


async def test_a_view_is_made_once_however_many_ask(depot: Depot) -> None:
    """And goes with its file."""
    base = await depot.load(1, 50 * KIB)
    views: list[LoadedSlab] = []

    async def ask() -> None:
        views.append(await depot.loader.variant(base, Layout("float16")))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert len({id(view.info) for view in views}) == 1
    assert len(depot.pool) == 2
    assert await depot.loader.variant(base, Layout()) is base
    depot.loader.evict(1)
    assert (len(depot.pool), depot.devices[0].used_bytes) == (0, 0)
    with pytest.raises(HotMissError, match="left the hot tier"):
        await depot.loader.variant(base, Layout("bfloat16"))


async def test_a_view_without_room_leaves_its_file_alone(depot: Depot) -> None:
    """It is refused, and the file stays."""
    base = await depot.load(1, 480 * KIB)
    with pytest.raises(HotTierFullError):
        await depot.loader.variant(base, Layout("float16"))
    assert base.info.lease_count == 0
    depot.check()


async def test_files_go_to_the_device_with_room(tmp_path: Path) -> None:
    """And a refusal names all of them."""
    depot = Depot(tmp_path, 200 * KIB, 400 * KIB, capacity=1000 * KIB)
    devices = [(await depot.load(ino, 150 * KIB)).info.device for ino in (1, 2, 3)]
    assert devices == ["FAKE-1", "FAKE-1", "FAKE-0"]
    with pytest.raises(HotTierFullError, match=r"FAKE-0 has .*; FAKE-1 has "):
        await depot.load(4, 150 * KIB)
    depot.check()


async def test_the_daemon_is_told_of_files_that_left_and_not_of_views(depot: Depot) -> None:
    """Its picture of the tier is of files."""
    base = await depot.load(1, 50 * KIB)
    await depot.loader.variant(base, Layout("float16"))
    depot.loader.evict(1)
    with trio.fail_after(5):
        assert await depot.loader.next_gone() == SlabKey(1, 1)
    with trio.move_on_after(0.01):
        raise AssertionError(await depot.loader.next_gone())
