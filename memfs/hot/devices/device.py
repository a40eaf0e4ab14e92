"""What every device of the hot tier can do.

Invariant: a slab is written, sealed, and from then on never changes; its memory lives as long as
the slab or any exported descriptor or mapping of it, in whatever process.
"""

from __future__ import annotations

import errno
from typing import NamedTuple, Protocol

from memfs.errors import MemfsError


class DeviceFullError(MemfsError):
    """The device has no memory for a slab now; it may have after others let go of theirs."""

    errno = errno.ENOMEM
    transient = True


class DeviceError(MemfsError):
    """A device that is not there, or that failed; the message names it and the call."""

    errno = errno.EIO


class DeviceMemory(NamedTuple):
    """Memory of a device, no matter who uses it."""

    free_bytes: int
    total_bytes: int


class SlabMemory(Protocol):
    """The memory of one slab: one allocation on a device."""

    size_bytes: int
    """As allocated: a multiple of the device's granularity."""

    def write(self, offset: int, data: memoryview) -> None:
        """Copy bytes of this process in; `[offset, offset + len)` lies within the slab.

        The buffer may be used again when this returns.

        Raises:
            DeviceError: The device failed, or the slab is sealed.
        """
        ...

    def read(self, offset: int, target: memoryview) -> None:
        """Copy bytes out into a writable buffer; sealed or not.

        Raises:
            DeviceError: The device failed.
        """
        ...

    def seal(self) -> None:
        """End the writing: all copies have arrived, and no other is taken; idempotent.

        Raises:
            DeviceError: The device failed.
        """
        ...

    def export(self) -> int:
        """Return a new descriptor of the sealed slab, for another process.

        It is close-on-exec and belongs to the caller.

        Raises:
            DeviceError: The device failed.
        """
        ...

    def release(self) -> None:
        """Let go of the slab in this process; idempotent. Mappings of others keep its memory."""
        ...


class Device(Protocol):
    """One GPU, or its CPU twin."""

    kind: str
    """`cuda` or `cpu`."""
    uuid: str
    """The same in every process: `GPU-...` as nvidia-smi prints it, or `CPU-...`."""
    name: str
    """In this process: `cuda:0`, `cpu:0`."""
    granularity_bytes: int
    """Slabs are multiples of it."""

    def memory(self) -> DeviceMemory:
        """Return free and total memory, use by other processes included.

        Raises:
            DeviceError: The device failed.
        """
        ...

    def allocate(self, size_bytes: int) -> SlabMemory:
        """Return a new slab of at least `size_bytes` > 0.

        Raises:
            DeviceFullError: There is not so much memory.
            DeviceError: The device failed.
        """
        ...

    def close(self) -> None:
        """Let go of the device; slabs of it are released before; idempotent."""
        ...


class SlabMapping(Protocol):
    """A slab of another process, readable in this one."""

    size_bytes: int

    @property
    def address(self) -> int:
        """Where its first byte is, in the address space of its kind of device."""
        ...

    def unmap(self) -> None:
        """Take the mapping away; nobody may use its addresses any more; idempotent."""
        ...
