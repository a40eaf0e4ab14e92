"""A file that processes hold in common: the kernel knows when the last of them is gone.

Invariant: a hold is a lock of the kernel (flock(2)), so it ends with its process however that dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from memfs.linux.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

HOLDERS_NAME = "holders"
"""Name of the file in a state directory."""

_POLL_S = 0.02


def make_holders(state_dir: Path) -> int:
    """Make the file of holders where it is missing; returns a descriptor that holds nothing.

    Raises:
        OSError: It cannot be made, or is a symbolic link.
    """
    return open_regular(state_dir / HOLDERS_NAME, os.O_RDWR | os.O_CREAT)


def take_hold(path: Path, wait_s: float) -> int:
    """Hold a file in common with others.

    Args:
        path: Must exist.
        wait_s: Who holds it alone is waited for so long.

    Returns:
        A descriptor that holds it, close-on-exec; a child by fork holds it as well.

    Raises:
        OSError: It is not there, or may not be opened. BlockingIOError: one held it alone for so
            long.
    """
    fd = open_regular(path, os.O_RDONLY)
    deadline_s = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(_POLL_S)
            else:
                return fd
    except BaseException:
        os.close(fd)
        raise


def try_alone(fd: int) -> bool:
    """Hold a file alone, unless another one holds it; then `fd` does not hold it any longer."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def hold_in_common(fd: int) -> None:
    """Let others hold the file as well; waits for those that hold it alone, a moment."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def let_go(fd: int) -> None:
    """Hold the file no longer."""
    fcntl.flock(fd, fcntl.LOCK_UN)
