"""Explanations: the error of a manager for what the system has answered to a read or a write.

Invariant: an error that says nothing more than the system's own is returned as it came.
"""

from __future__ import annotations

import errno as codes
from typing import TYPE_CHECKING

from memfs.errors import MemfsError
from memfs.manager.configuration import has_gpu
from memfs.manager.errors import ArchivedError, DiskFullError, TierUnavailableError
from memfs.sizes import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount


def explained_read(error: OSError, key: str, path: Path, mount: Mount | None) -> OSError:
    """Return the error to raise for one that reading a value has met.

    Args:
        error: What it has met.
        key: That of the value.
        path: Its file.
        mount: That has it; None: a plain directory.
    """
    if error.errno != codes.EBUSY or mount is None or isinstance(error, MemfsError):
        return error
    try:
        pending = mount.why(path).get("pending", {})
    except (OSError, MemfsError):
        pending = {}
    return ArchivedError.of(key, pending)


def explained_write(
    error: OSError, directory: Path, mount: Mount | None, tier: str | None, *, is_own: bool
) -> OSError:
    """Return the error to raise for one that storing a value has met.

    Args:
        error: What it has met.
        directory: That of all keys.
        mount: That has it; None: a plain directory.
        tier: That the value was to be pinned to; None: it was not.
        is_own: The mount was started for managers.
    """
    if error.errno in (codes.ENOSPC, codes.EDQUOT):
        return DiskFullError(
            f"{directory}: {error.strerror}; {_room_kept(mount)}what was stored before is still "
            "there"
        )
    if tier is not None and error.errno == codes.ENOTSUP:
        remedy = "; set hot.devices and hot.size in its configuration" if tier == "hot" else ""
        if remedy and is_own:
            remedy = (
                "; hot_memory_size= makes one on the GPU"
                if has_gpu()
                else ": there is no GPU here; hot_config={'device': 'cpu', 'size_gb': 1} makes one "
                "in shared memory"
            )
        return TierUnavailableError(f"{directory}: the mount has no {tier} tier{remedy}")
    return error


def _room_kept(mount: Mount | None) -> str:
    """Return what can be done about a full disk, for a message."""
    if mount is None:
        return ""
    remedy = "delete values, or use a larger disk; "
    try:
        kept_bytes = mount.status().snapshots.kept_bytes
    except (OSError, MemfsError):
        return remedy
    if not kept_bytes:
        return remedy
    return f"snapshots keep {format_size(kept_bytes)}: delete_snapshots gives it back; {remedy}"
