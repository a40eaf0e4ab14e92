"""What commands print: lines that a terminal only shows.

Invariant: all output of commands goes through here, or through `display` where it is a table or a
bar (`tests/unit/test_escaping.py`).
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs.escaping import escape_text
from memfs.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import TextIO


def tell(line: str) -> None:
    """Print one line on standard output."""
    click.echo(escape_text(line))


def tell_lines(text: str) -> None:
    """Print text of memfs's own on standard output, whose newlines are meant."""
    for line in text.split("\n"):
        tell(line)


def tell_path0(path: str) -> None:
    """Print a path as it is, with NUL behind it, for programs."""
    click.echo(os.fsencode(path) + b"\0", nl=False)


def complain(message: str) -> None:
    """Print one line on standard error: `memfs: MESSAGE`."""
    click.echo(f"memfs: {escape_text(message)}", err=True)


def is_error_shown() -> bool:
    """Return whether standard error is a terminal, also while a bar is drawn there.

    What rich puts in its place meanwhile does not say so before version 15.
    """
    stream: TextIO = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    return stream.isatty()


def tell_json(content: object, *, indent: int | None = 2) -> None:
    """Print a value for programs. JSON escapes by itself, but for DEL."""
    click.echo(json.dumps(content, indent=indent).replace("\x7f", "\\u007f"))


def for_each(paths: Sequence[Path], action: Callable[[Path], None]) -> ExitCode:
    """Do it for all, say what failed, and return the first failure's code."""
    failure = ExitCode.OK
    for path in paths:
        try:
            action(path)
        except UsageError as error:
            complain(str(error))
            failure = failure or ExitCode(error.exit_code)
    return failure
