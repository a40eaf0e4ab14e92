"""Relocate: the object of a file comes into the store that the file belongs in.

Invariant: the former object stays until the new one was read back whole with the content's digest;
then one engine call puts the new one in its place, for all that share the content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.addresses import store_of
from memfs.metadata.records import InodeFlags
from memfs.moves.choosing import chosen_store
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import find_form
from memfs.moves.rekeying import replace_object
from memfs.moves.uploading import upload
from memfs.types import FormKind

if TYPE_CHECKING:
    from memfs.metadata.records import Form, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import InodeNo


class Misplaced(NamedTuple):
    """A file whose object is in another store than the one that the file belongs in."""

    inode: Inode
    form: Form
    store: str
    """Name of the store that it belongs in; empty: the default one."""


async def find_misplaced(parts: MoveParts, ino: InodeNo) -> Misplaced | None:
    """Return what there is to move of a file; None: nothing.

    What memfs does not own is never moved.

    Raises:
        StaleInodeError: The file is gone.
        StoreNotConfiguredError: The store that it belongs in is not configured.
    """
    inode = await parts.engine.get_inode(ino)
    if inode.flags & InodeFlags.UNSEALED:
        return None
    form = await find_form(parts, inode, FormKind.REMOTE)
    if form is None or not form.owned:
        return None
    store = await chosen_store(parts, ino)
    return None if store_of(form.place.key) == store else Misplaced(inode, form, store)


async def relocate(parts: MoveParts, ino: InodeNo) -> MoveResult:
    """Bring the object of a sealed file into the store that the file belongs in.

    It is made of the local copy with the codec of that store, if there is one; else the frames of
    the former object are copied. An object of a batch becomes one of its own.

    Raises:
        StaleInodeError: The file is gone.
        StoreNotConfiguredError: One of the stores is not configured.
        StoreError: One of the stores refused or cannot be reached.
        NoSpaceError: The disk has no room for a copy.
        CorruptDataError: The source is damaged, or the object does not read back equal.
        EncryptionKeyError: The key of its source is not configured.
    """
    found = await find_misplaced(parts, ino)
    if found is None:
        return MoveResult(MoveOutcome.UNNEEDED)
    if found.inode.raw:
        return await upload(parts, ino, seen=found.inode, replacing=found.form)
    return await replace_object(parts, found.inode, found.form, found.store, "relocate")
