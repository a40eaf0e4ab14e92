"""The mount behind a path, and its daemon.

Invariant: paths that go to the daemon are those of the mount's root on, symbolic links followed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.control.client import call
from memfs.linux.mounts import topmost_mount
from memfs.torch.errors import DeviceUnavailableError
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from memfs.control.protocol import JsonValue


PATHS_A_CALL = 5000
"""Sent to the daemon at a time."""


class TensorMount(NamedTuple):
    """A mount of memfs."""

    root: Path
    state_dir: Path

    def inner(self, path: str | os.PathLike[str]) -> str:
        """Return a path as the daemon knows it.

        Raises:
            ValueError: It is not on this mount.
        """
        return "/".join(Path(os.path.realpath(path)).relative_to(self.root).parts)

    def call(self, method: str, timeout_s: float = 30.0, **params: JsonValue) -> Any:
        """Call the daemon.

        Raises:
            ControlError: It refuses, does not answer, or may not be spoken to.
        """
        return call(self.state_dir, method, params, timeout_s=timeout_s)


def mount_of(path: str | os.PathLike[str]) -> TensorMount | None:
    """Return the mount that a path is on; None if that is not memfs."""
    found = topmost_mount(Path(os.path.realpath(path)))
    if found.type != FILESYSTEM_TYPE:
        return None
    return TensorMount(found.mountpoint, Path(found.source))


def require_mount(path: str | os.PathLike[str]) -> TensorMount:
    """Return the mount that a path is on.

    Raises:
        DeviceUnavailableError: That is not memfs: its files have no tiers.
    """
    found = mount_of(path)
    if found is None:
        raise DeviceUnavailableError(f"{os.fspath(path)} is not on a mount of memfs")
    return found


def by_mount(paths: Iterable[str | os.PathLike[str]]) -> dict[TensorMount, list[str]]:
    """Return paths by their mounts, as the daemons know them; others are left out.

    Links are followed once for each directory: a data set has millions of files in a few of them.
    """
    found: dict[TensorMount, list[str]] = {}
    places: dict[str, tuple[TensorMount, str] | None] = {}
    for path in paths:
        parent, name = os.path.split(os.fspath(path))
        if parent not in places:
            mount = mount_of(parent)
            places[parent] = None if mount is None else (mount, mount.inner(parent))
        place = places[parent]
        if place is not None:
            mount, inner = place
            found.setdefault(mount, []).append(os.path.join(inner, name))
    return found
