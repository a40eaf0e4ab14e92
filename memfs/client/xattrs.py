"""Several xattrs of a file in one step.

Invariant: on memfs all of them change, or nothing does, whenever a program is killed.
"""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

from memfs.types import XATTR_VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

_XATTRS = "user.memfs.xattrs"
_TIER = "user.memfs.tier"
"""Every file on memfs has it, and no other one."""


def set_xattrs(
    path: int | str | os.PathLike[str],
    changes: Mapping[bytes, bytes | None],
    *,
    is_on_memfs: bool | None = None,
) -> None:
    """Set and remove xattrs of a file; a symbolic link is followed.

    One after the other on another file system, or where they have more than 64 KiB together.

    Args:
        path: The file, or a descriptor of it.
        changes: Values by full name, `user.*`; None: it is removed, if it is there.
        is_on_memfs: None: it is asked for that.

    Raises:
        OSError: As of setxattr(2).
    """
    if len(changes) > 1:
        texts = {
            _text(name): None if value is None else _text(value) for name, value in changes.items()
        }
        together = json.dumps(texts).encode()
        fits = len(together) <= XATTR_VALUE_BYTES_MAX
        if fits and (_is_on_memfs(path) if is_on_memfs is None else is_on_memfs):
            os.setxattr(path, _XATTRS, together)
            return
    for name, value in changes.items():
        if value is not None:
            os.setxattr(path, name, value)
            continue
        try:
            os.removexattr(path, name)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _is_on_memfs(path: int | str | os.PathLike[str]) -> bool:
    try:
        os.getxattr(path, _TIER)
    except OSError:
        return False
    return True
