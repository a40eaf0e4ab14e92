"""`memfs metrics`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from memfs_tools.arguments import MOUNTPOINT
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import tell_lines


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there, whole or not at all: for the textfile collector of node_exporter.",
)
def metrics(mountpoint: Path, textfile: Path | None) -> None:
    """Print all metrics of a mount in the text format of Prometheus.

    \b
    memfs metrics /mnt/data
    memfs metrics /mnt/data --textfile /var/lib/node_exporter/textfile/memfs.prom
    cat /mnt/data/.memfs/metrics

    The reference lists their names, units and meanings.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    text = require_mount(mountpoint).metrics()
    if textfile is None:
        tell_lines(text.removesuffix("\n"))
    else:
        _replace(textfile, text)


def _replace(path: Path, text: str) -> None:
    """Write a file whole: the collector may read it at any moment."""
    # With a name that the collector does not take (it takes `*.prom`), and readable as others are.
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
