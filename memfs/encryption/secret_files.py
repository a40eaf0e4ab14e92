"""Where secrets are: a file, the environment, a credential of systemd.

Invariant: a secret is taken only from a plain file that nobody but its owner may use, and whose
owner is root or the user who reads it; or from where the manager of the service has put it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET_BYTES_MAX = 4096
"""What is behind is not read."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


SOURCES = "write file:/path, env:NAME or credential:NAME"


def read_secret(source: str, setting: str, environment: Mapping[str, str]) -> str:
    """Return a secret.

    Args:
        source: `file:/path`, `env:NAME` or `credential:NAME` (systemd.exec(5), LoadCredential=).
        setting: The key of the configuration that names it, for messages.
        environment: That of this process.

    Raises:
        UsageError: It is not there, or others may use its file.
    """
    kind, colon, place = source.partition(":")
    match kind if colon and place else "":
        case "file":
            return read_secret_file(Path(place), setting)
        case "env":
            if place not in environment:
                raise UsageError(f"{setting}: {source}: the variable is not set")
            return environment[place]
        case "credential":
            return _read_credential(place, source, setting, environment)
        case _:
            # Not shown: it may be the secret itself.
            raise UsageError(f"{setting}: an entry names no source of a secret; {SOURCES}")


def _read_credential(name: str, source: str, setting: str, environment: Mapping[str, str]) -> str:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise UsageError(
            f"{setting}: {source}: $CREDENTIALS_DIRECTORY is not set; add "
            f"`LoadCredential={name}:/path` to the systemd unit"
        )
    if "/" in name or name in (".", ".."):
        raise UsageError(f"{setting}: {source}: a credential is named without slashes")
    # No look at the mode: systemd lets a unit's user in by an ACL, which shows as group bits.
    try:
        return Path(directory, name).read_bytes()[:SECRET_BYTES_MAX].decode("ascii", "replace")
    except OSError as error:
        raise UsageError(f"{setting}: {source}: {error.strerror}") from None


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
