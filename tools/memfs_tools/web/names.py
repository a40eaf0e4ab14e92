"""Names of files on the page: what is shown, and by what a file is asked for.

Invariants:
- An id is plain ASCII, and leads back to the bytes of the path: a browser never has to carry a name
  that is no text.
- Whatever an id says, it leads nowhere outside of the mount.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from memfs.errors import InvalidValueError
from memfs.escaping import escape_text
from memfs.linux.beneath import open_beneath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ID_MAX = 3 * 4096
"""That of a path as long as PATH_MAX, all of it percent-encoded."""


def id_of(path: str) -> str:
    """Return the id of a path from the root of the mount."""
    return quote_from_bytes(os.fsencode(path.strip("/")), safe="/")


def path_of(name: str) -> str:
    """Return the path that an id is of.

    Raises:
        InvalidValueError: It is the id of no file.
    """
    if len(name) > _ID_MAX or not name.isascii():
        raise InvalidValueError("this is the id of no file")
    path = os.fsdecode(unquote_to_bytes(name))
    if "\0" in path or {"..", "."} & {*path.split("/")}:
        raise InvalidValueError("this is the id of no file")
    return path.strip("/")


@contextlib.contextmanager
def opened(mountpoint: Path, path: str) -> Iterator[Path]:
    """Yield a name of a file or a directory that stays its own while others rename and link.

    Args:
        mountpoint: Links that lead out of it are not followed.
        path: From there on; empty: the root.

    Raises:
        OSError: As of openat2(2).
    """
    from pathlib import Path

    root = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_beneath(root, path or ".", os.O_PATH)
    finally:
        os.close(root)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def shown(value: Any) -> Any:  # noqa: ANN401 - of JSON, anything
    """Return a value of JSON with each text in it, and each name of a field, escaped."""
    if isinstance(value, str):
        return escape_text(value)
    if isinstance(value, dict):
        return {escape_text(str(name)): shown(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [shown(each) for each in value]
    return value
