"""Defects: what no code of memfs raises on purpose, met while one file, or one step, is handled.

Invariant: a defect is never silent, and never takes more down than what it was met in.
"""

from __future__ import annotations

import logging

from memfs.errors import MemfsError

log = logging.getLogger(__name__)


class DefectError(MemfsError):
    """A defect of memfs, as the reason why a file waits or a step was not finished."""


def as_failure(error: Exception, what: str) -> MemfsError | OSError:
    """Return an error that can be the reason of something; log a defect with its traceback.

    Args:
        error: As it was caught.
        what: What was being done, and to which file.

    Returns:
        The error itself if it was raised on purpose or by the system, else a `DefectError`.
    """
    if isinstance(error, MemfsError | OSError):
        return error
    log.error("%s: %r is a defect of memfs", what, error, exc_info=error)
    return DefectError(
        f"{error!r} is a defect of memfs; daemon.log has its traceback: please report it"
    )
