"""`memfs catalog`."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.sizes import format_count
from memfs_tools.arguments import MOUNT, MOUNTPOINT, GivenPath
from memfs_tools.mounts import meant_mount
from memfs_tools.terminal import complain, tell

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT, required=False)
@MOUNT
@click.option(
    "--parquet",
    "file",
    type=GivenPath(dir_okay=False),
    help="The file to write; what has that name is replaced at the end.",
)
@click.option("--ncdu", is_flag=True, help="Write what ncdu(1) reads to standard output.")
def catalog(mountpoint: Path | None, place: Path | None, file: Path | None, ncdu: bool) -> None:
    """Write all names of a mount with attributes and xattrs into one table, for analysts.

    \b
    memfs catalog /mnt/data --parquet catalog.parquet
    memfs catalog /mnt/data --ncdu | ncdu -f-

    Without MOUNTPOINT and --mount it is the mount around the working directory, or the only one.

    The table has a row for each name: path, ino, type, mode, uid, gid, nlink, size, mtime, has_raw,
    has_packed, has_remote, digest, target, and the xattrs of users as a map. It is read beside the
    daemon, which goes on serving; a file that changes meanwhile is in it as it was before or after.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if (file is None) != ncdu:
        raise click.UsageError("name one of --parquet and --ncdu.")
    served = meant_mount(mountpoint, place)
    if file is not None and file.exists() and not file.is_file():
        # It would be replaced, also if it is a device.
        raise click.UsageError(f"{file} is no regular file.")
    if file is not None and not file.absolute().parent.is_dir():
        raise click.UsageError(f"there is no directory {file.absolute().parent}.")
    for source in served.adoption.sources():
        if count := source["unlisted_count"]:
            complain(
                f"{source['url']}: {format_count(count, 'directory')} that nobody "
                "has looked into: the table has nothing of what is there; memfs adopt --refresh "
                "lists all"
            )
    if file is None:
        _write_ncdu(served)
        return
    try:
        from memfs_tools.catalog_file import write_catalog
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'memfs-tiers[traces]'") from None
    # Imported here: what draws bars, and the engine, take 0.2 s.
    from memfs.metadata.sqlite.catalog import read_catalog
    from memfs_tools.display import progress_bar

    served.publish()
    total = served.status().inode_count
    # Rows are in no cycle, and looking for one takes a seventh of the time.
    gc.disable()
    with progress_bar(hidden=False) as show:
        count = write_catalog(
            file,
            read_catalog(served.state_dir),
            lambda done: show("writing names", done, max(done, total)),
        )
    tell(f"{file}: {format_count(count, 'name')}")


def _write_ncdu(served: Mount) -> None:
    from importlib.metadata import version

    from memfs.metadata.sqlite.catalog import walk_tree
    from memfs_tools.ncdu_file import write_ncdu

    served.publish()
    write_ncdu(
        sys.stdout.buffer,
        os.fspath(served.mountpoint),
        version("memfs-tiers"),
        walk_tree(served.state_dir),
    )
