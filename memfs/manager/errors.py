"""What a manager raises; each is an error of memfs and of the kind that Python programs expect."""

from __future__ import annotations

import errno

from memfs.errors import MemfsError


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


class TierUnavailableError(MemfsError, OSError):
    """The mount has no such tier, or the value cannot be there."""

    errno = errno.ENOTSUP
