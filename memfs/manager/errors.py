"""What a manager raises; each is an error of memfs and of the kind that Python programs expect."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from memfs.errors import MemfsError
from memfs.types import PendingCode

if TYPE_CHECKING:
    from collections.abc import Mapping


class MissingKeyError(MemfsError, KeyError):
    """Nothing is stored under a key."""

    errno = errno.ENOENT

    def __str__(self) -> str:
        """Return the message; `KeyError` would show it as a literal."""
        return str(self.args[0]) if self.args else ""


class MissingSnapshotError(MissingKeyError):
    """The mount has no such snapshot."""


class KeyConflictError(MemfsError, OSError):
    """A key is a directory of another one, or something is stored there already."""

    errno = errno.EEXIST


class ValueFormatError(MemfsError, ValueError):
    """A value cannot be stored so, or a file does not hold what it should."""

    errno = errno.EINVAL


class FilterError(MemfsError, ValueError):
    """A filter means nothing; the message says at which place."""

    errno = errno.EINVAL


class UnsafeFormatError(ValueFormatError):
    """A file would run code when it is read, and the manager does not allow that."""

    errno = errno.EPERM


class MountUnavailableError(MemfsError, OSError):
    """There is no mount of memfs to work on, and the message says why."""

    errno = errno.ENOTCONN


class ClosedManagerError(MemfsError, ValueError):
    """A manager was closed, as a file that is closed."""

    errno = errno.EBADF


class DiskFullError(MemfsError, OSError):
    """The disk of the mount, or the quota of the user there, is full; nothing was changed."""

    errno = errno.ENOSPC


class ReadOnlyMountError(MemfsError, OSError):
    """The mount is read-only, and nothing was changed."""

    errno = errno.EROFS


class ArchivedError(MemfsError, OSError):
    """The object of a value is archived, and its restore was begun; it can be retrieved later.

    Args:
        message: What is being restored, and since when.
        until: When it can be retrieved at the latest; None: that is not known yet.
    """

    errno = errno.EBUSY

    def __init__(self, message: str, until: datetime | None = None) -> None:
        super().__init__(message, until)
        self.until = until

    def __str__(self) -> str:
        """Return the message."""
        return str(self.args[0])

    @classmethod
    def of(cls, key: str, pending: Mapping[str, Any]) -> Self:
        """Return the error for a key.

        Args:
            key: That was to be retrieved.
            pending: What `why` says of its pending move; empty: nothing yet.
        """
        until = None
        if pending.get("code") == PendingCode.ARCHIVED and pending["until_ns"]:
            until = datetime.fromtimestamp(pending["until_ns"] / 1e9, tz=UTC)
        told = pending.get("reason") or "its object is archived, and a restore was requested"
        return cls(f"the value of {key!r} cannot be read yet: {told}", until)


class TierUnavailableError(MemfsError, OSError):
    """The mount has no such tier, or the value cannot be there."""

    errno = errno.ENOTSUP
