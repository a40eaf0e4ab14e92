"""Space: what the cold tier may fill, and what it fills.

Invariant: nothing here changes anything; the account of used bytes is the engine's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.config import ColdConfig
    from memfs.metadata.records import Usage

RESERVE_SHARE_MAX = 0.1
"""The reserve is at most this share of the disk, so that small disks are of use too."""


class ColdSpace(NamedTuple):
    """The cold tier in bytes."""

    capacity_bytes: int
    used_bytes: int
    """Raw and packed files."""
    available_bytes: int
    """What the disk has for memfs, used bytes included and the reserve not."""
    reserve_bytes: int
    """Left to others."""


def measure_cold_space(state_dir: Path, config: ColdConfig, usage: Usage) -> ColdSpace:
    """Return the capacity of the cold tier and its use.

    Without a configured size the capacity is what memfs uses plus what is free on the disk, less
    the reserve: what others store there shrinks it.

    Args:
        state_dir: On the disk in question; statvfs(3) is asked.
        usage: The engine's totals.
    """
    used_bytes = usage.raw_bytes + usage.packed_bytes
    disk = os.statvfs(state_dir)
    reserve_bytes = min(
        config.reserve_bytes, int(disk.f_blocks * disk.f_frsize * RESERVE_SHARE_MAX)
    )
    available_bytes = max(0, used_bytes + disk.f_bavail * disk.f_frsize - reserve_bytes)
    if config.size_bytes is None:
        return ColdSpace(available_bytes, used_bytes, available_bytes, reserve_bytes)
    # A disk that is smaller than the configured size, or filled by others, counts as well.
    capacity_bytes = min(config.size_bytes, available_bytes)
    return ColdSpace(capacity_bytes, used_bytes, available_bytes, reserve_bytes)
