"""Whose a directory and its entries are: whether another user could lead this process elsewhere.

A process that opens names in a directory that somebody else can change opens what that one likes:
`lock` may be a symbolic link to /etc/passwd, a pipe that nobody writes to, or another's journal.

Invariant: what `require_own_tree` let pass stays so: only this user and root can change it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode

_KINDS = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISSOCK)
"""What opening, or connecting to, does just that."""


def require_own_tree(directory: Path, depth: int) -> None:
    """See that a directory, and what it holds, is this user's or root's, and no link leads away.

    The directories above are looked at as well: who can rename one of them can put another
    directory in the place of this one. In a directory with the sticky bit, as /tmp, nobody else can
    (chmod(1), restricted deletion). Root trusts no owner of them but itself; a user trusts those
    whose directories the home lies in, and the groups that they trust.

    Args:
        directory: Absolute, without symbolic links.
        depth: How many levels of directories below it are looked at. As for files below the first
            level only the type is looked at, which costs no system call.

    Raises:
        UsageError: It is not; the message names the path, and what to do.
        OSError: It cannot be looked at.
    """
    status = os.lstat(directory)
    _require_own(directory, status)
    if not stat.S_ISDIR(status.st_mode):
        raise _refusal(directory, "is no directory", "name another one")
    _require_unshared(directory, status)
    for above in directory.parents:
        status = os.lstat(above)
        if os.geteuid() == 0:
            _require_own(above, status)
        if not status.st_mode & stat.S_ISVTX:
            _require_unshared(above, status)
    _look_into(directory, depth, top=True)


def open_own(directory_fd: int, name: str, flags: int, mode: int = 0o600) -> int:
    """Open a plain file in a directory that others may change, and return a descriptor.

    It is the directory's owner's, this user's or root's; nothing is waited for, and no symbolic
    link is followed. Must not create and truncate at once: an existing file keeps its content until
    its owner is known.

    Args:
        directory_fd: That of the directory.
        name: Without slashes.
        flags: Those of open(2); O_CLOEXEC, O_NOFOLLOW and O_NONBLOCK are added.
        mode: That of a new file.

    Raises:
        UsageError: It is something else, or another user's.
        OSError: As of open(2).
    """
    assert not flags & os.O_TRUNC, "the owner is not known yet"
    safe = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(name, flags | safe, mode, dir_fd=directory_fd)
    except OSError:
        _require_plain(directory_fd, name)
        raise
    try:
        status = os.fstat(fd)
        path = Path(os.readlink(f"/proc/self/fd/{directory_fd}"), name)
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(path, "is no plain file", "remove it")
        _require_own(path, status, os.fstat(directory_fd).st_uid)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _require_plain(directory_fd: int, name: str) -> None:
    """Tell a symbolic link, on which open(2) fails with ELOOP, from other failures."""
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            path = Path(os.readlink(f"/proc/self/fd/{directory_fd}"), name)
            raise _refusal(path, "is a symbolic link", "remove it")


def _look_into(directory: Path, depth: int, *, top: bool = False) -> None:
    try:
        entries = os.scandir(directory)
    except PermissionError:
        # Root's alone, as the lost+found of a file system.
        if top:
            raise
        return
    with entries:
        for entry in entries:
            path = directory / entry.name
            if entry.is_symlink():
                raise _refusal(path, "is a symbolic link", "move what it leads to in its place")
            is_directory = entry.is_dir(follow_symlinks=False)
            if top or is_directory:
                status = entry.stat(follow_symlinks=False)
                _require_own(path, status)
                if not any(kind(status.st_mode) for kind in _KINDS):
                    raise _refusal(path, "is neither a plain file nor a directory", "remove it")
            if is_directory:
                # Who may write to it could put a link in the place of an entry afterwards.
                _require_unshared(path, status)
            if is_directory and depth > 1:
                _look_into(path, depth - 1)


def _require_own(path: Path, status: os.stat_result, *others: int) -> None:
    if status.st_uid not in (0, os.geteuid(), *others):
        raise _refusal(
            path,
            f"belongs to user {status.st_uid}, who can change it meanwhile",
            f"run memfs as that user, or chown it to user {os.geteuid()}",
        )


def _require_unshared(path: Path, status: os.stat_result) -> None:
    """See that only its owner can put entries into a directory, or those whom root trusts."""
    foreign_group = status.st_gid != 0 and os.geteuid() == 0
    if status.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if foreign_group else 0)):
        raise _refusal(
            path,
            f"can be changed by others (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod go-w {path}",
        )


def _refusal(path: Path, fault: str, remedy: str) -> UsageError:
    return UsageError(f"{path} {fault}; {remedy}", ExitCode.STATE_UNUSABLE)
