"""The format file: says which engine and which version of it a state directory belongs to.

Invariant: a directory of another engine, a newer version or an unreadable format is not touched.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from memfs.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_NUMBER = 2
ENGINE_NAME = "sqlite"
FILE_NAME = "format"


def read_format(state_dir: Path) -> bool:
    """Return True if the directory has a format that this engine serves, False if it has none.

    Raises:
        UsageError: The format is newer, of another engine, or unreadable.
    """
    path = state_dir / FILE_NAME
    try:
        content = json.loads(path.read_bytes())
        number, engine = content["format"], content["engine"]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}): this is no state directory of memfs, or a damaged "
            "one; name another with --state, or restore the file from a backup"
        ) from None
    if engine != ENGINE_NAME:
        raise UsageError(f"{path} names the engine {engine!r}, not {ENGINE_NAME!r}: mount it so")
    if type(number) is not int or number != FORMAT_NUMBER:
        raise UsageError(
            f"{path} says format {number!r}, this memfs knows {FORMAT_NUMBER}: "
            "use the version of memfs that wrote it, or a newer one"
        )
    return True


def write_format(state_dir: Path) -> None:
    """Mark the directory as complete and ours, for good."""
    content = json.dumps({"format": FORMAT_NUMBER, "engine": ENGINE_NAME}) + "\n"
    temporary = state_dir / (FILE_NAME + ".new")
    temporary.touch(mode=0o600)
    with temporary.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(state_dir / FILE_NAME)
    sync_directory(state_dir)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive power loss (fsync(2) of the directory)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
