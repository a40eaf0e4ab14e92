"""Pins and placements by extended attributes: the same door that any program has.

Invariant: the only module that imports `xattr`.
"""

from __future__ import annotations

import contextlib
import errno
import json
from typing import TYPE_CHECKING, NamedTuple

import xattr

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import find_containing_mount
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from pathlib import Path

TIERS = ("hot", "warm", "cold", "glacier")
_PREFIX = "user.memfs."
_TIER = _PREFIX + "tier"


class Placement(NamedTuple):
    """Where a file is, and why."""

    path: str
    tier: str
    pin: str
    state: str
    why: dict[str, object]
    """The last decision and a pending move, as `user.memfs.why` tells them."""


def pin_path(path: Path, tier: str) -> None:
    """Pin a file, or a directory for all below it.

    Raises:
        UsageError: Not on memfs, no such tier there, or not allowed.
    """
    _require_memfs(path)
    try:
        xattr.setxattr(path, _TIER, tier.encode())
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            remedy = "; set hot.devices and hot.size in its configuration" if tier == "hot" else ""
            message = f"{path}: this mount has no {tier} tier{remedy}"
            raise UsageError(message, ExitCode.PROBLEMS) from None
        if error.errno == errno.EINVAL and tier == "hot":
            reason = read_placement(path).why.get("hot", error.strerror)
            raise UsageError(f"{path} cannot be hot: {reason}", ExitCode.PROBLEMS) from None
        raise _explain(error, path) from None


def unpin_path(path: Path) -> None:
    """Remove a path's own pin, if there is one; one inherited from above stays in force.

    Raises:
        UsageError: Not on memfs, or not allowed.
    """
    _require_memfs(path)
    try:
        xattr.removexattr(path, _TIER)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise _explain(error, path) from None


def read_placement(path: Path) -> Placement:
    """Return where a file is, and why.

    Raises:
        UsageError: Not on memfs, or not allowed.
    """
    _require_memfs(path)
    try:
        tier, pin, state, why = (
            xattr.getxattr(path, _PREFIX + name).decode()
            for name in ("tier", "pin", "state", "why")
        )
    except OSError as error:
        raise _explain(error, path) from None
    decision: dict[str, object] = {"detail": why}
    with contextlib.suppress(ValueError):
        decision = json.loads(why)
    return Placement(str(path), tier, pin, state, decision)


def is_safe(level: str, path: str) -> bool:
    """Return whether a file is as safe as a barrier of a level makes it, as far as it tells."""
    try:
        state = xattr.getxattr(path, _PREFIX + "state").decode()
    except OSError:
        return False
    return state in ("remote", level)


def _require_memfs(path: Path) -> None:
    # Other file systems take the same xattr and do nothing about it.
    try:
        mount = find_containing_mount(path)
    except OSError as error:
        raise _explain(error, path) from None
    if mount.type != FILESYSTEM_TYPE:
        raise UsageError(f"{path} does not lie in a mount of memfs", ExitCode.NOT_MOUNTED)


def _explain(error: OSError, path: Path) -> UsageError:
    if error.errno in (errno.ENODATA, errno.EPERM) and not (path.is_file() or path.is_dir()):
        # The kernel lets nobody ask for user.* of other files (xattr(7)).
        return UsageError(f"{path}: only files and directories have a place", ExitCode.PROBLEMS)
    return UsageError(f"{path}: {error.strerror}", ExitCode.PROBLEMS)
