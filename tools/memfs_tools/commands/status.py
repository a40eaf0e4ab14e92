"""`memfs status`."""

from __future__ import annotations

from pathlib import Path

import click

from memfs.control.typed import encode
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell_json


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(mountpoint: Path, as_json: bool) -> None:
    """Show tiers, driver and work of a mount.

    \b
    memfs status /mnt/data
    memfs status --json /mnt/data | jq '.tiers[] | [.tier, .used_bytes]'
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    report = require_mount(mountpoint).status()
    if as_json:
        tell_json(encode(report))
        return
    # Imported here: what draws tables takes 0.1 s, which programs that ask often need not pay.
    from memfs_tools.display import print_status

    print_status(report)
