"""Arguments of commands: what a word on the command line is taken for.

Invariant: to read a command line asks no file system anything, so that a command about a mount
whose daemon hangs does not hang itself.
"""

from __future__ import annotations

from pathlib import Path

import click


class PlacePath(click.ParamType[Path]):
    """A path that is not looked at: `click.Path` asks for its attributes, whatever it is for."""

    name = "path"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return the path as it is written."""
        return value if isinstance(value, Path) else Path(str(value))


MOUNTPOINT = PlacePath()
"""Where a mount is, or is to be."""

PATHS = click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path)
)
"""Files and trees to work on."""

AS_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
"""One JSON document instead of what people read."""
