"""`memfs stores`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.sizes import format_count, format_duration, format_size
from memfs_tools.arguments import AS_JSON, MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.control.methods.mount import StoreUseReport


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@AS_JSON
def stores(mountpoint: Path, as_json: bool) -> None:
    """List the object stores of a mount: how each answers, and what is there.

    \b
    memfs stores /mnt/data
    setfattr -n user.memfs.store -v archive /mnt/data/2019   what is written there from now on
    memfs relocate /mnt/data/2019                            what is stored already

    The store `default` is that of [glacier], the others are those of [stores.NAME]. One that is not
    configured any more is listed as long as objects of files are there.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    found = require_mount(mountpoint).stores()
    if as_json:
        tell_json(found)
        return
    if not found:
        tell("there is no object store: glacier.enabled is false")
    for store in found:
        size = format_size(store["stored_bytes"])
        tell(f"{store['name']}: {store['url'] or 'url not known'}, {_health(store)}")
        tell(f"  {format_count(store['form_count'], 'file')}, {size}")


def _health(store: StoreUseReport) -> str:
    if not store["configured"]:
        return f"not configured: files there read as EIO; write [stores.{store['name']}]"
    if store["lasts_s"] is None:
        return "not asked yet"
    if store["well"]:
        return "answers"
    return f"fails for {format_duration(store['lasts_s'])}: {store['reason']}"
