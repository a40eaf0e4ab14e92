"""`memfs snapshot diff`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.sizes import format_size
from memfs.types import NOW_NAME
from memfs_tools.arguments import MOUNTPOINT
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import tell, tell_json, tell_path0

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from memfs.control.methods.snapshots import DifferenceReport


@click.command()
@click.argument("before")
@click.argument("after", default=NOW_NAME)
@click.option(
    "--under",
    "place",
    metavar="PATH",
    type=MOUNTPOINT,
    help="Only what was below; it also names the mount. By default all of the mount around the "
    "working directory, or of the only one.",
)
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each difference.")
@click.option("--arrow", is_flag=True, help="An Arrow stream with a row for each difference.")
@click.option("--paths0", is_flag=True, help="Paths to copy, from PATH on, that end with NUL.")
def diff(
    before: str, after: str, place: Path | None, as_json: bool, arrow: bool, paths0: bool
) -> None:
    """Show what differs between two snapshots, or between one and now.

    \b
    memfs snapshot diff before-cleanup
    memfs snapshot diff monday tuesday --under /mnt/data/scans --json
    memfs snapshot diff monday --under /mnt/data --paths0 |
        rsync -a --from0 --files-from=- /mnt/data backup:

    + came, - went, M has other content, R has another name, m has other attributes. A file that was
    replaced by another one of its name has other content. It takes as long as what has changed.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if sum((as_json, arrow, paths0)) > 1:
        raise click.UsageError("--json, --arrow and --paths0 exclude each other.")
    served = choose_mount(place)
    under = "" if place is None else served.inner(place)
    later = None if after == NOW_NAME else after
    found = served.snapshots.differences(before, later, under=under)
    if arrow:
        _write_arrow(found)
    elif paths0:
        for each in found:
            if each["size"] is not None:
                tell_path0(os.path.relpath(each["path"] or ".", under or "."))
    else:
        for each in found:
            if as_json:
                tell_json(each, indent=None)
            else:
                tell(_line(each))


def _write_arrow(found: Iterable[DifferenceReport]) -> None:
    try:
        from memfs_tools.arrow_stream import write_differences
    except ImportError:
        raise UsageError("Arrow needs pyarrow: pip install 'memfs-tiers[traces]'") from None
    write_differences(sys.stdout.buffer, found)


def _line(found: DifferenceReport) -> str:
    path = found["path"] + ("/" if found["kind"] == "directory" else "")
    old = "" if found["old_path"] is None else f"{found['old_path']} -> "
    sizes = [found["old_size"], found["size"]] if found["change"] == "M" else [found["size"]]
    if found["change"] == "-":
        sizes = [found["old_size"]]
    shown = " -> ".join("-" if size is None else format_size(size) for size in sizes)
    size = "" if found["kind"] == "directory" else f"  {shown}"
    return f"{found['change']} {old}{path}{size}"
