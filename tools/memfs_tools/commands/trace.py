"""`memfs trace`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from memfs.sizes import format_count, format_duration, format_size
from memfs_tools.arguments import AS_JSON, MOUNTPOINT, GivenPath
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods.mount import TraceReport

_mountpoint = click.argument("mountpoint", type=MOUNTPOINT)


@click.group()
def trace() -> None:
    """Record what programs open in a mount, to ask `memfs what-if` about it.

    \b
    memfs trace start /var/tmp/monday /mnt/data
    memfs trace status /mnt/data
    memfs trace stop /mnt/data
    memfs what-if --trace /var/tmp/monday --warm 16GiB

    The trace is a directory of Parquet files with the columns time, inode, path, operation, bytes
    and tier.
    """  # noqa: D301 - \b is for click: keep the lines below as they are


@trace.command()
@click.argument("directory", type=GivenPath())
@_mountpoint
@click.option("--paths/--no-paths", default=True, help="Record the path of each file, too.")
@AS_JSON
def start(directory: Path, mountpoint: Path, paths: bool, as_json: bool) -> None:
    """Begin a trace in DIRECTORY, or continue the one that is there.

    \b
    memfs trace start /var/tmp/monday /mnt/data
    """  # noqa: D301 - as above
    place = os.path.abspath(directory)
    _show(require_mount(mountpoint).trace_start(place, paths=paths), as_json)


@trace.command()
@_mountpoint
@AS_JSON
def stop(mountpoint: Path, as_json: bool) -> None:
    """End the trace.

    \b
    memfs trace stop /mnt/data
    """  # noqa: D301 - as above
    _show(require_mount(mountpoint).trace_stop(), as_json)


@trace.command()
@_mountpoint
@AS_JSON
def status(mountpoint: Path, as_json: bool) -> None:
    """Tell whether a trace is being recorded, and how large it is.

    \b
    memfs trace status /mnt/data
    """  # noqa: D301 - as above
    _show(require_mount(mountpoint).trace_status(), as_json)


def _show(report: TraceReport, as_json: bool) -> None:
    if as_json:
        tell_json(report)
        return
    if report["path"] is None:
        tell("no trace was recorded since the mount")
        return
    state = "recording" if report["recording"] else "recorded"
    tell(
        f"{state} {report['path']}: {format_count(report['row_count'], 'row')}, "
        f"{format_size(report['size_bytes'])}, {format_duration(report['duration_s'])}"
    )
    if report["dropped_count"]:
        dropped = format_count(report["dropped_count"], "row")
        tell(f"  {dropped} came faster than the disk took them")
    if report["removed_count"]:
        tell(f"  {report['removed_count']} old parts were removed, to stay below the limit")
    if report["reason"] is not None:
        tell(f"  it ended by itself: {report['reason']}")
