"""`memfs relocate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.exit_codes import ExitCode
from memfs.sizes import format_size
from memfs_tools.terminal import tell, tell_json
from memfs_tools.tree_work import Totals, TreeWork, Work

if TYPE_CHECKING:
    from memfs.client.mount import Mount
    from memfs.control.methods.trees import WorkReport

_WORDS = {
    "unneeded": "where they belong, or in no store",
    "busy": "being written",
    "superseded": "changed meanwhile",
    "waiting": "waiting for a quota",
    "failed": "failed",
}


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path)
)
@click.option("--dry-run", is_flag=True, help="Only count what is in another store.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def relocate(paths: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Move the objects of files into the stores that `user.memfs.store` names.

    \b
    setfattr -n user.memfs.store -v archive /mnt/data/2019
    memfs relocate --dry-run /mnt/data/2019      how much that is
    memfs relocate /mnt/data/2019

    Trees are taken whole. Each object is read back from the new store before the former one goes.
    Files that share an object, as clones do, share the new one: the last one decides. Objects
    that only snapshots need stay where they are. Finished work stays: stopped by Ctrl-C, running it
    again goes on from there. Exits with 1 if a file failed or was being written.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    totals = Totals()

    def call(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        return mount.relocate(inos, dry_run=dry_run, timeout_s=left_s)

    def describe(done: Totals) -> str:
        return f"{format_size(done.moved_bytes)} moved"

    TreeWork(Work(call), totals).run(paths, describe, hidden=as_json)
    if as_json:
        tell_json(totals.to_json())
    else:
        totals.tell_failures()
        due = totals.outcomes["due"]
        done = f"{due} to be" if dry_run else str(totals.outcomes["done"])
        tell(f"{totals.file_count} files: {done} moved; others: {totals.count(_WORDS)}")
        if dry_run and due:
            tell(f"to be moved: {format_size(totals.before_bytes)}")
    if not totals.complete:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)
