"""`memfs snapshot create`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs_tools.commands.snapshot.options import JSON, MOUNT, Instant
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path


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
@MOUNT
@JSON
def create(
    name: str,
    description: str,
    labels: tuple[str, ...],
    kept_until_ns: int | None,
    place: Path | None,
    as_json: bool,
) -> None:
    """Keep the present instant under a NAME.

    \b
    memfs snapshot create before-cleanup --description "all scans, unsorted"
    memfs snapshot create v1.2 --label release=1.2 --keep-until 365d

    It is on stable storage when the command ends. Files that programs have open for writing are
    counted: they may have changed while the snapshot was made.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    made = choose_mount(place).snapshots.create(
        name,
        description=description,
        labels=_parse_labels(labels),
        kept_until_ns=kept_until_ns,
    )
    if as_json:
        tell_json(made, indent=None)
        return
    tell(f"{name} is kept")
    if count := made["open_count"]:
        tell(f"{count} files are open for writing")


def _parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    parsed = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals:
            raise click.UsageError(f"{label!r} is no label: write KEY=VALUE.")
        parsed[key] = value
    return parsed
