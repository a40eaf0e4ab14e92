"""`memfs snapshot list` and `memfs snapshot show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs_tools.commands.snapshot.options import JSON, MOUNT, show_instant
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods import SnapshotReport


@click.command("list")
@MOUNT
@JSON
def list_snapshots(place: Path | None, as_json: bool) -> None:
    """Show the snapshots of a mount, oldest first.

    \b
    memfs snapshot list
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    found = choose_mount(place).snapshots.list()
    if as_json:
        tell_json(found, indent=None)
        return
    for each in found:
        words = [each["name"], show_instant(each["created_ns"])]
        words += [f"{key}={value}" for key, value in each["labels"].items()]
        tell("  ".join((*words, each["description"])).rstrip())


@click.command()
@click.argument("name")
@MOUNT
@JSON
def show(name: str, place: Path | None, as_json: bool) -> None:
    """Show one snapshot.

    \b
    memfs snapshot show before-cleanup
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    found = choose_mount(place).snapshots.show(name)
    if as_json:
        tell_json(found, indent=None)
        return
    for line in _lines(found):
        tell(line)


def _lines(found: SnapshotReport) -> list[str]:
    lines = [f"name         {found['name']}", f"made         {show_instant(found['created_ns'])}"]
    if found["description"]:
        lines.append(f"description  {found['description']}")
    lines += [f"label        {key}={value}" for key, value in found["labels"].items()]
    if found["kept_until_ns"] is not None:
        lines.append(f"kept until   {show_instant(found['kept_until_ns'])}")
    return lines
