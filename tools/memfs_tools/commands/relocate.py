"""`memfs relocate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.exit_codes import ExitCode
from memfs.sizes import format_size
from memfs_tools.arguments import AS_JSON, PATHS
from memfs_tools.terminal import tell, tell_json
from memfs_tools.tree_work import LEFT_WORDS, Totals, TreeWork, Work

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.trees import WorkReport

_WORDS = {"unneeded": "where they belong, or in no store", **LEFT_WORDS}


@click.command()
@PATHS
@click.option("--dry-run", is_flag=True, help="Only count what is in another store.")
@AS_JSON
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
        done = totals.count_done(dry_run=dry_run)
        tell(f"{totals.file_count} files: {done} moved; others: {totals.count(_WORDS)}")
        if dry_run and due:
            tell(f"to be moved: {format_size(totals.before_bytes)}")
    if not totals.complete:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)
