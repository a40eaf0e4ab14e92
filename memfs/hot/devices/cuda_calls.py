"""Calls of the CUDA driver: errors, contexts, and addresses.

Invariant: a call that fails raises, with its name and the driver's word for it, and what was begun
before it is undone: no handle, address range or context is left.

Source: CUDA Driver API, "Primary Context Management" and "Virtual Memory Management".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cuda.bindings import driver

from memfs.hot.devices.device import DeviceError, DeviceFullError

if TYPE_CHECKING:
    from types import TracebackType

DESCRIPTOR = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR

_ATTRIBUTES = driver.CUdevice_attribute

_NEEDED = (
    (
        _ATTRIBUTES.CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        "virtual memory management",
    ),
    (
        _ATTRIBUTES.CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
        "memory handles as file descriptors",
    ),
)
"""What a device must be able to do; under WSL 2 and some virtual GPUs it is not."""

_REMEDIES = {
    driver.CUresult.CUDA_ERROR_NO_DEVICE: "it sees no device; see nvidia-smi, CUDA_VISIBLE_DEVICES",
    driver.CUresult.CUDA_ERROR_DEVICE_UNAVAILABLE: "another program has it alone; see nvidia-smi",
}
"""That of errors whose name alone does not tell what to do."""


def call(name: str, *arguments: Any) -> Any:  # noqa: ANN401  the driver's structures
    """Call the driver.

    Raises:
        DeviceFullError: CUDA_ERROR_OUT_OF_MEMORY.
        DeviceError: Any other error, or there is no driver.
    """
    try:
        code, *values = getattr(driver, name)(*arguments)
    except RuntimeError as error:
        # The bindings raise where libcuda.so.1, or a function of it, is not there.
        raise DeviceError(
            f"no CUDA driver here, or one that is too old; install NVIDIA's ({error})"
        ) from None
    if code != driver.CUresult.CUDA_SUCCESS:
        message = f"{name}: {code.name}"
        if code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceFullError(message)
        if code in _REMEDIES:
            message = f"{message}: {_REMEDIES[code]}"
        raise DeviceError(message)
    return values[0] if len(values) == 1 else tuple(values)


def device_count() -> int:
    """Return how many devices this process sees, after the driver's start.

    Raises:
        DeviceError: None, or there is no driver.
    """
    call("cuInit", 0)
    return int(call("cuDeviceGetCount"))


def uuid_of(ordinal: int) -> str:
    """Return the UUID of a device as nvidia-smi prints it, but always with `GPU-`.

    Raises:
        DeviceError: The driver failed.
    """
    # Before CUDA 13 the call without a number gives all instances of a MIG device the same.
    name = "cuDeviceGetUuid_v2" if hasattr(driver, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    raw = bytes(call(name, call("cuDeviceGet", ordinal)).bytes).hex()
    parts = (raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:])
    return f"GPU-{'-'.join(parts)}"


def missing_ability(ordinal: int) -> str:
    """Return what a device lacks for sharing memory; empty: nothing.

    Raises:
        DeviceError: The driver failed.
    """
    device = call("cuDeviceGet", ordinal)
    return " and no ".join(
        what for attribute, what in _NEEDED if not call("cuDeviceGetAttribute", attribute, device)
    )


def slab_properties(ordinal: int) -> driver.CUmemAllocationProp:
    """Return what slabs on a device are made as.

    Raises:
        DeviceError: The driver failed.
    """
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.requestedHandleTypes = DESCRIPTOR
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = ordinal
    # Only when made so can programs send tensors from the slab by NCCL or UCX without a copy.
    properties.allocFlags.gpuDirectRDMACapable = call(
        "cuDeviceGetAttribute",
        _ATTRIBUTES.CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
        call("cuDeviceGet", ordinal),
    )
    return properties


class Context:
    """The primary context of a device, which torch uses too, kept alive.

    As a context manager it is the calling thread's, which gets back the one that it had: the thread
    may be the user's.

    Args:
        ordinal: That of the device.

    Raises:
        DeviceError: The driver failed.
    """

    def __init__(self, ordinal: int) -> None:
        self._device = call("cuDeviceGet", ordinal)
        self._context: Any = call("cuDevicePrimaryCtxRetain", self._device)

    def enter(self) -> None:
        """Make it the calling thread's for good: for threads of our own."""
        call("cuCtxSetCurrent", self._context)

    def __enter__(self) -> None:
        call("cuCtxPushCurrent", self._context)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        call("cuCtxPopCurrent")

    def close(self) -> None:
        """Let go of it; idempotent."""
        context, self._context = self._context, None
        if context is not None:
            call("cuDevicePrimaryCtxRelease", self._device)


class AddressRange:
    """An allocation at an address of this process, readable or writable.

    Args:
        ordinal: That of the device that accesses it; its context is the thread's.
        handle: That of the allocation.
        writable: Or read-only.

    Raises:
        DeviceFullError: There are no such addresses.
        DeviceError: The driver failed.
    """

    def __init__(self, ordinal: int, handle: Any, size_bytes: int, *, writable: bool) -> None:  # noqa: ANN401
        self._size_bytes = size_bytes
        self.address = int(call("cuMemAddressReserve", size_bytes, 0, 0, 0))
        try:
            call("cuMemMap", self.address, size_bytes, 0, handle, 0)
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
                call("cuMemSetAccess", self.address, size_bytes, [access], 1)
            except BaseException:
                call("cuMemUnmap", self.address, size_bytes)
                raise
        except BaseException:
            call("cuMemAddressFree", self.address, size_bytes)
            raise

    def unmap(self) -> None:
        """Take it away; idempotent. Nothing of the device uses it any more."""
        address, self.address = self.address, 0
        if address:
            call("cuMemUnmap", address, self._size_bytes)
            call("cuMemAddressFree", address, self._size_bytes)


def granularity_bytes(ordinal: int) -> int:
    """Return what sizes of slabs on a device are multiples of.

    Raises:
        DeviceError: The driver failed.
    """
    flag = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
    return int(call("cuMemGetAllocationGranularity", slab_properties(ordinal), flag))
