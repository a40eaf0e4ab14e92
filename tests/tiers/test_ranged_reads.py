"""Reading cold and glacier files: small ones are made raw, large ones are served by frames."""

from __future__ import annotations

import errno
import mmap
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.posix.capabilities import KERNEL, Capability
from tests.processes import holding, together
from tests.tiers.tiering import (
    FRAME_BYTES,
    HYDRATE_BYTES_MAX,
    compressible,
    daemon_read_bytes,
    incompressible,
    pin,
    residence,
    send,
    status,
    tier_status,
    why,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Site
    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.data_path]

MIB = 1 << 20
SIZE = 4 * MIB + 12_345
CONTENT = compressible(SIZE)
MMAP_OF_DIRECT_KERNEL = (6, 6)
"""First Linux that maps a file shared though it is open for direct reading."""


@pytest.fixture(params=["cold", "glacier"])
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def large(place: Path, tier: str) -> Path:
    """A file of many frames, beyond the size that is made raw when it is opened."""
    path = place / "large"
    path.write_bytes(CONTENT)
    send(tier, path)
    return path


@pytest.fixture
def direct_fd(large: Path) -> Iterator[int]:
    """A descriptor that reads `large` by its frames."""
    fd = os.open(large, os.O_RDONLY)
    # Without passthrough the kernel still has the pages that were written.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert "raw" not in residence(large).forms
    yield fd
    os.close(fd)


def ranges(seed: int, count: int) -> list[tuple[int, int]]:
    """Return ranges of all sizes, across frames and the end of the file."""
    rng = random.Random(seed)
    found = [(0, 1), (SIZE - 1, 10), (SIZE, 10), (FRAME_BYTES - 1, 2), (FRAME_BYTES, FRAME_BYTES)]
    sizes = (1, 100, 4096, FRAME_BYTES, 200_000)
    return found + [(rng.randrange(SIZE), rng.choice(sizes)) for _ in range(count)]


def matches(fd: int, seed: int = 1, count: int = 20) -> bool:
    return all(
        os.pread(fd, size, offset) == CONTENT[offset : offset + size]
        for offset, size in ranges(seed, count)
    )


def test_a_small_file_is_raw_when_open_returns(place: Path, tier: str) -> None:
    """Up to `cold.hydrate_max`: the first read is as fast as all others."""
    path = place / "small"
    path.write_bytes(CONTENT[:HYDRATE_BYTES_MAX])
    send(tier, path)
    with path.open("rb") as file:
        assert "raw" in residence(path).forms
        assert file.read() == CONTENT[:HYDRATE_BYTES_MAX]


def test_ranges_of_a_large_file_are_served_without_it(large: Path, direct_fd: int) -> None:
    """No read waits for the whole file."""
    for offset in (0, FRAME_BYTES * 7 - 3, SIZE - 100):
        assert os.pread(direct_fd, 1000, offset) == CONTENT[offset : offset + 1000]
    assert os.pread(direct_fd, 10, SIZE) == b""
    assert "raw" not in residence(large).forms


def test_random_ranges_are_equal_while_the_file_becomes_raw(large: Path, direct_fd: int) -> None:
    """A program that reads so much gets a local copy meanwhile; no read may see the change."""
    assert matches(direct_fd, count=60)
    wait_for(lambda: "raw" in residence(large).forms, lambda: (residence(large), why(large)))
    assert matches(direct_fd, seed=2)
    with large.open("rb") as file:
        assert file.read() == CONTENT


