"""`memfs index`."""

from __future__ import annotations

from pathlib import Path

import click

from memfs.control.typed import encode
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell, tell_json


@click.group()
def index() -> None:
    """Look at the index of xattrs, which `memfs query` finds files by.

    \b
    memfs index list /mnt/data
    """  # noqa: D301 - \b is for click: keep the lines below as they are


@index.command("list")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_names(mountpoint: Path, as_json: bool) -> None:
    """Show whether the index is complete, and the xattrs that it has.

    \b
    memfs index list /mnt/data
    """  # noqa: D301 - likewise
    report = require_mount(mountpoint).query_index()
    if as_json:
        tell_json({**report, "index": encode(report["index"])})
        return
    for name in report["names"]:
        tell(name)
    found = report["index"]
    if not found.enabled:
        tell("off: set query.enabled and mount again")
    elif not found.is_whole:
        tell(f"being built: {found.through} of {found.last} inodes are in it")
    elif found.is_short_of_names:
        tell("complete but for further names: raise query.name_count_max and mount again")
    else:
        tell("complete")
