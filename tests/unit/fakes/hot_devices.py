"""A device of this process's own memory, which others can take and which fails when told to.

Invariant: what was allocated and not released counts as used, so that a leak shows.
"""

from __future__ import annotations

from memfs.hot.devices.device import DeviceError, DeviceFullError, DeviceMemory


class MemorySlab:
    """A slab that is a bytearray."""

    def __init__(self, size_bytes: int, device: MemoryDevice | None = None) -> None:
        self.size_bytes = size_bytes
        self.content = bytearray(size_bytes)
        self.sealed = self.released = False
        self.writes: list[tuple[int, int]] = []
        self._device = device

    def write(self, offset: int, data: memoryview) -> None:
        if self._device is not None:
            self._device.meet("write")
        assert not self.sealed
        assert offset + len(data) <= self.size_bytes
        self.content[offset : offset + len(data)] = data
        self.writes.append((offset, len(data)))

    def read(self, offset: int, target: memoryview) -> None:
        assert not self.released
        target[:] = self.content[offset : offset + len(target)]

    def seal(self) -> None:
        self.sealed = True

    def export(self) -> int:
        """Nobody asks for it here."""
        raise NotImplementedError

    def release(self) -> None:
        self.released = True


class MemoryDevice:
    """Makes such slabs.

    Args:
        capacity_bytes: That of the device.
        index: Tells several of them apart.
    """

    kind = "cpu"

    def __init__(self, capacity_bytes: int = 1 << 40, index: int = 0) -> None:
        self.uuid = f"FAKE-{index}"
        self.name = f"cpu:{index}"
        self.granularity_bytes = 256
        self.capacity_bytes = capacity_bytes
        self.outside_bytes = 0
        """What others use of it."""
        self.slabs: list[MemorySlab] = []
        self.failing: dict[str, list[Exception]] = {}
        """Errors that the next calls meet, by call."""

    @property
    def used_bytes(self) -> int:
        """Bytes of slabs that are not released."""
        return sum(slab.size_bytes for slab in self.slabs if not slab.released)

    def meet(self, call: str) -> None:
        """Raise the next error of a call, if there is one."""
        if self.failing.get(call):
            raise self.failing[call].pop(0)

    def memory(self) -> DeviceMemory:
        free_bytes = self.capacity_bytes - self.used_bytes - self.outside_bytes
        return DeviceMemory(max(0, free_bytes), self.capacity_bytes)

    def allocate(self, size_bytes: int) -> MemorySlab:
        self.meet("allocate")
        rounded_bytes = -(-size_bytes // self.granularity_bytes) * self.granularity_bytes
        if rounded_bytes > self.memory().free_bytes:
            raise DeviceFullError(f"{self.name} is full")
        self.slabs.append(MemorySlab(rounded_bytes, self))
        return self.slabs[-1]

    def close(self) -> None:
        """Close nothing."""


__all__ = ["DeviceError", "MemoryDevice", "MemorySlab"]
