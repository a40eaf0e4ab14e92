"""What loading can fail with, as Python programs expect it.

Invariant: every message names the path or the device, and what to do.
"""

from __future__ import annotations

from memfs.hot.tensors import FormatError


class DeviceUnavailableError(RuntimeError):
    """The device that was asked for is not there, or not in the hot tier."""


class HotTierFullError(MemoryError):
    """The hot tier has no room for the tensors; only where it was required."""


class LoadTimeoutError(TimeoutError):
    """The tensors were not there in time."""


__all__ = ["DeviceUnavailableError", "FormatError", "HotTierFullError", "LoadTimeoutError"]
