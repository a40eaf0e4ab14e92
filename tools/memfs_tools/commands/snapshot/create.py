"""`memfs snapshot create`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs_tools.arguments import AS_JSON, MOUNT
from memfs_tools.commands.snapshot.options import Instant
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods.snapshots import SnapshotMade


@click.command()
@click.argument("name")
@click.option("--description", default="", help="For people: why it was made.")
@click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, help="For programs; rules.")
@click.option(
    "--keep-until",
    "kept_until_ns",
    type=Instant(),
    metavar="WHEN",
    help="No rule removes it before: 30d, 2025-02-15, 2025-02-15T08:00.",
)
@click.option("--strict", is_flag=True, help="Refuse if a file is open for writing.")
@click.option("--verbose", "-v", is_flag=True, help="Name the files that are open for writing.")
@MOUNT
@AS_JSON
def create(
    name: str,
    description: str,
    labels: tuple[str, ...],
    kept_until_ns: int | None,
    strict: bool,
    verbose: bool,
    place: Path | None,
    as_json: bool,
) -> None:
    """Keep the present instant under a NAME.

    \b
    memfs snapshot create before-cleanup --description "all scans, unsorted"
    memfs snapshot create v1.2 --label release=1.2 --keep-until 365d

    It is on stable storage when the command ends. Files that programs have open for writing are
    copied then, and counted: the copy may have changes that were made while it was made.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    made = choose_mount(place).snapshots.create(
        name,
        description=description,
        labels=_parse_labels(labels),
        kept_until_ns=kept_until_ns,
        strict=strict,
    )
    if as_json:
        tell_json(made, indent=None)
        return
    tell(f"{name} is kept")
    for note in made["notes"]:
        complain(note)
    if count := made["open_count"]:
        were = "file was" if count == 1 else "files were"
        tell(f"{count} {were} open for writing, and copied meanwhile{_lack(made)}")
    for file in made["open_files"] if verbose else ():
        reason = f": {file['reason']}" if file["reason"] else ""
        tell(f"{file['state']:<8}{file['path']}{reason}")


def _lack(made: SnapshotMade) -> str:
    """Return what is still to come, or never will."""
    words = []
    if made["copying_count"]:
        words.append(f"{made['copying_count']} are still being copied")
    if made["absent_count"]:
        words.append(f"the bytes of {made['absent_count']} are not kept")
    return f"; {', '.join(words)}" if words else ""


def _parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    parsed = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals:
            raise click.UsageError(f"{label!r} is no label: write KEY=VALUE.")
        parsed[key] = value
    return parsed
