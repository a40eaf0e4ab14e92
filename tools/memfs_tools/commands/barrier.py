"""`memfs barrier`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import click

from memfs.client.placement import is_safe
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count, format_size
from memfs_tools.arguments import AS_JSON, PATHS
from memfs_tools.terminal import complain, tell, tell_json
from memfs_tools.tree_work import LEFT_WORDS, Totals, TreeWork, Work

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.trees import WorkReport

Level = Literal["local", "remote"]

_FILES_A_CALL = 4096
"""As many as share an object at most."""

_WORDS = {
    "done": "brought there",
    "unneeded": "there before",
    "open": "there as they were, and still open for writing",
    **LEFT_WORDS,
    "unfinished": "under way when the time was over",
}


@click.command()
@PATHS
@click.option(
    "--level",
    type=click.Choice(["local", "remote"]),
    required=True,
    help="On this machine's disk, or in the object store.",
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up then."
)
@AS_JSON
def barrier(paths: tuple[Path, ...], level: Level, timeout_s: float | None, as_json: bool) -> None:
    """Return when all files below some paths are safe, as they are now.

    \b
    memfs barrier --level local /mnt/data/run-7
    memfs barrier --level remote --timeout 600 /mnt/data/checkpoints

    local: bytes and names are on stable storage, as after fsync of every file and directory;
    neither a crash of memfs nor loss of power takes them away. Files that are open for writing are
    taken as they are, and counted.

    remote: each file has an object in the store that was read back and compared, small files in
    shared ones, and its local copy is not needed any more; it stays all the same. Files that are
    open for writing are reported. While the store is down, or a quota of the day is
    spent, this waits.

    Exits with 0 only if all files are there. Finished work stays: stopped by Ctrl-C or by
    --timeout, running it again goes on from there.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    totals = Totals()

    def call(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        return mount.barrier(inos, level, timeout_s=left_s)

    work = Work(call, _FILES_A_CALL, timeout_s, partial(is_safe, level))
    TreeWork(work, totals).run(
        paths,
        lambda done: f"{format_size(done.moved_bytes)} uploaded" if level == "remote" else "synced",
        hidden=as_json,
    )
    if as_json:
        tell_json(totals.to_json() | {"level": level})
    else:
        totals.tell_failures()
        if totals.timed_out:
            complain("the time is over; run it again to go on")
        tell(f"{format_count(totals.file_count, 'file')}, level {level}: {totals.count(_WORDS)}")
    if not totals.complete:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)
