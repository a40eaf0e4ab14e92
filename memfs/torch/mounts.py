"""The mount behind a path, and its daemon.

Invariant: paths that go to the daemon are those of the mount's root on, symbolic links followed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memfs.client.mount import Mount
from memfs.torch.errors import DeviceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

PATHS_A_CALL = 5000
"""Sent to the daemon at a time."""


def require_mount(path: str | os.PathLike[str]) -> Mount:
    """Return the mount that a path is on.

    Raises:
        DeviceUnavailableError: That is not memfs: its files have no tiers.
    """
    found = Mount.find(path)
    if found is None:
        raise DeviceUnavailableError(f"{os.fspath(path)} is not on a mount of memfs")
    return found


def by_mount(paths: Iterable[str | os.PathLike[str]]) -> dict[Mount, list[str]]:
    """Return paths by their mounts, as the daemons know them; others are left out.

    Links are followed once for each directory: a data set has millions of files in a few of them.
    """
    found: dict[Mount, list[str]] = {}
    places: dict[str, tuple[Mount, str] | None] = {}
    for path in paths:
        parent, name = os.path.split(os.fspath(path))
        if parent not in places:
            mount = Mount.find(parent)
            places[parent] = None if mount is None else (mount, mount.inner(parent))
        place = places[parent]
        if place is not None:
            mount, inner = place
            found.setdefault(mount, []).append(os.path.join(inner, name))
    return found
