"""GPU memory as slabs, by CUDA's virtual memory management.

Invariants:
- What was begun and failed is undone: no handle, address range or descriptor is left.
- A sealed slab is mapped nowhere in this process; its memory lives as long as the handle here, or
  any exported descriptor or mapping in another process.

Each slab is one `cuMemCreate` allocation whose handle is exported as a POSIX descriptor. Not
cudaIpc: there, freeing what others have open is undefined behaviour.

Source: CUDA Driver API, "Virtual Memory Management".
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from memfs.hot.devices.cuda_calls import (
    DESCRIPTOR,
    AddressRange,
    Context,
    call,
    device_count,
    granularity_bytes,
    missing_ability,
    slab_properties,
    uuid_of,
)
from memfs.hot.devices.device import DeviceError, DeviceMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)


class CudaSlab:
    """One allocation.

    Args:
        device: Where; the thread is in its context.
        size_bytes: A multiple of its granularity.
    """

    def __init__(self, device: CudaDevice, size_bytes: int) -> None:
        self._device = device
        self.size_bytes = size_bytes
        self._handle: Any = call("cuMemCreate", size_bytes, slab_properties(device.ordinal), 0)
        try:
            self._range: AddressRange | None = self._map(writable=True)
        except BaseException:
            call("cuMemRelease", self._handle)
            raise

    def _map(self, *, writable: bool) -> AddressRange:
        return AddressRange(self._device.ordinal, self._handle, self.size_bytes, writable=writable)

    def write(self, offset: int, data: memoryview) -> None:
        if self._range is None:
            raise DeviceError(f"{self._device.name}: a sealed slab cannot be written")
        self._device.enter()
        call("cuMemcpyHtoD", self._range.address + offset, data, len(data))

    def read(self, offset: int, target: memoryview) -> None:
        self._device.enter()
        if self._range is not None:
            call("cuMemcpyDtoH", target, self._range.address + offset, len(target))
            return
        mapped = self._map(writable=False)
        try:
            call("cuMemcpyDtoH", target, mapped.address + offset, len(target))
        finally:
            mapped.unmap()

    def seal(self) -> None:
        if self._range is not None:
            self._device.enter()
            call("cuCtxSynchronize")
            self._range.unmap()
            self._range = None

    def export(self) -> int:
        self._device.enter()
        fd = int(call("cuMemExportToShareableHandle", self._handle, DESCRIPTOR, 0))
        os.set_inheritable(fd, False)
        return fd

    def release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            self._device.enter()
            if self._range is not None:
                self._range.unmap()
                self._range = None
        finally:
            call("cuMemRelease", handle)


class CudaDevice:
    """One GPU; its calls are for threads of our own, whose context they set.

    Args:
        ordinal: Among those that this process sees (CUDA_VISIBLE_DEVICES).

    Raises:
        DeviceError: It is not there, or cannot share memory.
    """

    kind = "cuda"

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.name = f"cuda:{ordinal}"
        call("cuInit", 0)
        if missing := missing_ability(ordinal):
            raise DeviceError(f"{self.name} has no {missing}, which the hot tier needs")
        self.uuid = uuid_of(ordinal)
        self.granularity_bytes = granularity_bytes(ordinal)
        self._context = Context(ordinal)

    def enter(self) -> None:
        """Make the device's context that of the calling thread."""
        self._context.enter()

    def memory(self) -> DeviceMemory:
        self.enter()
        free_bytes, total_bytes = call("cuMemGetInfo")
        return DeviceMemory(int(free_bytes), int(total_bytes))

    def allocate(self, size_bytes: int) -> CudaSlab:
        self.enter()
        rounded_bytes = -(-size_bytes // self.granularity_bytes) * self.granularity_bytes
        return CudaSlab(self, rounded_bytes)

    def close(self) -> None:
        self._context.close()


def open_named(name: str) -> Sequence[CudaDevice]:
    """Return the devices of a name: `auto`, `cuda`, `cuda:1` or `GPU-...`.

    `auto` leaves those out that cannot share memory, if there are others.

    Raises:
        DeviceError: There is nothing of the kind, or it cannot share memory.
    """
    count = device_count()
    if name == "auto":
        ordinals = _able(count)
    elif name.startswith("GPU-"):
        ordinals = [ordinal for ordinal in range(count) if uuid_of(ordinal) == name]
    else:
        ordinals = [int(name.partition(":")[2] or 0)]
    if not ordinals or max(ordinals) >= count:
        raise DeviceError(f"hot.devices: there is no {name}; the driver shows {count} devices")
    devices: list[CudaDevice] = []
    try:
        for ordinal in ordinals:
            devices.append(CudaDevice(ordinal))  # noqa: PERF401  those before a failure are closed
    except BaseException:
        for device in devices:
            device.close()
        raise
    return devices


def _able(count: int) -> list[int]:
    """Return the devices that can share memory; all of them, if not one can: opening says why."""
    missing = {ordinal: missing_ability(ordinal) for ordinal in range(count)}
    able = [ordinal for ordinal, what in missing.items() if not what]
    if not able:
        return [*missing]
    for ordinal in missing.keys() - able:
        log.warning("cuda:%d is left out: it has no %s", ordinal, missing[ordinal])
    return able


class CudaMapping:
    """A slab of another process, readable by this one's kernels.

    Args:
        fd: Exported by its owner; may be closed afterwards.
        size_bytes: As its owner says.
        ordinal: That of the device here.
    """

    def __init__(self, fd: int, size_bytes: int, ordinal: int) -> None:
        self.size_bytes = size_bytes
        self._context = Context(ordinal)
        try:
            with self._context:
                handle = call("cuMemImportFromShareableHandle", fd, DESCRIPTOR)
                try:
                    self._range = AddressRange(ordinal, handle, size_bytes, writable=False)
                finally:
                    # The mapping keeps the memory.
                    call("cuMemRelease", handle)
        except BaseException:
            self._context.close()
            raise

    @property
    def address(self) -> int:
        return self._range.address

    def unmap(self) -> None:
        """See `SlabMapping`; waits for the device, and can be tried again if that fails."""
        if not self._range.address:
            return
        with self._context:
            # Unmapping is in no stream's order: kernels that use the memory may be queued still.
            call("cuCtxSynchronize")
            self._range.unmap()
        self._context.close()


def map_cuda(fd: int, size_bytes: int, uuid: str) -> CudaMapping:
    """Map a slab of another process, read-only.

    Args:
        fd: As it was received; may be closed afterwards.
        size_bytes: As its owner says.
        uuid: That of its device; the ordinal can be another one here.

    Raises:
        DeviceError: This process does not see the device, or it failed.
    """
    for ordinal in range(device_count()):
        if uuid_of(ordinal) == uuid:
            return CudaMapping(fd, size_bytes, ordinal)
    raise DeviceError(f"this process does not see the device {uuid} (CUDA_VISIBLE_DEVICES?)")
