"""Files that hold a secret.

Invariant: a secret is taken only from a plain file that nobody but its owner may use, and whose
owner is root or the user who reads it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from memfs.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

SECRET_BYTES_MAX = 4096
"""What is behind is not read."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secret_file(path: Path, setting: str) -> str:
    """Return what a file holds, without the white space around it.

    Args:
        setting: The key of the configuration that names it, for messages.

    Raises:
        UsageError: It is not there, or others may use or replace it.
    """
    what = f"{setting}: {path}"
    if not path.is_absolute():
        raise UsageError(f"{what}: write file:/absolute/path")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{what}: not a plain file")
        if status.st_mode & _OTHERS:
            raise UsageError(
                f"{what}: others than its owner may use it (mode "
                f"{stat.S_IMODE(status.st_mode):04o}); chmod 600 {path}"
            )
        if status.st_uid not in (0, os.geteuid()):
            raise UsageError(
                f"{what}: belongs to user {status.st_uid}, who can change it; "
                f"chown it to root or to user {os.geteuid()}"
            )
        return os.read(fd, SECRET_BYTES_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
