"""`memfs clone`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.copies import tell_copy, watched
from memfs_tools.mounts import find_mount_above

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.client.mount import Mount
    from memfs.control.methods.copies import CopyReport


@click.command()
@click.argument("source", type=GivenPath())
@click.argument("target", type=GivenPath())
@click.option("--replace", is_flag=True, help="Replace what has that name.")
@AS_JSON
def clone(source: Path, target: Path, replace: bool, as_json: bool) -> None:
    """Make a second file or tree without copying its bytes.

    \b
    memfs clone /mnt/data/model.bin /mnt/data/model-2.bin
    memfs clone /mnt/data/set /mnt/data/set-next
    memfs clone --replace /mnt/data/set-next /mnt/data/set

    Both files share the compressed form and the object in the store. A plain local file shares its
    blocks on file systems that can (XFS, btrfs), else it is copied. Either can be changed without
    the other. Mode, owner, times, xattrs and hard links within the tree are carried, pins are not.
    The target must not exist; a tree gets its name when it is whole. It is copied file by file: of
    a tree that programs change meanwhile, memfs snapshot restore --to makes a copy of one instant.
    Stopped by Ctrl-C, running it again goes on from there.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = _mount_of(source)
    if _mount_of(target) != served:
        raise UsageError("source and target lie in two mounts; copy them with cp")

    def work(told: Callable[[CopyReport], None]) -> CopyReport:
        return served.clone(source, target, replace=replace, on_progress=told)

    if not tell_copy(watched(served, work, hidden=as_json), as_json=as_json):
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _mount_of(path: Path) -> Mount:
    """Return the mount that a name lies in; the name need not exist."""
    above = Path(os.path.realpath(path.parent if path.name else path))
    found = find_mount_above(above)
    if found is None:
        raise UsageError(f"{path} does not lie in a mount of memfs", ExitCode.NOT_MOUNTED)
    return found
