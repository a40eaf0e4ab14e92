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

import os
from typing import TYPE_CHECKING, Any

from cuda.bindings import driver

from memfs.hot.devices.device import DeviceError, DeviceFullError, DeviceMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

_FD = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_NEEDED = (
    (
        driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        "virtual memory management",
    ),
    (
        driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
        "memory handles as file descriptors",
    ),
)
"""What a device must be able to do; under WSL 2 and some virtual GPUs it is not."""


def _call(name: str, *arguments: Any) -> Any:  # noqa: ANN401  the driver's structures
    """Call the driver.

    Raises:
        DeviceFullError: CUDA_ERROR_OUT_OF_MEMORY.
        DeviceError: Any other error, or there is no driver.
    """
    try:
        code, *values = getattr(driver, name)(*arguments)
    except RuntimeError as error:
        # Without libcuda.so.1 the bindings raise at the first call.
        raise DeviceError(f"no CUDA driver here, install NVIDIA's ({error})") from None
    if code != driver.CUresult.CUDA_SUCCESS:
        message = f"{name}: {code.name}"
        if code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceFullError(message)
        raise DeviceError(message)
    return values[0] if len(values) == 1 else tuple(values)


def _properties(ordinal: int) -> driver.CUmemAllocationProp:
    """Return what slabs on a device are made as."""
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.requestedHandleTypes = _FD
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = ordinal
    return properties


class _Range:
    """An allocation at an address of this process, readable or writable.

    Args:
        ordinal: Of the device that accesses it.
        handle: Of the allocation.
        size_bytes: Of it.
        writable: Or read-only.
    """

    def __init__(self, ordinal: int, handle: Any, size_bytes: int, *, writable: bool) -> None:  # noqa: ANN401
        self._size_bytes = size_bytes
        self.address = int(_call("cuMemAddressReserve", size_bytes, 0, 0, 0))
        try:
            _call("cuMemMap", self.address, size_bytes, 0, handle, 0)
            try:
                access = driver.CUmemAccessDesc()
                access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
                access.location.id = ordinal
                flags = driver.CUmemAccess_flags
                access.flags = (
                    flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                    if writable
                    else flags.CU_MEM_ACCESS_FLAGS_PROT_READ
                )
                _call("cuMemSetAccess", self.address, size_bytes, [access], 1)
            except BaseException:
                _call("cuMemUnmap", self.address, size_bytes)
                raise
        except BaseException:
            _call("cuMemAddressFree", self.address, size_bytes)
            raise

    def unmap(self) -> None:
        """Take it away; idempotent."""
        address, self.address = self.address, 0
        if address:
            _call("cuMemUnmap", address, self._size_bytes)
            _call("cuMemAddressFree", address, self._size_bytes)


