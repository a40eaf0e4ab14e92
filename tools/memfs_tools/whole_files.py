"""Files that commands write: whole under their name, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str, mode: int) -> None:
    """Write a file in one step; another program may read it at any moment.

    Args:
        path: Where; what is there gives way.
        text: Its content.
        mode: As of chmod(2).

    Raises:
        OSError: It cannot be written, with its path; what was there is still there.
    """
    temporary: str | None = None
    try:
        # The name begins with a dot and has another end, so that nobody takes it for the file.
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