def test_a_quarter_read_in_order_brings_the_file(large: Path, direct_fd: int) -> None:
    """Below that nothing is fetched; beyond it the mover makes the file raw."""
    step = 64 << 10
    # Without passthrough the kernel would read ahead, beyond a quarter.
    os.posix_fadvise(direct_fd, 0, 0, os.POSIX_FADV_RANDOM)
    for offset in range(0, SIZE // 5, step):
        assert os.pread(direct_fd, step, offset) == CONTENT[offset : offset + step]
    assert "raw" not in residence(large).forms
    for offset in range(SIZE // 5, SIZE // 2, step):
        os.pread(direct_fd, step, offset)
    wait_for(lambda: "raw" in residence(large).forms, lambda: (residence(large), why(large)))


def test_private_maps_read_equal(direct_fd: int) -> None:
    """MAP_PRIVATE works on a file that is served by frames, under every driver."""
    with mmap.mmap(direct_fd, SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
        for offset, size in ranges(3, 20):
            assert mapped[offset : offset + size] == CONTENT[offset : offset + size]


def test_shared_maps_read_equal_or_are_enodev(site: Site, direct_fd: int) -> None:
    """MAP_SHARED as the table in docs/reference/drivers.md says."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if site.name == KERNEL and release < MMAP_OF_DIRECT_KERNEL:
        with pytest.raises(OSError, match="No such device") as caught:
            mmap.mmap(direct_fd, SIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        assert caught.value.errno == errno.ENODEV
        return
    with mmap.mmap(direct_fd, SIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as mapped:
        for offset, size in ranges(3, 20):
            assert mapped[offset : offset + size] == CONTENT[offset : offset + size]


def test_a_shared_map_lasts_while_the_file_becomes_raw(large: Path, site: Site) -> None:
    """Opens beside the map, and after it, go on as well."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if site.name == KERNEL and release < MMAP_OF_DIRECT_KERNEL:
        pytest.skip("the kernel does not map a file that is read by frames")
    fd = os.open(large, os.O_RDONLY)
    with mmap.mmap(fd, SIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as mapped:
        os.close(fd)
        assert mapped[:1000] == CONTENT[:1000]
        pin(large, "warm")
        wait_for(lambda: "raw" in residence(large).forms, lambda: why(large))
        assert large.read_bytes() == CONTENT
        assert mapped[SIZE - 1000 :] == CONTENT[-1000:]
    assert large.read_bytes() == CONTENT


def test_readers_beside_each_other_read_equal(large: Path) -> None:
    """Frames that several want at a time are whole for all of them."""

    def read(index: int) -> bool:
        fd = os.open(large, os.O_RDONLY)
        try:
            return matches(fd, seed=index, count=25)
        finally:
            os.close(fd)

    assert together(4, read) == [True] * 4


def test_reading_goes_on_while_the_file_moves_through_the_tiers(large: Path) -> None:
    """A descriptor from before any move reads equal after each of them."""
    with holding(lambda: None):
        fd = os.open(large, os.O_RDONLY)
        try:
            for tier in ("warm", "cold", "glacier", "auto"):
                pin(large, tier)
                assert matches(fd, seed=len(tier), count=10)
            pin(large, "warm")
            wait_for(lambda: "raw" in residence(large).forms, lambda: why(large))
            assert matches(fd)
        finally:
            os.close(fd)


def test_a_direct_reader_does_not_keep_a_file_from_the_glacier(place: Path) -> None:
    """From packed to remote under an open descriptor: its reads turn to the form that is there."""
    path = place / "large"
    path.write_bytes(CONTENT)
    send("cold", path)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(fd, 100, 0) == CONTENT[:100]
        send("glacier", path)
        assert os.pread(fd, 100, MIB) == CONTENT[MIB : MIB + 100]
    finally:
        os.close(fd)


def test_an_unlinked_file_is_read_to_its_end(mount: Mount, large: Path) -> None:
    """As on every file system; its forms go with the last descriptor."""
    counts = {tier: tier_status(mount, tier)["file_count"] for tier in ("cold", "glacier")}
    fd = os.open(large, os.O_RDONLY)
    try:
        large.unlink()
        for offset in range(0, SIZE, MIB):
            assert os.pread(fd, MIB, offset) == CONTENT[offset : offset + MIB]
    finally:
        os.close(fd)
    wait_for(
        lambda: (
            any(tier_status(mount, tier)["file_count"] < counts[tier] for tier in counts)
            and status(mount)["work"]["garbage_count"] == 0
        ),
        lambda: status(mount),
    )


def test_a_file_replaced_by_rename_is_read_to_its_end(place: Path, large: Path) -> None:
    """The descriptor is of the file, not of the name."""
    fd = os.open(large, os.O_RDONLY)
    try:
        (place / "new").write_bytes(b"new")
        (place / "new").rename(large)
        assert matches(fd, count=10)
        assert large.read_bytes() == b"new"
    finally:
        os.close(fd)


def assert_a_range_costs_a_few_frames(mount: Mount, path: Path, size: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        before = daemon_read_bytes(mount)
        assert len(os.pread(fd, MIB, size // 2 + 4321)) == MIB
        assert daemon_read_bytes(mount) - before < 4 * MIB
    finally:
        os.close(fd)
    assert "raw" not in residence(path).forms


def test_a_range_costs_a_few_frames(mount: Mount, place: Path, tier: str) -> None:
    """1 MiB of 64: neither the file nor its object is read whole."""
    size = 64 * MIB
    path = place / "large"
    path.write_bytes(compressible(MIB) * 64)
    send(tier, path)
    assert_a_range_costs_a_few_frames(mount, path, size)


def test_a_range_of_a_gibibyte_costs_a_few_frames(mount: Mount, place: Path, tier: str) -> None:
    """The cost does not grow with the file, which has a hole after each MiB of data."""
    piece = compressible(MIB)
    path = place / "large"
    with path.open("wb") as file:
        for offset in range(0, 1024 * MIB, 32 * MIB):
            os.pwrite(file.fileno(), piece, offset)
        file.truncate(1024 * MIB)
    send(tier, path)
    assert_a_range_costs_a_few_frames(mount, path, 1024 * MIB)


def test_an_object_that_does_not_shrink_is_read_by_ranges(mount: Mount, place: Path) -> None:
    """Incompressible bytes are frames like all others."""
    path = place / "noise"
    content = incompressible(8 * MIB)
    path.write_bytes(content)
    send("glacier", path)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.pread(fd, 5000, 3 * MIB - 7) == content[3 * MIB - 7 : 3 * MIB + 4993]
    finally:
        os.close(fd)
    assert residence(path).forms == ["remote"]
