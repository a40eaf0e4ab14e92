from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from typing import TYPE_CHECKING

import pytest

from memfs.hot.devices.device import DeviceError, DeviceFullError
from memfs.hot.devices.memfd import PAGE_BYTES, SEALS, MemfdDevice, map_memfd
from tests.disk_calls import intercept
from tests.waiting import WAIT_S, join

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def device() -> MemfdDevice:
    return MemfdDevice(capacity_bytes=4 * PAGE_BYTES)


def sealed(size_bytes: int, seals: int) -> int:
    """Return a memfd with some seals."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.fixture(params=["unsealed", "can shrink", "can be written", "too short", "file", "pipe"])
def no_slab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A descriptor that must not be mapped as two pages."""
    match request.param:
        case "unsealed":
            fd = sealed(2 * PAGE_BYTES, 0)
        case "can shrink":
            fd = sealed(2 * PAGE_BYTES, fcntl.F_SEAL_WRITE)
        case "can be written":
            fd = sealed(2 * PAGE_BYTES, fcntl.F_SEAL_SHRINK)
        case "too short":
            fd = sealed(PAGE_BYTES, SEALS)
        case "file":
            path = tmp_path / "file"
            path.write_bytes(bytes(2 * PAGE_BYTES))
            fd = os.open(path, os.O_RDONLY)
        case _:
            fd, other = os.pipe()
            os.close(other)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("private", [False, True])
def test_only_what_can_neither_change_nor_shrink_is_mapped(no_slab: int, private: bool) -> None:
    """It does not matter who is on the other end: reading must not end this process by a signal."""
    with pytest.raises(DeviceError):
        map_memfd(no_slab, 2 * PAGE_BYTES, private=private)


@pytest.mark.parametrize("size_bytes", [0, -1])
def test_a_mapping_of_no_bytes_is_refused(size_bytes: int) -> None:
    """The size is the server's word."""
    fd = sealed(PAGE_BYTES, SEALS)
    try:
        with pytest.raises(DeviceError):
            map_memfd(fd, size_bytes, private=False)
    finally:
        os.close(fd)


def test_an_exported_descriptor_cannot_write(device: MemfdDevice) -> None:
    """Not even to a slab that is not sealed yet."""
    slab = device.allocate(PAGE_BYTES)
    fd = slab.export()
    try:
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
    finally:
        os.close(fd)
        slab.release()


def test_what_is_allocated_counts_until_it_is_released(device: MemfdDevice) -> None:
    """By whole pages, and once."""
    slab = device.allocate(PAGE_BYTES + 1)
    assert device.memory() == (2 * PAGE_BYTES, 4 * PAGE_BYTES)
    slab.release()
    slab.release()
    assert device.memory() == (4 * PAGE_BYTES, 4 * PAGE_BYTES)


def test_a_slab_that_does_not_fit_takes_nothing(device: MemfdDevice) -> None:
    """Be it that the device is full, or that the kernel has no memory."""
    slab = device.allocate(PAGE_BYTES)
    with pytest.raises(DeviceFullError):
        device.allocate(4 * PAGE_BYTES)
    assert device.memory().free_bytes == 3 * PAGE_BYTES
    slab.release()


@pytest.mark.parametrize(
    ("error", "kind"), [(errno.ENOMEM, DeviceFullError), (errno.EIO, DeviceError)]
)
def test_memory_that_the_kernel_does_not_give_is_not_counted(
    device: MemfdDevice, monkeypatch: pytest.MonkeyPatch, error: int, kind: type[Exception]
) -> None:
    """And the descriptor is closed; only a full machine may have room later."""

    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    before = os.listdir("/proc/self/fd")
    intercept(monkeypatch, "posix_fallocate", before=fail)
    with pytest.raises(kind) as raised:
        device.allocate(PAGE_BYTES)
    assert type(raised.value) is kind
    assert device.memory().free_bytes == 4 * PAGE_BYTES
    assert os.listdir("/proc/self/fd") == before


def test_a_slab_that_somebody_can_write_is_not_sealed(device: MemfdDevice) -> None:
    """Who has its descriptor can open it for writing until then; that is an error of the device."""
    slab = device.allocate(PAGE_BYTES)
    exported = slab.export()
    fd = os.open(f"/proc/self/fd/{exported}", os.O_RDWR)
    with mmap.mmap(fd, PAGE_BYTES), pytest.raises(DeviceError, match="F_ADD_SEALS"):
        slab.seal()
    slab.seal()
    os.close(fd)
    os.close(exported)
    slab.release()


def test_what_fails_fails_as_a_device(device: MemfdDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers know no other errors; the message has the call and what the kernel says."""

    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    slab = device.allocate(PAGE_BYTES)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        patched.setattr(os, "preadv", fail)
        patched.setattr(os, "pwrite", fail)
        patched.setattr(os, "memfd_create", fail)
        with pytest.raises(DeviceError, match="cpu:0: open: Too many open files"):
            slab.export()
        with pytest.raises(DeviceError, match="cpu:0: preadv: "):
            slab.read(0, memoryview(bytearray(1)))
        with pytest.raises(DeviceError, match="cpu:0: pwrite: "):
            slab.write(0, memoryview(b"x"))
        with pytest.raises(DeviceError, match="cpu:0: memfd_create: "):
            device.allocate(PAGE_BYTES)
    slab.release()
    assert device.memory().free_bytes == 4 * PAGE_BYTES


def test_threads_never_get_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ask before any of them has its memory."""
    device = MemfdDevice(capacity_bytes=PAGE_BYTES)
    both = threading.Barrier(2)
    outcomes = []

    def ask() -> None:
        try:
            slab = device.allocate(PAGE_BYTES)
        except DeviceFullError:
            outcomes.append("full")
            both.wait(WAIT_S)
        else:
            outcomes.append("made")
            slab.release()

    intercept(monkeypatch, "posix_fallocate", before=lambda *_: both.wait(WAIT_S))
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert sorted(outcomes) == ["full", "made"]
    assert device.memory().free_bytes == PAGE_BYTES
