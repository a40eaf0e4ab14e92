"""Drop: a form goes because another one holds the same content.

Invariant: no program loses what it holds: a file that is open or mapped keeps its raw file. A form
goes only after another one was seen where it lies: a packed file on the disk, or else the object in
the store, within the same call. While the store does not answer, the last local copy stays.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from memfs.errors import (
    InvalidValueError,
    ObjectChangedError,
    ObjectMissingError,
    StoreGoneError,
)
from memfs.linux.files import take_lease
from memfs.metadata.records import InodeFlags
from memfs.moves.attempt import sources_of
from memfs.moves.coding import unlock
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import find_form
from memfs.stores.contents import open_content
from memfs.types import BLOCK_BYTES, FormKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import Form, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.types import InodeNo, RawId


async def drop_raw(
    parts: MoveParts,
    ino: InodeNo,
    forms: Sequence[Form] | None = None,
    *,
    set_aside: bool = False,
    seen: Inode | None = None,
    seen_within_s: float = 0.0,
) -> MoveResult:
    """Detach the raw file of a sealed file that has another form.

    From the second look at the open files to the engine's change the inode's gate is held, so that
    no open can come between.

    Args:
        forms: The packed and remote forms that the caller looked at; if the file has others by
            now, nothing is dropped. None: whichever it has.
        set_aside: The raw file keeps another name, so that no byte goes with this one.
        seen: The file as the caller has read it just now; None: it is read. It is
            read again under the gate.
        seen_within_s: The object may have been looked at so long ago, for a file of its batch.

    Raises:
        StaleInodeError: The file is gone.
        StoreError: It is the last local copy, and the store has not shown that it has the object.
        CorruptDataError: The object is not as large as it was.
    """
    engine = parts.engine
    if parts.open_table.is_open(ino):
        return MoveResult(MoveOutcome.BUSY)
    if not set_aside:
        inode = seen or await engine.get_inode(ino)
        if (
            inode.raw
            and not inode.flags & InodeFlags.UNSEALED
            and await engine.list_all_forms(inode)
        ):
            found = await _see_another(parts, inode, FormKind.RAW, seen_within_s)
            if forms is not None and found != forms:
                return MoveResult(MoveOutcome.SUPERSEDED)
            forms = found
    # The lock and the backing id hold the raw file open and would look like a program's mapping.
    await parts.residency.unlock(ino, drop_pages=False)
    async with parts.open_table.gates.hold(ino):
        result = await _detach_raw(parts, ino, forms)
    if result.outcome == MoveOutcome.DONE:
        parts.faults.reach("drop_raw.detached")
    return result


async def _detach_raw(parts: MoveParts, ino: InodeNo, forms: Sequence[Form] | None) -> MoveResult:
    """Detach the raw file of a file whose gate is held, if nobody uses it."""
    engine = parts.engine
    inode = await engine.get_inode(ino)
    if not inode.raw:
        return MoveResult(MoveOutcome.UNNEEDED)
    if inode.flags & InodeFlags.UNSEALED or parts.open_table.is_open(ino):
        return MoveResult(MoveOutcome.BUSY)
    if not await engine.list_all_forms(inode):
        return MoveResult(MoveOutcome.SUPERSEDED)
    parts.open_table.forget_raw(ino)
    if _is_mapped(parts, inode.raw):
        return MoveResult(MoveOutcome.BUSY)
    if await parts.sealer.adopt_entered(inode):
        return MoveResult(MoveOutcome.SUPERSEDED)
    async with engine.change():
        # The form that was seen may have gone meanwhile, because of the raw file.
        if forms is not None and await engine.list_all_forms(inode) != forms:
            return MoveResult(MoveOutcome.SUPERSEDED)
        dropped = await engine.drop_raw(ino, inode.generation, inode.raw)
    if not dropped:
        return MoveResult(MoveOutcome.SUPERSEDED)
    return MoveResult(MoveOutcome.DONE, inode.blocks * BLOCK_BYTES)


async def drop_form(
    parts: MoveParts,
    ino: InodeNo,
    kind: FormKind,
    expected: Sequence[Form] | None = None,
    *,
    seen: Inode | None = None,
    seen_within_s: float = 0.0,
) -> MoveResult:
    """Detach the packed or remote form of a sealed file that has another form.

    Readers of ranges need no guard: they turn to a form that is left.

    Args:
        parts: What moves work with.
        ino: The file.
        kind: Packed or remote.
        expected: The packed and remote forms that the caller looked at; if the file has others by
            now, nothing is dropped. None: whichever it has.
        seen: The file as the caller has read it just now; None: it is read.
        seen_within_s: As `drop_raw`.

    Raises:
        StaleInodeError: The file is gone.
        StoreError: It is the last local copy, and the store has not shown that it has the object.
        CorruptDataError: The object is not as large as it was.
    """
    if kind == FormKind.RAW:
        raise InvalidValueError("a raw form is dropped by drop_raw")
    engine = parts.engine
    inode = seen or await engine.get_inode(ino)
    if inode.flags & InodeFlags.UNSEALED:
        return MoveResult(MoveOutcome.BUSY)
    form = await find_form(parts, inode, kind)
    if form is None:
        return MoveResult(MoveOutcome.UNNEEDED)
    forms = await _see_another(parts, inode, kind, seen_within_s)
    if expected is not None and forms != expected:
        return MoveResult(MoveOutcome.SUPERSEDED)
    async with engine.change():
        # What was seen may have gone meanwhile, because of this form.
        now = await engine.get_inode(ino)
        if now.raw != inode.raw or await engine.list_all_forms(inode) != forms:
            return MoveResult(MoveOutcome.SUPERSEDED)
        dropped = await engine.drop_form(ino, inode.generation, kind)
    parts.faults.reach(f"drop_{kind}.detached")
    if not dropped:
        return MoveResult(MoveOutcome.SUPERSEDED)
    return MoveResult(MoveOutcome.DONE, form.stored_bytes)


async def _see_another(
    parts: MoveParts, inode: Inode, leaving: FormKind, seen_within_s: float
) -> list[Form]:
    """Return the forms of a file, once one of those that stay was seen where it lies.

    Raises:
        ObjectMissingError: Not one of them is there.
        StoreError, CorruptDataError: As `Sightings.require`.
    """
    forms = await parts.engine.list_all_forms(inode)
    if leaving != FormKind.RAW and inode.raw and not parts.sealer.is_changed(inode, missing=True):
        return forms
    staying = {form.kind: form for form in forms if form.kind != leaving and not form.is_foreign}
    foreign = next((form for form in forms if form.is_foreign), None)
    packed, remote = staying.get(FormKind.PACKED), staying.get(FormKind.REMOTE)
    if packed is not None and parts.packed_store.holds(packed.place.key, packed.stored_bytes):
        return forms
    if remote is None and foreign is not None:
        await _see_foreign(parts, foreign)
        parts.faults.reach("drop.seen")
        return forms
    if remote is not None:
        if parts.remote is None:
            raise StoreGoneError(
                f"inode {inode.ino}: its object is in a store that is not configured any more; the "
                "local copy is the last one and stays"
            )
        if remote.owned:
            await parts.sightings.require(parts.remote, remote, seen_within_s)
        else:
            # Somebody else may have written it anew, as long as it was: only its bytes tell.
            blob = await parts.engine.get_blob(inode.blob)
            reader = await open_content(parts.remote, remote, unlock(parts, blob, remote.coding))
            await reader.verify(zeros=parts.zeros)
        parts.faults.reach("drop.seen")
    elif packed is not None:
        raise ObjectMissingError(
            f"inode {inode.ino}: {packed.place.key} is not on the disk as it was packed; its "
            f"{leaving} copy stays; run memfs scrub"
        )
    return forms


async def _see_foreign(parts: MoveParts, form: Form) -> None:
    """Return once the source has shown that it has the object with the same etag.

    Raises:
        ObjectChangedError, ObjectMissingError: It has not.
        StoreError: It did not say.
    """
    store, wanted = await sources_of(parts, form.place).store_of_form(form)
    found = await store.look_at(wanted.key, wanted.version)
    if (found.etag, found.size) != (wanted.etag, wanted.size):
        raise ObjectChangedError(
            f"{store.url}/{wanted.key}: another object has the key by now; the local copy is the "
            "last one and stays"
        )


def _is_mapped(parts: MoveParts, raw: RawId) -> bool:
    """Return True if a process has the raw file mapped or open, by way of the mount or not.

    A mapping outlives its RELEASE under passthrough. Its bytes would stay readable without the
    name, but a later writer's raw file would be another one and the mapping would never see it.
    A write lease is granted exactly if nobody else has the file open (fcntl(2), F_SETLEASE).
    """
    try:
        fd = parts.raw_store.open(raw, os.O_RDONLY)
    except ObjectMissingError:
        return False
    try:
        take_lease(fd, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:
        # No leases on this file system, or not our file: then only handles are known.
        return False
    finally:
        os.close(fd)
    return False
