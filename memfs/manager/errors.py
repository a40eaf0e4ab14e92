"""What a manager raises; each is an error of memfs and of the kind that Python programs expect."""

from __future__ import annotations

import errno
import re
from datetime import UTC, datetime
from typing import Self

from memfs.errors import MemfsError

_ENDS_BY = re.compile(r"ends by (\d{4}-\d\d-\d\d \d\d:\d\d) UTC")
"""How `stores.restoring` tells when a restore is over at the latest."""


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
    def of(cls, key: str, reason: str) -> Self:
        """Return the error for a key.

        Args:
            key: That was to be retrieved.
            reason: What `why` says of its pending move; empty: nothing yet.
        """
        found = _ENDS_BY.search(reason)
        until = None if found is None else datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        told = reason or "its object is archived, and a restore was requested"
        return cls(f"the value of {key!r} cannot be read yet: {told}", until)


class TierUnavailableError(MemfsError, OSError):
    """The mount has no such tier, or the value cannot be there."""

    errno = errno.ENOTSUP
