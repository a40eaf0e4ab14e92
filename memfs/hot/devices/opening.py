"""Opening devices by the names that users write, and mapping slabs of any kind.

Invariant: CUDA is imported only where a CUDA device is named.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from memfs.hot.devices.device import DeviceError
from memfs.hot.devices.memfd import MemfdDevice, map_memfd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.hot.devices.device import Device, SlabMapping

_NEEDS_EXTRA = "needs the extra `cuda` (pip install 'memfs-tiers[cuda]')"

_NAME = re.compile(r"auto|(cpu|cuda)(:\d+)?|GPU-.+")


def open_devices(names: Sequence[str]) -> list[Device]:
    """Return the devices of some names: `cpu`, `cpu:1`, `auto`, `cuda`, `cuda:0`, `GPU-...`.

    Raises:
        DeviceError: One is not there, cannot be shared, or is named twice.
    """
    devices: list[Device] = []
    try:
        for name in names:
            devices += _open(name)
        uuids = [device.uuid for device in devices]
        if len(set(uuids)) < len(uuids):
            raise DeviceError(f"hot.devices names a device twice: {', '.join(names)}")
    except BaseException:
        for device in devices:
            device.close()
        raise
    return devices


def _open(name: str) -> list[Device]:
    if not _NAME.fullmatch(name):
        raise DeviceError(f"hot.devices: {name!r} is not one of auto, cpu, cuda:N, GPU-UUID")
    kind, _, index = name.partition(":")
    if kind == "cpu":
        return [MemfdDevice(int(index or 0))]
    try:
        from memfs.hot.devices.cuda import open_named
    except ImportError as error:
        raise DeviceError(f"hot.devices: {name} {_NEEDS_EXTRA}: {error}") from None
    return [*open_named(name)]


def map_slab(kind: str, uuid: str, fd: int, size_bytes: int, *, private: bool) -> SlabMapping:
    """Map a slab of another process.

    Args:
        kind: That of its device.
        uuid: That of its device.
        fd: As it was received; the callee's: it is closed.
        size_bytes: As its owner says.
        private: Writable copy-on-write; only of kind `cpu`.

    Raises:
        DeviceError: It cannot be mapped here.
    """
    try:
        if kind == "cpu":
            return map_memfd(fd, size_bytes, private=private)
        if kind != "cuda":
            raise DeviceError(f"memory of a device of kind {kind!r} cannot be mapped here")
        if private:
            raise DeviceError("memory of a GPU is shared read-only; clone the tensors instead")
        try:
            from memfs.hot.devices.cuda import map_cuda
        except ImportError as error:
            raise DeviceError(f"memory of a GPU {_NEEDS_EXTRA}: {error}") from None
        return map_cuda(fd, size_bytes, uuid)
    finally:
        os.close(fd)
