"""The format file: which engine and version of it a state directory belongs to, and its identity.

Invariant: a directory of another engine, a newer version or an unreadable format is not touched.
"""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING

from memfs.errors import UsageError
from memfs.types import StateId

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_NUMBER = 2
ENGINE_NAME = "sqlite"
FILE_NAME = "format"
STATE_ID_BYTES = 16


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


def read_state_id(state_dir: Path) -> StateId | None:
    """Return the identity of a state directory; None if it was made before there were any.

    Raises:
        UsageError: The format file cannot be read, or what it has is no identity.
    """
    path = state_dir / FILE_NAME
    try:
        text = json.loads(path.read_bytes()).get("id")
        if text is None:
            return None
        state_id = bytes.fromhex(text)
        if len(state_id) == STATE_ID_BYTES:
            return StateId(state_id)
        error: Exception = ValueError(f"{len(state_id)} bytes")
    except (OSError, ValueError, AttributeError, TypeError) as caught:
        error = caught
    raise UsageError(f"{path} has no valid id ({error}): restore the file from a backup")


def ensure_state_id(state_dir: Path) -> StateId:
    """Return the identity of a state directory, giving it one if it was made before there were any.

    Raises:
        UsageError: As `read_state_id`.
        OSError: The identity cannot be written.
    """
    return read_state_id(state_dir) or write_format(state_dir)


def write_format(state_dir: Path) -> StateId:
    """Mark the directory as complete and ours, for good; returns its new identity."""
    state_id = secrets.token_bytes(STATE_ID_BYTES)
    content = json.dumps({"format": FORMAT_NUMBER, "engine": ENGINE_NAME, "id": state_id.hex()})
    temporary = state_dir / (FILE_NAME + ".new")
    temporary.touch(mode=0o600)
    with temporary.open("w") as file:
        file.write(content + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(state_dir / FILE_NAME)
    sync_directory(state_dir)
    return StateId(state_id)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive power loss (fsync(2) of the directory)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
