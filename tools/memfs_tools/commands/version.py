"""`memfs version`."""

from __future__ import annotations

import platform

import click

from memfs import __version__
from memfs_tools.terminal import tell


@click.command()
def version() -> None:
    """Print the versions of memfs, Python and the kernel."""
    tell(f"memfs {__version__}, Python {platform.python_version()}, Linux {platform.release()}")
