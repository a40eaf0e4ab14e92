"""The CPU twin of a GPU: slabs of shared memory, by the same protocol.

Invariant: a sealed slab is write-sealed by the kernel (memfd_create(2), F_ADD_SEALS), so that no
process can change it, and no process that maps it can meet its end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.hot.devices.device import DeviceError, DeviceFullError, DeviceMemory
from memfs.linux.mappings import Mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class MemfdSlab:
    """One memfd.

    Args:
        device: Told when the slab is released.
        size_bytes: A multiple of the page size.
    """

    def __init__(self, device: MemfdDevice, size_bytes: int) -> None:
        self._device = device
        self.size_bytes = size_bytes
        self._sealed = False
        with self._telling("memfd_create"):
            self._fd = os.memfd_create("memfs-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # So that memory that is not there is found out here, and not by a signal later.
            with self._telling("fallocate"):
                os.posix_fallocate(self._fd, 0, size_bytes)
        except BaseException:
            os.close(self._fd)
            raise

    @contextlib.contextmanager
    def _telling(self, call: str) -> Iterator[None]:
        """Raise what the kernel says to a call as an error of the device."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.ENOMEM)
            kind = DeviceFullError if full else DeviceError
            raise kind(f"{self._device.name}: {call}: {error.strerror}") from error

    def write(self, offset: int, data: memoryview) -> None:
        if self._sealed:
            raise DeviceError(f"{self._device.name}: a sealed slab cannot be written")
        assert 0 <= offset <= self.size_bytes - len(data)
        done = 0
        with self._telling("pwrite"):
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)

    def read(self, offset: int, target: memoryview) -> None:
        assert 0 <= offset <= self.size_bytes - len(target)
        done = 0
        with self._telling("preadv"):
            while done < len(target):
                done += os.preadv(self._fd, [target[done:]], offset + done)

    def seal(self) -> None:
        if not self._sealed:
            with self._telling("F_ADD_SEALS"):
                fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
            self._sealed = True

    def export(self) -> int:
        # Read-only, and not a duplicate: before Linux 6.7 a write-sealed file cannot be mapped
        # shared by a descriptor that is open for writing, not even for reading.
        with self._telling("open"):
            return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self._device.give_back(self.size_bytes)


class MemfdDevice:
    """Shared memory as a device; slabs may come and go in several threads.

    Args:
        index: Tells several of them apart.
        capacity_bytes: What it has; None: what the machine has available now.
    """

    kind = "cpu"
    granularity_bytes = PAGE_BYTES

    def __init__(self, index: int = 0, capacity_bytes: int | None = None) -> None:
        self.uuid = f"CPU-{index}"
        self.name = f"cpu:{index}"
        self._capacity_bytes = available_bytes() if capacity_bytes is None else capacity_bytes
        self._lock = threading.Lock()
        self._used_bytes = 0

    def memory(self) -> DeviceMemory:
        return DeviceMemory(self._capacity_bytes - self._used_bytes, self._capacity_bytes)

    def allocate(self, size_bytes: int) -> MemfdSlab:
        rounded_bytes = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        with self._lock:
            if self._used_bytes + rounded_bytes > self._capacity_bytes:
                raise DeviceFullError(f"{self.name} has no {rounded_bytes} bytes left")
            self._used_bytes += rounded_bytes
        try:
            return MemfdSlab(self, rounded_bytes)
        except BaseException:
            self.give_back(rounded_bytes)
            raise

    def give_back(self, size_bytes: int) -> None:
        """A slab was released."""
        with self._lock:
            self._used_bytes -= size_bytes

    def close(self) -> None:
        """Nothing is left to let go of: memory goes with its descriptors."""


def available_bytes() -> int:
    """Return the memory that programs can have without swapping (proc_meminfo(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    raise DeviceError("/proc/meminfo has no MemAvailable")


def map_memfd(fd: int, size_bytes: int, *, private: bool) -> Mapping:
    """Map a slab of another process.

    Args:
        fd: As it was received; may be closed afterwards.
        size_bytes: As its owner says.
        private: Writable copy-on-write, and not read-only.

    Raises:
        DeviceError: It is not sealed, or shorter: touching it could end the process.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        found_bytes = os.fstat(fd).st_size
    except OSError as error:
        raise DeviceError(f"what the hot server sent is no slab: {error.strerror}") from error
    needed = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK
    if seals & needed != needed or found_bytes < size_bytes:
        raise DeviceError("what the hot server sent is not sealed, or too short")
    try:
        return Mapping(fd, size_bytes, private=private)
    except OSError as error:
        raise DeviceError(f"a slab of {size_bytes} bytes cannot be mapped: {error}") from error
