"""`memfs compress`."""

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

_WORDS = {
    "unneeded": "as they should be",
    "incompressible": "would not shrink",
    "pinned": "pinned elsewhere",
    "absent": "in the object store alone",
    **LEFT_WORDS,
    "busy": "open",
}


@click.command()
@PATHS
@click.option("--codec", metavar="SPEC", help="zstd:19, lz4, ...: for this once.")
@click.option(
    "--drop-raw/--keep-raw",
    default=True,
    help="Give back the room of the uncompressed copies (default), or keep both.",
)
@click.option("--dry-run", is_flag=True, help="Only estimate, from a sample of each file.")
@AS_JSON
def compress(
    paths: tuple[Path, ...], codec: str | None, drop_raw: bool, dry_run: bool, as_json: bool
) -> None:
    """Compress files on the local disk now, and not when they are old or the disk is full.

    \b
    memfs compress --dry-run /mnt/data/logs
    memfs compress /mnt/data/logs
    memfs compress --codec zstd:19 /mnt/data/archive

    The codec is the one in force on each file (user.memfs.codec, else cold.codec). --codec is for
    this once: files that were packed with another one are packed anew, and user.memfs.codec is
    left alone, so a file that is written again gets the one in force. Programs read compressed
    files as before. Left as they are: files that would not shrink, that a pin wants in RAM or in
    the store, and those that are in the store alone. With --keep-raw both copies stay until the
    disk fills, and the uncompressed one can then go at once.

    Trees are taken whole. Finished work stays: stopped by Ctrl-C, running it again goes on
    from there. Exits with 1 if a file failed or was open.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    totals = Totals()

    def call(mount: Mount, inos: list[int], left_s: float) -> WorkReport:
        return mount.compress(inos, codec, drop_raw=drop_raw, dry_run=dry_run, timeout_s=left_s)

    TreeWork(Work(call), totals).run(paths, lambda done: f"{_ratio(done)} so far", hidden=as_json)
    if as_json:
        ratio = _quotient(totals)
        tell_json(totals.to_json() | {"ratio": ratio, "dry_run": dry_run})
    else:
        totals.tell_failures()
        done = totals.count_done(dry_run=dry_run)
        tell(
            f"{totals.file_count} files: {done} compressed, {_ratio(totals)}; "
            f"others: {totals.count(_WORDS)}"
        )
    if not totals.complete:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _ratio(totals: Totals) -> str:
    before, after = format_size(totals.before_bytes), format_size(totals.after_bytes)
    quotient = _quotient(totals)
    return f"{before} to {after}" + (f" ({quotient:.2f}:1)" if quotient is not None else "")


def _quotient(totals: Totals) -> float | None:
    """Return how many bytes became one; None: nothing was compressed."""
    return totals.before_bytes / totals.after_bytes if totals.after_bytes else None
