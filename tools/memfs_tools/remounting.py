"""Other options for a mount that is there: `memfs mount -o remount,ro`.

Invariant: what changes is what the options name; all others of the mount stay.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import find_mount
from memfs.types import READER
from memfs_daemon.kernel import mounting
from memfs_tools.mounts import require_mount

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs_daemon.options import MountOptions


def remount(mountpoint: Path, options: MountOptions) -> None:
    """Give a mount other options.

    Keys of the configuration are passed over, since mount(8) repeats those of fstab(5): they take
    a new mount.

    Raises:
        UsageError: No memfs is mounted there, or files are open for writing, or it takes root.
    """
    served = require_mount(mountpoint)
    mount = find_mount(served.mountpoint)
    assert mount is not None, "it was found by this"
    _require_writable(served, options)
    former = mounting.words_of(mount)
    words = (*former, *options.words)
    try:
        mounting.remount(served.mountpoint, mounting.parse_options(words))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise UsageError(
                f"{served.mountpoint}: files are open for writing; close them, then remount",
                ExitCode.BUSY,
            ) from None
        if error.errno == errno.EPERM:
            raise UsageError(f"{served.mountpoint}: to remount takes root") from None
        raise
    atime = options._replace(words=words).atime
    served.remount(atime=atime, strict_atime=options.strict_atime)


def _require_writable(served: Mount, options: MountOptions) -> None:
    """See that a mount may become writable, if that is asked for.

    Raises:
        UsageError: Another node writes it.
    """
    if [word for word in options.words if word in ("ro", "rw")][-1:] != ["rw"]:
        return
    database = served.status().database
    if database is not None and database.role == READER:
        raise UsageError(
            f"{served.mountpoint} cannot be made writable: this node reads, and node "
            f"{database.writer} writes; change files there"
        )
