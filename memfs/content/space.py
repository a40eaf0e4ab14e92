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

INODES_SHARE_MIN = 0.5
"""Below this share of the inodes of the disk only its bytes count. ext4 has one for each 16 KiB
(mke2fs.conf(5), inode_ratio), so that small files take all of them on a disk that is a quarter
full."""


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
    the reserve: what others store there shrinks it. Each file takes an inode as well: where these
    are scarcer than bytes, the capacity is one that is as full as they are.

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
    capacity_bytes = available_bytes
    if config.size_bytes is not None:
        # A disk that is smaller than the configured size, or filled by others, counts as well.
        capacity_bytes = min(config.size_bytes, available_bytes)
    share = _inodes_share(disk, usage)
    if share >= INODES_SHARE_MIN and used_bytes:
        capacity_bytes = min(capacity_bytes, int(used_bytes / share))
    return ColdSpace(capacity_bytes, used_bytes, available_bytes, reserve_bytes)


def _inodes_share(disk: os.statvfs_result, usage: Usage) -> float:
    """Return the share that files of the tier take of the inodes that memfs can have."""
    file_count = usage.raw_count + usage.packed_count
    # btrfs makes inodes as they are needed, and tells 0 of all.
    return file_count / (file_count + disk.f_favail) if disk.f_files and file_count else 0.0
