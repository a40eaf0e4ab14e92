"""`memfs snapshot delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs_tools.arguments import AS_JSON, MOUNT
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import tell_json

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@MOUNT
@AS_JSON
def delete(names: tuple[str, ...], place: Path | None, as_json: bool) -> None:
    """Remove snapshots for good, all of those named or, after a mistake, not one.

    \b
    memfs snapshot delete before-cleanup

    The bytes that they alone kept are removed in the background; `memfs status` tells whether that
    is still going on.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    choose_mount(place).snapshots.delete(names)
    if as_json:
        tell_json(None, indent=None)
