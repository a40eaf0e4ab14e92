"""`memfs pin` and `memfs unpin`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs_tools.pins import TIERS, pin_path, unpin_path
from memfs_tools.terminal import complain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATHS = click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path)
)


@click.command()
@click.argument("tier", type=click.Choice(TIERS))
@_PATHS
def pin(tier: str, paths: tuple[Path, ...]) -> None:
    """Send files to a tier and keep them there.

    \b
    memfs pin warm /mnt/data/model.safetensors
    memfs pin glacier /mnt/data/2024
    setfattr -n user.memfs.tier -v warm FILE      the same, from anywhere

    A directory's pin holds for all below it that has none of its own, now and later. The move
    itself goes on in the background: `memfs why PATH` tells how far it is.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    _for_each(paths, lambda path: pin_path(path, tier))


@click.command()
@_PATHS
def unpin(paths: tuple[Path, ...]) -> None:
    """Let memfs choose the tier of files again.

    \b
    memfs unpin /mnt/data/2024
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    _for_each(paths, unpin_path)


def _for_each(paths: Sequence[Path], action: Callable[[Path], None]) -> None:
    """Do it for all, say what failed, and exit with the first failure's code."""
    failure = ExitCode.OK
    for path in paths:
        try:
            action(path)
        except UsageError as error:
            complain(str(error))
            failure = failure or ExitCode(error.exit_code)
    if failure:
        raise click.exceptions.Exit(failure)
