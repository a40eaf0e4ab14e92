"""The mounts that managers start by themselves, below a test's own directories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.linux.mounts import list_mounts
from tests.scratch import kill_and_wait, mounts_below, processes_naming

if TYPE_CHECKING:
    from pathlib import Path


def is_gone(place: Path) -> bool:
    """Return whether no mount is left there, nor a daemon."""
    return not mounts_below(place) and not processes_naming(place / "data")


def kill_daemons(place: Path) -> None:
    """End the daemons of all mounts there as a crash would; the dead mounts stay."""
    for mount in list_mounts():
        if place in mount.mountpoint.parents:
            for pid in processes_naming(mount.mountpoint):
                kill_and_wait(pid)
