"""`memfs mount`."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import unmount
from memfs.types import DRIVERS
from memfs_daemon.options import parse_options
from memfs_tools.arguments import MOUNTPOINT, GivenPath
from memfs_tools.launch import start_daemon
from memfs_tools.mounts import find_daemon, find_mount_at
from memfs_tools.places import default_state_dir
from memfs_tools.remounting import remount

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("-c", "--config", type=GivenPath(), metavar="FILE", help="TOML file.")
@click.option(
    "--state",
    type=GivenPath(),
    metavar="DIR",
    help="State directory: where the bytes are. Made if missing. "
    "Default: below /var/lib/memfs for root, else below ~/.local/share/memfs.",
)
@click.option("--driver", type=click.Choice(DRIVERS), help="How the kernel is served.  [auto]")
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="OPT,...",
    help="Mount options (ro, noatime, allow_other, ...), and keys of the configuration.",
)
@click.option("--foreground", is_flag=True, help="Stay, and log to standard error too.")
@click.option("--debug", is_flag=True, help="Log every request. Slow.")
def mount(
    mountpoint: Path,
    config: Path | None,
    state: Path | None,
    driver: str | None,
    options: tuple[str, ...],
    foreground: bool,
    debug: bool,
) -> None:
    """Mount a directory; returns when it serves.

    \b
    memfs mount /mnt/data
    memfs mount --state /srv/memfs/data -o warm.size=8GiB /mnt/data
    memfs mount -c /etc/memfs/data.toml -o ro,noatime /mnt/data
    memfs mount -o remount,ro /mnt/data          and rw, atime, noatime, nosuid, ... of mount(8)

    The state directory holds everything; mounting it again, there or elsewhere, brings the files
    back, also after a crash. The dead mountpoint of a killed daemon is taken away.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    parsed = parse_options(options)
    if parsed.remount:
        remount(mountpoint, parsed)
        return
    target = _check_mountpoint(mountpoint)
    state_dir = (state.absolute() if state is not None else default_state_dir(target)).resolve()
    _check_places(target, state_dir)
    asked = list(options) + ([f"mount.driver={driver}"] if driver is not None else [])
    # The daemon reads options and configuration before it does anything, and refuses by itself.
    arguments = ["--state", str(state_dir)]
    if config is not None:
        arguments += ["--config", str(config.absolute())]
    for option in asked:
        arguments += ["-o", option]
    if debug:
        arguments.append("--debug")
    if foreground:
        sys.stdout.flush()
        daemon = [sys.executable, "-P", "-m", "memfs_daemon", "--foreground"]
        os.execv(sys.executable, [*daemon, *arguments, str(target)])
    start_daemon(arguments, target, state_dir)


def _check_mountpoint(mountpoint: Path) -> Path:
    """Return the mountpoint as the kernel will show it; takes a dead mount away from there."""
    if (served := find_mount_at(mountpoint)) is not None:
        if find_daemon(served) is not None:
            raise UsageError(
                f"{mountpoint} already is a mount of {served.state_dir}; "
                f"`memfs umount {mountpoint}` frees it",
                ExitCode.STATE_IN_USE,
            )
        unmount(served.mountpoint, lazy=True)
    try:
        mode = mountpoint.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"{mountpoint} does not exist; make it: mkdir -p {mountpoint}") from None
    except OSError as error:
        raise UsageError(f"{mountpoint} cannot be a mountpoint: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{mountpoint} is not a directory")
    return mountpoint.resolve()


def _check_places(mountpoint: Path, state_dir: Path) -> None:
    if mountpoint == state_dir or mountpoint in state_dir.parents:
        raise UsageError(
            f"the state directory {state_dir} lies inside the mountpoint {mountpoint}, which would "
            "hide it; name another with --state"
        )
    if state_dir in mountpoint.parents:
        raise UsageError(
            f"the mountpoint {mountpoint} lies inside the state directory {state_dir}; "
            "mount somewhere else"
        )
