"""`memfs umount`."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import unmount
from memfs_daemon.mount_users import describe_users, unmount_unused
from memfs_tools.mounts import find_daemon, require_mount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs_tools.mounts import ServedMount

END_S_MAX = 90.0
"""The daemon bounds its own end to less than 60 s."""


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
def umount(mountpoint: Path) -> None:
    """Unmount; returns when everything is on disk and the daemon has ended.

    \b
    memfs umount /mnt/data

    A mount whose daemon has died is taken away; its files are all there at the next mount.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = require_mount(mountpoint)
    daemon = find_daemon(served)
    # This command itself must not keep the mount busy.
    os.chdir("/")
    if daemon is None:
        _unmount(served, lazy=True)
        return
    with _watching(daemon) as daemon_fd:
        _unmount(served, lazy=False)
        if daemon_fd is not None and not _wait(daemon_fd, END_S_MAX):
            raise UsageError(
                f"{mountpoint} is unmounted, but its daemon {daemon} has not ended within "
                f"{END_S_MAX:g} s; see {served.state_dir}/daemon.log",
                ExitCode.NO_ANSWER,
            )


@contextlib.contextmanager
def _watching(pid: int) -> Iterator[int | None]:
    """Yield a descriptor that becomes readable when the process ends (pidfd_open(2)).

    None if it has ended. Opened before the unmount, it cannot mean a later process of that id.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _wait(process_fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(process_fd, select.POLLIN)
    deadline_s = time.monotonic() + timeout_s
    while (remaining_s := deadline_s - time.monotonic()) > 0:
        if poll.poll(remaining_s * 1000):
            return True
    return False


def _unmount(served: ServedMount, *, lazy: bool) -> None:
    try:
        unmount_unused(partial(unmount, served.mountpoint, lazy=lazy), served.mountpoint)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise UsageError(
                f"{served.mountpoint} is in use by {describe_users(served.mountpoint)}; "
                "end them or let them leave it, then unmount again",
                ExitCode.BUSY,
            ) from None
        if error.errno == errno.EPERM:
            raise UsageError(
                f"{served.mountpoint}: unmount it as the user who mounted it, or as root"
            ) from None
        raise
