"""`memfs snapshot restore`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs_tools.arguments import AS_JSON, MOUNT, GivenPath
from memfs_tools.copies import tell_copy, watched
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.client.mount import Mount
    from memfs.control.methods.copies import CopyReport, RestoreReport


@click.command()
@click.argument("path", metavar="PATH[@NAME]", required=False)
@click.option("--all", "is_all", is_flag=True, help="Everything; PATH may be @NAME then.")
@click.option("--at", "name", metavar="NAME", help="From this snapshot, whatever PATH looks like.")
@click.option("--to", type=GivenPath(), help="Put it there, and not where it was.")
@click.option("--delete", is_flag=True, help="Remove what was not there.")
@click.option("--dry-run", is_flag=True, help="Only list what would be done.")
@MOUNT
@AS_JSON
def restore(
    path: str | None,
    is_all: bool,
    name: str | None,
    to: Path | None,
    delete: bool,
    dry_run: bool,
    place: Path | None,
    as_json: bool,
) -> None:
    """Bring a file or a tree back as it was.

    \b
    memfs snapshot restore /mnt/data/report.txt
    memfs snapshot restore /mnt/data/report.txt@before-cleanup
    memfs snapshot restore /mnt/data/set@before-cleanup --to /mnt/data/set-before
    memfs snapshot restore --all --at before-cleanup --delete

    Without a name it is the newest snapshot. Only what differs is touched, and nothing is removed
    without --delete. A program that has a file open keeps it as it was. Each file is restored as
    a whole, but not all of them at one instant. A snapshot of the present is made first, so that
    a restore can be taken back. Stopped by Ctrl-C, running it again goes on from there.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if is_all == bool(path and not path.startswith("@")):
        raise click.UsageError("name a path, or --all.")
    served = choose_mount(place or to or (None if is_all else Path(path or "")))
    if name is None and path is not None:
        path, name = _split(served, path)
    wanted = None if is_all else path

    def work(told: Callable[[CopyReport], None]) -> RestoreReport:
        return served.snapshots.restore(
            wanted, snapshot=name, to=to, delete=delete, dry_run=dry_run, on_progress=told
        )

    report = watched(served, work, hidden=as_json)
    if not as_json:
        for action, where in report["actions"]:
            tell(f"{action:6}  {where}")
        if dry_run:
            tell(f"compared with {report['snapshot']}; nothing was changed")
            return
        tell(f"restored from {report['snapshot']}; the present is kept as {report['before']}")
    if not tell_copy(report, as_json=as_json):
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _split(served: Mount, text: str) -> tuple[str, str | None]:
    """Return path and name of a snapshot; what follows an @ is a name if a snapshot has it."""
    path, *words = text.split("@")
    if not words:
        return text, None
    if not path:
        return "", text[1:]
    known = {each["name"] for each in served.snapshots.list()}
    # Names of files and of snapshots may have an @: the shortest one that is known.
    for count in range(1, len(words) + 1):
        name = "@".join(words[-count:])
        if name in known:
            return text.removesuffix(f"@{name}"), name
    if not os.path.lexists(text):
        # A mistake in the name must not restore from another snapshot.
        raise UsageError(
            f"there is no snapshot {words[-1]!r}: `memfs snapshot list` shows those there are; "
            "--at NAME takes a PATH with an @ as it is",
            ExitCode.PROBLEMS,
        )
    return text, None
