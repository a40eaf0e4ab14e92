"""Choosing: the store that the next object of a file goes to.

Invariant: a file whose store is not configured goes to no other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.addresses import DEFAULT_NAME
from memfs.errors import StoreNotConfiguredError
from memfs.policy.marks import STORE_XATTR

if TYPE_CHECKING:
    from memfs.metadata.namespace import Namespace
    from memfs.moves.attempt import MoveParts
    from memfs.types import InodeNo


async def wanted_store(engine: Namespace, ino: InodeNo) -> str:
    """Return the name of the store that a file, or what is below a directory, belongs in.

    Empty is the default one. It need not be configured.

    Raises:
        StaleInodeError: The inode is gone.
    """
    value = await engine.effective_xattr(ino, STORE_XATTR)
    name = "" if value is None else value.decode()
    return "" if name == DEFAULT_NAME else name


async def chosen_store(parts: MoveParts, ino: InodeNo) -> str:
    """Return the name of the store that a file goes to; empty: the default one.

    Raises:
        StaleInodeError: The file is gone.
        StoreNotConfiguredError: Its store is not configured.
    """
    name = await wanted_store(parts.engine, ino)
    if name and name not in parts.config.stores:
        path = (await parts.engine.get_path(ino)).decode("utf-8", "backslashreplace")
        raise StoreNotConfiguredError(name, path)
    return name
