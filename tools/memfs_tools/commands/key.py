"""`memfs key`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memfs.encryption.keys import generate_key_file
from memfs_tools.arguments import GivenPath
from memfs_tools.terminal import tell

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def key() -> None:
    """Make the keys that files are encrypted with.

    \b
    memfs key generate /etc/memfs/key-2026
    """  # noqa: D301 - \b is for click: keep the lines below as they are


@key.command()
@click.argument("file", type=GivenPath())
def generate(file: Path) -> None:
    """Write a new random key into a new file that only you can read.

    \b
    memfs key generate /etc/memfs/key-2026
    printf '[encryption]\\nkeys = ["file:/etc/memfs/key-2026"]\\n' >> /etc/memfs/data.toml

    Keep a copy of it elsewhere: without it nobody can read what it encrypts.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    made = generate_key_file(file.absolute())
    tell(f"{file}: key {made.id.hex()}")
