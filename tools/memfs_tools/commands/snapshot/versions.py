"""`memfs snapshot versions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.sizes import format_size
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.commands.snapshot.options import show_instant
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods.snapshots import VersionReport


@click.command()
@click.argument("path", type=GivenPath())
@AS_JSON
def versions(path: Path, as_json: bool) -> None:
    """Show what is left of the versions of a file, also of one that was removed.

    \b
    memfs snapshot versions /mnt/data/report.txt

    Each line is one version: when it was written, its size, where its bytes are, and the snapshots
    that have it. The newest one comes first.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = choose_mount(path)
    for version in served.snapshots.versions(served.inner(path)):
        if as_json:
            tell_json(version, indent=None)
        else:
            tell(_line(version))


def _line(version: VersionReport) -> str:
    places = "+".join(version["forms"]) or "-"
    if version["state"] == "absent":
        places = "bytes were not kept"
    elif version["state"] == "open":
        places += ", copied while open"
    names = [*(["now"] if version["now"] else []), *version["snapshots"]]
    written = show_instant(version["mtime_ns"])
    return f"{written}  {format_size(version['size'])}  {places}  {', '.join(names)}"
