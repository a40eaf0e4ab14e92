"""Paths from the root of a mount, as clients send them.

Invariant: symbolic links are not followed; the client does that before it asks.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError, NotADirectoryInodeError, NotFoundError
from memfs.filesystem.tree_changes import Name
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from memfs.metadata.namespace import Namespace
    from memfs.metadata.records import Inode


def split_path(path: bytes) -> list[bytes]:
    """Return the names of a path from the root of the mount.

    Raises:
        InvalidValueError: It has `..` in it.
    """
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise InvalidValueError(f"{os.fsdecode(path)}: paths are given without ..")
    return names


async def find_path(engine: Namespace, path: bytes) -> Inode:
    """Return what a path from the root of the mount leads to.

    Raises:
        NotFoundError, NotADirectoryInodeError: It leads nowhere.
    """
    inode = await engine.get_inode(ROOT_INODE)
    for name in split_path(path):
        try:
            inode = await engine.lookup(inode.ino, name)
        except (NotFoundError, NotADirectoryInodeError) as error:
            raise type(error)(f"{os.fsdecode(path)}: there is no such file") from None
    return inode


async def find_parent(engine: Namespace, path: bytes) -> Name:
    """Return the directory and the name that a path leads to.

    Raises:
        InvalidValueError: It is the root's.
        NotFoundError, NotADirectoryInodeError: There is no such directory.
    """
    names = split_path(path)
    if not names:
        raise InvalidValueError("the root of the mount has no name")
    above = b"/".join(names[:-1])
    try:
        parent = await find_path(engine, above)
    except NotFoundError:
        shown = os.fsdecode(above)
        raise NotFoundError(f"{shown}: there is no such directory; make it first") from None
    if not stat.S_ISDIR(parent.mode):
        raise NotADirectoryInodeError(f"{os.fsdecode(above)} is no directory")
    return Name(parent.ino, names[-1])
