"""`memfs pool`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.control.typed import encode
from memfs.sizes import format_count, format_size
from memfs_tools.arguments import AS_JSON, MOUNT
from memfs_tools.mounts import choose_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path


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
@MOUNT
@AS_JSON
def create(name: str, size: str, place: Path | None, as_json: bool) -> None:
    """Make a pool, or give one another size."""
    made = choose_mount(place).pool_create(name, size)
    if as_json:
        tell_json(encode(made), indent=None)


@pool.command("list")
@MOUNT
@AS_JSON
def list_pools(place: Path | None, as_json: bool) -> None:
    """Show the pools of a mount."""
    pools = choose_mount(place).pool_list()
    if as_json:
        tell_json(encode(pools), indent=None)
        return
    for each in pools:
        used, size = format_size(each.used_bytes), format_size(each.size_bytes)
        tell(f"{each.name}  {used} of {size}  {format_count(each.file_count, 'file')}")


@pool.command()
@click.argument("name")
@MOUNT
@AS_JSON
def remove(name: str, place: Path | None, as_json: bool) -> None:
    """Give a pool's share of RAM back to all; its files stay where they are."""
    choose_mount(place).pool_remove(name)
    if as_json:
        tell_json(None, indent=None)
