"""`memfs tensor-snapshots`."""

from __future__ import annotations

import pwd
from typing import TYPE_CHECKING

import click

from memfs.sizes import format_size
from memfs_tools.arguments import AS_JSON, MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("--drop", "dropped", metavar="NAME", multiple=True, help="Let this one go.")
@AS_JSON
def tensor_snapshots(mountpoint: Path, dropped: tuple[str, ...], as_json: bool) -> None:
    """List or drop the snapshots of tensors that users keep in the hot tier.

    \b
    memfs tensor-snapshots /mnt/data
    memfs tensor-snapshots --drop before-tuning /mnt/data

    The largest come first. A dropped one stays readable for programs that have it open.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = require_mount(mountpoint)
    for name in dropped:
        served.hot_drop_snapshot(name)
    found = served.hot_snapshots()
    if as_json:
        tell_json(found)
        return
    for snapshot in found:
        owner, size = _user(snapshot["uid"]), format_size(snapshot["size_bytes"])
        tell(f"{snapshot['name']}  {owner}  {size} in {snapshot['slab_count']} slabs")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
