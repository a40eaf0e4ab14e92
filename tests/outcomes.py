"""What came of a system call, as a value that two file systems can be compared by."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable


P = ParamSpec("P")


class Outcome(NamedTuple):
    """Either a value or the name of an error."""

    value: object
    error: str | None
    """`ENOENT`, ...; None after success."""


def outcome(action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Outcome:
    """Call `action`; an OSError becomes part of the value, everything else is raised."""
    try:
        return Outcome(action(*args, **kwargs), None)
    except OSError as error:
        return Outcome(None, errno.errorcode[error.errno or 0])


def error_of(action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str | None:
    """Name of the error that `action` fails with, None if it succeeds.

    EOPNOTSUPP and ENOTSUP are one number on Linux, and read `ENOTSUP` here.
    """
    return outcome(action, *args, **kwargs).error
