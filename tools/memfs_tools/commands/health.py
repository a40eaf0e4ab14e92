"""`memfs health`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.exit_codes import ExitCode
from memfs.sizes import parse_duration
from memfs_tools.arguments import AS_JSON, MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.report.health import Finding

_MARKS = {"bad": "!", "doubtful": "-"}


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "--export-age",
    metavar="TIME",
    default="2d",
    show_default=True,
    help="An export of the metadata that is older is doubtful.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 for what is doubtful, too.")
@AS_JSON
def health(mountpoint: Path, export_age: str, strict: bool, as_json: bool) -> None:
    """Tell whether a mount is well, for probes of orchestrators.

    \b
    memfs health /mnt/data
    memfs health --json /mnt/data | jq -r '.findings[].text'
    livenessProbe: {exec: {command: [memfs, health, /mnt/data]}}     in Kubernetes

    \b
    Exits with
      0  it is well; what is doubtful is printed
      1  something is bad: the object store fails, the disk is full, files are damaged
      3  no memfs is mounted there
      8  the daemon does not answer within 10 seconds, or has ended

    Doubtful are an old export of the metadata, one without some files, moves that wait for long,
    and lost files. A dead object store is no reason to restart the daemon: use 8 for that.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    from memfs.report.health import Level, findings

    served = require_mount(mountpoint)
    found = findings(served.status(), served.pending(), parse_duration(export_age))
    is_well = not any(each.level == Level.BAD or strict for each in found)
    if as_json:
        tell_json({"well": is_well, "findings": [each._asdict() for each in found]})
    else:
        _print(found, mountpoint)
    if not is_well:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


def _print(found: list[Finding], mountpoint: Path) -> None:
    for each in found:
        tell(f"{_MARKS[each.level]} {each.text}")
    if not found:
        tell(f"{mountpoint} is well")
