"""`memfs snapshot list` and `memfs snapshot show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.sizes import format_size
from memfs_tools.arguments import AS_JSON, MOUNT
from memfs_tools.commands.snapshot.options import show_instant
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods.snapshots import HeldBytesReport, SnapshotReport


@click.command("list")
@click.option(
    "--sizes", "with_sizes", is_flag=True, help="What each alone holds, and all of them together."
)
@MOUNT
@AS_JSON
def list_snapshots(place: Path | None, as_json: bool, with_sizes: bool) -> None:
    """Show the snapshots of a mount, oldest first.

    \b
    memfs snapshot list
    memfs snapshot list --sizes                   what the deletion of each would free

    --sizes looks at all that snapshots keep, which takes a second for 100,000 files. The last line
    is the sum of what two or more snapshots show: it goes with the last of them.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    snapshots = choose_mount(place).snapshots
    found = snapshots.list()
    sizes = snapshots.sizes() if with_sizes else None
    if as_json:
        tell_json(found if sizes is None else {"snapshots": found, **sizes}, indent=None)
        return
    for each in found:
        words = [each["name"], show_instant(each["created_ns"])]
        if sizes is not None:
            # One that was made in between holds nothing yet.
            alone = sizes["alone"].get(each["name"], {"local_bytes": 0, "remote_bytes": 0})
            words.append(_show_held(alone))
        words += [f"{key}={value}" for key, value in each["labels"].items()]
        tell("  ".join((*words, each["description"])).rstrip())
    if sizes is not None:
        tell(f"shown by two or more: {_show_held(sizes['shared'])}")


@click.command()
@click.argument("name")
@MOUNT
@AS_JSON
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


def _show_held(held: HeldBytesReport) -> str:
    local, remote = (format_size(held[key]) for key in ("local_bytes", "remote_bytes"))
    return f"{local} on disk, {remote} in the store"


def _lines(found: SnapshotReport) -> list[str]:
    lines = [f"name         {found['name']}", f"made         {show_instant(found['created_ns'])}"]
    if found["description"]:
        lines.append(f"description  {found['description']}")
    lines += [f"label        {key}={value}" for key, value in found["labels"].items()]
    if found["kept_until_ns"] is not None:
        lines.append(f"kept until   {show_instant(found['kept_until_ns'])}")
    return lines