class CudaSlab:
    """One allocation.

    Args:
        device: Where.
        size_bytes: A multiple of its granularity.
    """

    def __init__(self, device: CudaDevice, size_bytes: int) -> None:
        self._device = device
        self.size_bytes = size_bytes
        self._handle: Any = _call("cuMemCreate", size_bytes, _properties(device.ordinal), 0)
        try:
            self._range: _Range | None = _Range(
                device.ordinal, self._handle, size_bytes, writable=True
            )
        except BaseException:
            _call("cuMemRelease", self._handle)
            raise

    def write(self, offset: int, data: memoryview) -> None:
        """See `Slab`."""
        if self._range is None:
            raise DeviceError(f"{self._device.name}: a sealed slab cannot be written")
        self._device.enter()
        _call("cuMemcpyHtoD", self._range.address + offset, data, len(data))

    def read(self, offset: int, target: memoryview) -> None:
        """See `Slab`."""
        self._device.enter()
        if self._range is not None:
            _call("cuMemcpyDtoH", target, self._range.address + offset, len(target))
            return
        mapped = _Range(self._device.ordinal, self._handle, self.size_bytes, writable=False)
        try:
            _call("cuMemcpyDtoH", target, mapped.address + offset, len(target))
        finally:
            mapped.unmap()

    def seal(self) -> None:
        """See `Slab`."""
        if self._range is not None:
            self._device.enter()
            _call("cuCtxSynchronize")
            self._range.unmap()
            self._range = None

    def export(self) -> int:
        """See `Slab`."""
        fd = int(_call("cuMemExportToShareableHandle", self._handle, _FD, 0))
        os.set_inheritable(fd, False)
        return fd

    def release(self) -> None:
        """See `Slab`."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            if self._range is not None:
                self._range.unmap()
                self._range = None
        finally:
            _call("cuMemRelease", handle)


class CudaDevice:
    """One GPU.

    Args:
        ordinal: Among those that this process sees (CUDA_VISIBLE_DEVICES).

    Raises:
        DeviceError: It is not there, or cannot share memory.
    """

    kind = "cuda"

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.name = f"cuda:{ordinal}"
        _call("cuInit", 0)
        self._device = _call("cuDeviceGet", ordinal)
        for attribute, what in _NEEDED:
            if not _call("cuDeviceGetAttribute", attribute, self._device):
                raise DeviceError(f"{self.name} has no {what}, which the hot tier needs")
        self.uuid = _uuid(self._device)
        self.granularity_bytes = int(
            _call(
                "cuMemGetAllocationGranularity",
                _properties(ordinal),
                driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED,
            )
        )
        self._context: Any = _call("cuDevicePrimaryCtxRetain", self._device)

    def enter(self) -> None:
        """Make the device's context that of the calling thread: copies need one."""
        _call("cuCtxSetCurrent", self._context)

    def memory(self) -> DeviceMemory:
        """See `Device`."""
        self.enter()
        free_bytes, total_bytes = _call("cuMemGetInfo")
        return DeviceMemory(int(free_bytes), int(total_bytes))

    def allocate(self, size_bytes: int) -> CudaSlab:
        """See `Device`."""
        rounded_bytes = -(-size_bytes // self.granularity_bytes) * self.granularity_bytes
        return CudaSlab(self, rounded_bytes)

    def close(self) -> None:
        """See `Device`."""
        context, self._context = self._context, None
        if context is not None:
            _call("cuDevicePrimaryCtxRelease", self._device)


def _uuid(device: Any) -> str:  # noqa: ANN401  the driver's
    """Return a UUID as nvidia-smi prints it."""
    raw = bytes(_call("cuDeviceGetUuid", device).bytes).hex()
    parts = (raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:])
    return f"GPU-{'-'.join(parts)}"


def open_named(name: str) -> Sequence[CudaDevice]:
    """Return the devices of a name: `auto`, `cuda`, `cuda:1` or `GPU-...`.

    Raises:
        DeviceError: There is none, or it cannot share memory.
    """
    _call("cuInit", 0)
    count = int(_call("cuDeviceGetCount"))
    kind, _, index = name.partition(":")
    if name == "auto":
        ordinals = list(range(count))
    elif kind == "cuda" and (not index or index.isdigit()):
        ordinals = [int(index or 0)]
    elif name.startswith("GPU-"):
        uuids = [_uuid(_call("cuDeviceGet", ordinal)) for ordinal in range(count)]
        ordinals = [ordinal for ordinal, uuid in enumerate(uuids) if uuid == name]
    else:
        raise DeviceError(f"hot.devices: {name!r} is none of auto, cpu, cuda:N, GPU-UUID")
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


class CudaMapping:
    """A slab of another process, readable by this one's kernels.

    Args:
        fd: Exported by its owner; may be closed afterwards.
        size_bytes: As its owner says.
        ordinal: Of the device here.
    """

    def __init__(self, fd: int, size_bytes: int, ordinal: int) -> None:
        self.size_bytes = size_bytes
        handle = _call("cuMemImportFromShareableHandle", fd, _FD)
        try:
            self._range = _Range(ordinal, handle, size_bytes, writable=False)
        finally:
            # The mapping keeps the memory.
            _call("cuMemRelease", handle)

    @property
    def address(self) -> int:
        """See `SlabMapping`."""
        return self._range.address

    def unmap(self) -> None:
        """See `SlabMapping`."""
        self._range.unmap()


def map_cuda(fd: int, size_bytes: int, uuid: str) -> CudaMapping:
    """Map a slab of another process, read-only.

    Args:
        fd: As it was received; may be closed afterwards.
        size_bytes: As its owner says.
        uuid: Of its device; the ordinal can be another one here.

    Raises:
        DeviceError: This process does not see the device, or it failed.
    """
    _call("cuInit", 0)
    for ordinal in range(int(_call("cuDeviceGetCount"))):
        if _uuid(_call("cuDeviceGet", ordinal)) == uuid:
            return CudaMapping(fd, size_bytes, ordinal)
    raise DeviceError(f"this process does not see the device {uuid} (CUDA_VISIBLE_DEVICES?)")
