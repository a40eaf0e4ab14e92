"""`memfs freeze` and `memfs thaw`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.client import placement
from memfs.control.typed import encode
from memfs_tools.arguments import AS_JSON, MOUNT, PATHS, GivenPath
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import for_each, tell, tell_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@click.command()
@click.argument("paths", nargs=-1, type=GivenPath(), metavar="[PATH...]")
@click.option("--list", "lists", is_flag=True, help="Show the frozen directories of a mount.")
@MOUNT
@AS_JSON
def freeze(paths: tuple[Path, ...], lists: bool, place: Path | None, as_json: bool) -> None:
    """Have nothing change in directories, and below them, until they are thawed.

    \b
    memfs freeze /mnt/data/imagenet
    memfs freeze --list
    memfs thaw /mnt/data/imagenet

    Programs that would change something there get EROFS, as on a file system that is mounted
    read-only. Files move between tiers as ever, and pins, priorities and snapshots work. Machines
    that read the mount open what is frozen without asking the database. A directory is frozen in a
    moment, whatever is below it; its owner and root do that.

    Refused while a file below is open for writing.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    if lists:
        if paths:
            raise click.UsageError("--list goes without paths; --mount chooses the mount.")
        _list(place, as_json=as_json)
        return
    if not paths or place is not None:
        raise click.UsageError("name directories, or --list.")
    _do_all(paths, placement.freeze, "frozen", as_json=as_json)


@click.command()
@PATHS
@AS_JSON
def thaw(paths: tuple[Path, ...], as_json: bool) -> None:
    """Let directories that were frozen change again.

    \b
    memfs thaw /mnt/data/imagenet

    Where other machines may read the mount, this takes 2.5 seconds: all of them hear of it before
    anything changes. If that is cut off, the directory stays frozen: run it again.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    _do_all(paths, placement.thaw, "thawed", as_json=as_json)


def _list(place: Path | None, *, as_json: bool) -> None:
    found = choose_mount(place).frozen()
    if as_json:
        tell_json(encode(found), indent=None)
        return
    for each in found:
        tell(f"{each['path']}{'  being thawed' if each['thawing'] else ''}")


def _do_all(
    paths: tuple[Path, ...], action: Callable[[Path], None], what: str, *, as_json: bool
) -> None:
    """Do it for all, say what was done, and exit with the code of the first failure."""
    done: list[str] = []

    def do(path: Path) -> None:
        action(path)
        done.append(str(path))
        if not as_json:
            tell(f"{path} is {what}")

    failure = for_each(paths, do)
    if as_json:
        tell_json({what: done}, indent=None)
    if failure:
        raise click.exceptions.Exit(failure)
