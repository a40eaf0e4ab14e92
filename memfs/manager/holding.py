"""The mounts that this process holds: they stay until it lets go, or ends.

Invariant: a process has one hold of a mount, whatever number of managers it has; a child by fork
gets one of its own, and no hold outlives its process.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from memfs.linux.held_file import HOLDERS_NAME, hold_in_common, take_hold, try_alone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S_MAX = 10.0
"""How long a daemon is waited for that unmounts just now; it tries for 2 s."""

_held: dict[Path, int] = {}
"""Descriptors by state directory."""

_users: dict[Path, int] = {}
"""How many managers have not been closed, by state directory."""


def hold(state_dir: Path) -> None:
    """Keep the mount of a state directory; nothing, if it stays anyway or belongs to another user.

    Raises:
        OSError: A daemon holds it alone for long.
    """
    if state_dir not in _held:
        try:
            fd = take_hold(state_dir / HOLDERS_NAME, WAIT_S_MAX)
        except (FileNotFoundError, PermissionError):
            return
        if _held.setdefault(state_dir, fd) != fd:
            # Another thread was faster.
            os.close(fd)
    _users[state_dir] = _users.get(state_dir, 0) + 1


def let_go(state_dir: Path) -> None:
    """Keep it no longer for one manager; the process lets go with the last of them."""
    users = _users.get(state_dir, 0) - 1
    if users > 0:
        _users[state_dir] = users
        return
    _users.pop(state_dir, None)
    fd = _held.pop(state_dir, None)
    if fd is not None:
        os.close(fd)


@contextlib.contextmanager
def alone(state_dir: Path) -> Iterator[bool]:
    """Yield whether no other process holds the mount; if so, no one can until the block ends.

    A mount that nobody can hold is held by nobody.
    """
    fd = _held.get(state_dir)
    if fd is None:
        yield True
        return
    try:
        yield try_alone(fd)
    finally:
        hold_in_common(fd)


def _hold_in_child() -> None:
    """Have holds of this process's own: it and its parent hold the mounts apart."""
    for state_dir, fd in list(_held.items()):
        with contextlib.suppress(OSError):
            _held[state_dir] = take_hold(state_dir / HOLDERS_NAME, 0)
            os.close(fd)


os.register_at_fork(after_in_child=_hold_in_child)
