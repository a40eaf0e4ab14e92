"""`memfs version`."""

from __future__ import annotations

import importlib.metadata
import platform

import click

DISTRIBUTION = "memfs-tiers"


@click.command()
def version() -> None:
    """Print the versions of memfs, Python and the kernel."""
    click.echo(
        f"memfs {importlib.metadata.version(DISTRIBUTION)}, "
        f"Python {platform.python_version()}, Linux {platform.release()}"
    )
