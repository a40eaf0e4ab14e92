"""`memfs umount`."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import list_mounts, unmount
from memfs.linux.readiness import await_ready
from memfs_daemon.mount_users import (
    describe_copies,
    describe_users,
    enumerate_users,
    list_copies,
    list_holders,
    unmount_unused,
)
from memfs_tools.arguments import MOUNTPOINT
from memfs_tools.mounts import (
    find_daemon,
    find_detached_mount,
    find_mount_elsewhere,
    find_mount_of,
    require_mount,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.client.mount import Mount

END_S_MAX = 90.0
"""The daemon bounds its own end to less than 60 s."""

COPIES_S_MAX = 3.0
"""Copies of the mount may keep the daemon for so long: their namespace may be ending as well."""

_LOOK_S = 0.5

_CONNECTIONS = Path("/sys/fs/fuse/connections")


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("--force", is_flag=True, help="For all at once: programs in the mount get errors.")
def umount(mountpoint: Path, force: bool) -> None:
    """Unmount; returns when everything is on disk and the daemon has ended.

    \b
    memfs umount /mnt/data
    memfs umount /var/lib/memfs/mnt-data      the same, by the state directory
    memfs umount --force /mnt/data

    A mount whose daemon has died is taken away; its files are all there at the next mount. A mount
    lives on in copies, in the mount namespaces of containers and services that began while it was
    there; --force ends it for all of them, and for programs that use it.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = (
        find_mount_of(mountpoint)
        or find_mount_elsewhere(mountpoint)
        or find_detached_mount(mountpoint)
        or require_mount(mountpoint)
    )
    daemon = find_daemon(served)
    # This command itself must not keep the mount busy.
    os.chdir("/")
    with _watching(daemon) as daemon_fd:
        if served.is_here:
            _unmount(served, lazy=force or daemon is None)
        if force:
            _end_connection(served, daemon_fd)
        if daemon_fd is not None:
            _await_end(served, daemon_fd, forced=force)


def _end_connection(served: Mount, daemon_fd: int | None) -> None:
    """End the connection between the kernel and the daemon, which then ends by itself.

    Where the kernel's switch is not at hand, the daemon is asked: a signal ends it within seconds,
    the ones who have copies of the mount.

    Raises:
        UsageError: Only root, or the user who mounted it, may.

    Source: Documentation/filesystems/fuse/fuse.rst, control filesystem.
    """
    abort = _CONNECTIONS / served.device.partition(":")[2] / "abort"
    try:
        abort.write_text("1")
    except FileNotFoundError:
        if daemon_fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(daemon_fd, signal.SIGTERM)
    except PermissionError:
        raise UsageError(
            f"{served.mountpoint}: end it as the user who mounted it, or as root"
        ) from None


def _await_end(served: Mount, daemon_fd: int, *, forced: bool) -> None:
    """Return when the daemon has ended.

    Raises:
        UsageError: Copies of the mount keep it, or it takes too long.
    """
    begin_s = time.monotonic()
    while not _wait(daemon_fd, _LOOK_S):
        waited_s = time.monotonic() - begin_s
        copies = [] if forced else list_copies(served.state_dir)
        if copies and waited_s > COPIES_S_MAX:
            raise UsageError(
                f"{served.mountpoint} is unmounted here, but {describe_copies(copies)}: end them, "
                f"or the mount for all by `memfs umount --force {served.state_dir}`",
                ExitCode.BUSY,
            )
        others = [] if forced else [m for m in list_mounts() if m.device == served.device]
        if others and waited_s > COPIES_S_MAX:
            place = others[0].mountpoint
            raise UsageError(
                f"{served.mountpoint} is unmounted, but {place} is a bind mount of it: run "
                f"`umount {place}`, or end all by `memfs umount --force {served.state_dir}`",
                ExitCode.BUSY,
            )
        users = [] if forced else list_holders(served.device or None)
        if users and waited_s > COPIES_S_MAX:
            raise UsageError(
                f"{served.mountpoint} is unmounted, but {enumerate_users(users)} still uses it: "
                f"end that, or the mount for all by `memfs umount --force {served.state_dir}`",
                ExitCode.BUSY,
            )
        if waited_s > END_S_MAX:
            raise UsageError(
                f"{served.mountpoint} is unmounted, but its daemon has not ended within "
                f"{END_S_MAX:g} s; see {served.state_dir}/daemon.log",
                ExitCode.NO_ANSWER,
            )


@contextlib.contextmanager
def _watching(pid: int | None) -> Iterator[int | None]:
    """Yield a descriptor that becomes readable when the process ends (pidfd_open(2)).

    None if it has ended. Opened before the unmount, it cannot mean a later process of that id.
    """
    fd = None
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
    if fd is None:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _wait(process_fd: int, timeout_s: float) -> bool:
    return bool(await_ready([process_fd], timeout_s))


def _unmount(served: Mount, *, lazy: bool) -> None:
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
