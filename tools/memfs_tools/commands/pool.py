"""`memfs pool`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.control.typed import encode
from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_size
from memfs_tools.mounts import find_mount_above, list_served
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from memfs.client.mount import Mount

_MOUNT = click.option(
    "--mount",
    "place",
    type=click.Path(path_type=Path),
    help="Any path in the mount; by default the one around the working directory, or the only one.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group()
def pool() -> None:
    """Reserve shares of RAM for some of the files.

    \b
    memfs pool create training --size 8GiB
    setfattr -n user.memfs.pool -v training /mnt/data/imagenet
    memfs pool list

    The files of a pool, and of all below a directory that belongs to it, are evicted against the
    pool's own size; all others share what the pools leave.
    """  # noqa: D301 - \b is for click: keep the lines below as they are


@pool.command()
@click.argument("name")
@click.option("--size", required=True, help="Of RAM, as in 512MiB; all pools fit into warm.size.")
@_MOUNT
@_JSON
def create(name: str, size: str, place: Path | None, as_json: bool) -> None:
    """Make a pool, or give one another size."""
    made = _find(place).pool_create(name, size)
    if as_json:
        tell_json(encode(made), indent=None)


@pool.command("list")
@_MOUNT
@_JSON
def list_pools(place: Path | None, as_json: bool) -> None:
    """Show the pools of a mount."""
    pools = _find(place).pool_list()
    if as_json:
        tell_json(encode(pools), indent=None)
        return
    for each in pools:
        used, size = format_size(each.used_bytes), format_size(each.size_bytes)
        tell(f"{each.name}  {used} of {size}  {each.file_count} files")


@pool.command()
@click.argument("name")
@_MOUNT
@_JSON
def remove(name: str, place: Path | None, as_json: bool) -> None:
    """Give a pool's share of RAM back to all; its files stay where they are."""
    _find(place).pool_remove(name)
    if as_json:
        tell_json(None, indent=None)


def _find(place: Path | None) -> Mount:
    """Return the mount that is meant.

    Raises:
        UsageError: No mount is, or several could be.
    """
    found = find_mount_above(place if place is not None else Path(os.getcwd()))
    if found is not None:
        return found
    if place is not None:
        raise UsageError(f"{place} does not lie in a mount of memfs", ExitCode.NOT_MOUNTED)
    served = list_served()
    if len(served) == 1:
        return served[0]
    known = ", ".join(str(mount.mountpoint) for mount in served)
    hint = f"there are {known}; name one with --mount" if served else "no memfs is mounted at all"
    raise UsageError(f"which mount? {hint}", ExitCode.NOT_MOUNTED)
