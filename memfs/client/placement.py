"""Pins and placements of files, by extended attributes: the same door that any program has.

Invariant: nothing is asked of another file system: it may take the same attributes and do nothing
about them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import xattr

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import find_containing_mount
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from pathlib import Path

PRIORITY_MAX = 100
UNPINNED = "auto"
TIERS = ("hot", "warm", "cold", "glacier")
_PREFIX = "user.memfs."
_TIER = _PREFIX + "tier"
_FROZEN = _PREFIX + "frozen"


class PlacementError(UsageError):
    """A file's place cannot be told or changed.

    Args:
        message: For people.
        errno: What the system call met with (errno(3)).
        exit_code: What a command that meets it exits with.
    """

    def __init__(self, message: str, errno: int, exit_code: ExitCode = ExitCode.PROBLEMS) -> None:
        super().__init__(message, exit_code)
        self.errno = errno


class Placement(NamedTuple):
    """Where a file is, and why."""

    path: str
    tier: str
    pin: str
    """The pin in force, own or inherited; `auto` where no pin is."""
    state: str
    """How safe it is; below `.memfs/snapshots`, as of `user.memfs.snapshot_state`, and empty of a
    directory."""
    why: dict[str, Any]
    """The last decision and a pending move, as `user.memfs.why` tells them; below
    `.memfs/snapshots`, what that tells of the past, with the name of the `snapshot`."""


def pin(path: Path, tier: str, priority: int | None = None) -> None:
    """Pin a file, or a directory for all below it.

    Args:
        path: On memfs.
        tier: One of `TIERS`.
        priority: 0 to 100; higher ones leave a full tier last. None: as it is.

    Raises:
        PlacementError: EXDEV: it is not on memfs; ENOTSUP: the mount has no such tier; EINVAL:
            there is no such tier or priority at all, or `hot`, and the file holds no tensors; else
            as of setxattr(2).
    """
    _require_memfs(path)
    if tier not in TIERS:
        raise PlacementError(f"tier {tier!r} is not one of {', '.join(TIERS)}", errno.EINVAL)
    if priority is not None and priority not in range(PRIORITY_MAX + 1):
        message = f"priority {priority!r} is no whole number from 0 to {PRIORITY_MAX}"
        raise PlacementError(message, errno.EINVAL)
    try:
        if priority is not None:
            xattr.setxattr(path, _PREFIX + "priority", str(priority).encode())
        xattr.setxattr(path, _TIER, tier.encode())
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            remedy = "; set hot.devices and hot.size in its configuration" if tier == "hot" else ""
            message = f"{path}: this mount has no {tier} tier{remedy}"
            raise PlacementError(message, errno.ENOTSUP) from None
        if error.errno == errno.EINVAL and tier == "hot":
            reason = read(path).why.get("hot", error.strerror)
            raise PlacementError(f"{path} cannot be hot: {reason}", errno.EINVAL) from None
        raise _explain(error, path) from None


def unpin(path: Path) -> None:
    """Remove a path's own pin, if there is one; one inherited from above stays in force.

    Raises:
        PlacementError: EXDEV: it is not on memfs; else as of removexattr(2).
    """
    _require_memfs(path)
    try:
        xattr.removexattr(path, _TIER)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise _explain(error, path) from None


def freeze(path: Path) -> None:
    """Have nothing change in and below a directory, until it is thawed.

    Raises:
        PlacementError: EXDEV: it is not on memfs; EBUSY: a file below it is open for writing, or
            mapped; EINVAL: a directory of a source was not listed yet, or too many are frozen;
            ENOTSUP: it is not a directory; EPERM: it is another user's; else as of setxattr(2).
    """
    _require_memfs(path)
    try:
        xattr.setxattr(path, _FROZEN, b"1")
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EINVAL):
            reason = read(path).why.get("freeze", error.strerror)
            raise PlacementError(f"{path} cannot be frozen: {reason}", error.errno) from None
        if error.errno == errno.ENOTSUP:
            message = f"{path}: only a directory can be frozen"
            raise PlacementError(message, errno.ENOTSUP) from None
        raise _explain(error, path) from None


def thaw(path: Path) -> None:
    """Let a directory that was frozen change again, and what is below it.

    Returns when it can; where other machines may read the mount, they have heard of it by then.

    Raises:
        PlacementError: EXDEV: it is not on memfs; ENODATA: it is not frozen, or with one above it;
            EPERM: it is another user's; else as of removexattr(2).
    """
    _require_memfs(path)
    try:
        xattr.removexattr(path, _FROZEN)
    except OSError as error:
        if error.errno == errno.ENODATA:
            tree = frozen_above(path)
            told = "not frozen" if tree is None else f"frozen with {tree} of the mount: thaw that"
            raise PlacementError(f"{path}: it is {told}", errno.ENODATA) from None
        raise _explain(error, path) from None


def read(path: Path) -> Placement:
    """Return where a file is, and why.

    Raises:
        PlacementError: EXDEV: it is not on memfs; else as of getxattr(2).
    """
    _require_memfs(path)
    try:
        why = read_value(path, _PREFIX + "why")
        decision: dict[str, Any] = {"detail": why}
        with contextlib.suppress(ValueError):
            decision = json.loads(why)
        if "snapshot" in decision:
            tier, state = (decision.get(name, "") for name in ("tier", "state"))
            return Placement(str(path), tier, UNPINNED, state, decision)
        tier, pinned, state = (
            read_value(path, _PREFIX + name) for name in ("tier", "pin", "state")
        )
    except OSError as error:
        raise _explain(error, path) from None
    return Placement(str(path), tier, pinned, state, decision)


def read_value(path: str | Path, name: str) -> str:
    """Return an attribute that may grow while it is read, as what memfs tells of a file does.

    The standard library offers a buffer that holds any value; the xattr package asks for the length
    first, and fails (ERANGE) where the value has grown since.

    Raises:
        OSError: As of getxattr(2).
    """
    return os.getxattr(path, name).decode()


def is_safe(level: str, path: str) -> bool:
    """Return whether a file is as safe as a barrier of a level makes it, by what it tells."""
    try:
        state = read_value(path, _PREFIX + "state")
    except OSError:
        return False
    return state in ("remote", level)


def _require_memfs(path: Path) -> None:
    try:
        mount = find_containing_mount(path)
    except OSError as error:
        raise _explain(error, path) from None
    if mount.type != FILESYSTEM_TYPE:
        message = f"{path} does not lie in a mount of memfs"
        raise PlacementError(message, errno.EXDEV, ExitCode.NOT_MOUNTED)


def _explain(error: OSError, path: Path) -> PlacementError:
    code = error.errno or errno.EIO
    if code in (errno.ENODATA, errno.EPERM) and not (path.is_file() or path.is_dir()):
        # The kernel lets nobody ask for user.* of other files (xattr(7)).
        return PlacementError(f"{path}: only files and directories have a place", code)
    return PlacementError(f"{path}: {reason_of(error, path)}", code)


def reason_of(error: OSError, path: Path) -> str:
    """Return why a change failed, for people: what is read-only is so for one of three reasons."""
    if error.errno == errno.EROFS and (writer := writer_of(path)) is not None:
        return f"this node reads; the writer is {writer}: change it there"
    if error.errno == errno.EROFS and (tree := frozen_above(path)) is not None:
        return f"{tree} of the mount is frozen; memfs thaw lets it change"
    return error.strerror or str(error)


def frozen_above(path: Path) -> str | None:
    """Return the frozen directory that a path is in, from the root of its mount, if it is."""
    with contextlib.suppress(OSError):
        return read_value(path, _FROZEN)
    return None


def writer_of(path: Path) -> str | None:
    """Return the name of the node that writes a mount; None: this one may, or it is not told."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        writer = json.loads(read_value(path, _PREFIX + "why")).get("writer")
        return writer if isinstance(writer, str) else None
    return None
