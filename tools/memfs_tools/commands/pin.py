"""`memfs pin` and `memfs unpin`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.client import placement
from memfs.client.placement import TIERS
from memfs.errors import MemfsError
from memfs.exit_codes import ExitCode
from memfs_tools.arguments import PATHS
from memfs_tools.mounts import find_mount_above
from memfs_tools.pin_wait import wait_until_there
from memfs_tools.terminal import complain, for_each, tell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs_tools.pin_wait import Waited

_REFUSALS_SHOWN_MAX = 10


@click.command()
@click.argument("tier", type=click.Choice(TIERS))
@PATHS
@click.option("--wait", is_flag=True, help="Return when all files are there, or cannot get there.")
def pin(tier: str, paths: tuple[Path, ...], wait: bool) -> None:
    """Send files to a tier and keep them there.

    \b
    memfs pin warm /mnt/data/model.safetensors
    memfs pin glacier /mnt/data/2024
    setfattr -n user.memfs.tier -v warm FILE      the same, from anywhere

    A directory's pin holds for all below it without a pin of its own, now and later. The move
    itself goes on in the background: `memfs why PATH` tells how far it is, and --wait waits for it.
    Stopped by Ctrl-C, the pin stays and the move goes on.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    failure = for_each(paths, lambda path: placement.pin(path, tier))
    note = None if failure else _tier_note(paths[0], tier)
    if note is not None:
        complain(f"{tier}: {note}")
    if not failure and wait:
        failure = _wait(paths, tier)
    elif not failure:
        tell(f"pinned to {tier}; the move goes on in the background: see `memfs why`, or `--wait`")
    if failure:
        raise click.exceptions.Exit(failure)


def _wait(paths: Sequence[Path], tier: str) -> ExitCode:
    """Wait with a progress bar, and say what is there."""
    # Imported here: what draws bars takes 0.1 s.
    from memfs_tools.display import progress_bar

    told = "nothing was looked at yet"
    with progress_bar(hidden=False) as show:

        def show_progress(waited: Waited) -> None:
            nonlocal told
            told = f"{waited.there_count} of {waited.total_count} files are {tier}"
            show(told, waited.there_count, waited.total_count)

        try:
            waited = wait_until_there(paths, tier, show_progress)
        except KeyboardInterrupt:
            complain(f"stopped; {told}; the move goes on in the background")
            raise
    for path, reason in list(waited.refusals.items())[:_REFUSALS_SHOWN_MAX]:
        complain(f"{path}: {reason}")
    if (more := len(waited.refusals) - _REFUSALS_SHOWN_MAX) > 0:
        complain(f"and {more} more")
    tell(told)
    return ExitCode.PROBLEMS if waited.refusals else ExitCode.OK


def _tier_note(path: Path, tier: str) -> str | None:
    """Return what keeps a tier from working as it should; None also where nobody tells."""
    served = find_mount_above(path)
    if served is None:
        return None
    try:
        report = served.status()
    except MemfsError:
        # Another user's daemon: pins are for all who may write the file.
        return None
    return next((each.note for each in report.tiers if each.tier == tier), None)


@click.command()
@PATHS
def unpin(paths: tuple[Path, ...]) -> None:
    """Let memfs choose the tier of files again.

    \b
    memfs unpin /mnt/data/2024
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if failure := for_each(paths, placement.unpin):
        raise click.exceptions.Exit(failure)
