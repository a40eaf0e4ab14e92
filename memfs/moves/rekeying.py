"""Rekey: a file's forms get the key that new forms have, and the former key can be retired.

Invariant: the former object stays until the new one was read back whole with the file's digest;
then one engine call puts the new one in its place and makes the former one garbage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.records import Form, FormReplacement, InodeFlags, MoveKind
from memfs.moves.attempt import recorded, writable_store
from memfs.moves.coding import encryption_of, is_under, key_of, unlock
from memfs.moves.containers import Container
from memfs.moves.dropping import drop_form
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import find_form, live_blob
from memfs.moves.storing import Stored, store_object, temporary_file
from memfs.moves.uploading import object_key
from memfs.stores.contents import open_content
from memfs.types import FormKind, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo, IntentId


class KeyedForm(NamedTuple):
    """A form of a file, and whether its key is the one that new forms have."""

    kind: FormKind
    key_id: str
    """As hexadecimal digits; empty: it is not encrypted."""
    content_bytes: int
    """Bytes of the file."""
    stored_bytes: int
    current: bool
    """True also of a form that memfs does not own: it stays as it is."""


async def list_keyed(parts: MoveParts, ino: InodeNo) -> list[KeyedForm]:
    """Return the packed and remote forms of a file with their keys."""
    inode = await parts.engine.get_inode(ino)
    found = []
    for form in await parts.engine.list_forms(inode.blob) if inode.blob else ():
        current = not form.owned or is_under(form.coding, key_of(parts, form.kind))
        found.append(
            KeyedForm(form.kind, form.coding.key_id, inode.size, form.stored_bytes, current)
        )
    return found


async def rekey(parts: MoveParts, ino: InodeNo) -> MoveResult:
    """Bring the forms of a sealed file under the key that new ones have, or in clear.

    The object is copied under its new key, a batched one into an object of its own. A packed file
    is unpacked, and packed anew when the mover sees fit.

    Raises:
        StaleInodeError: The file is gone.
        EncryptionKeyError: The key of a form is not configured.
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room for a copy.
        CorruptDataError: A form is damaged; it stays as it is.
    """
    inode = await parts.engine.get_inode(ino)
    if inode.flags & InodeFlags.UNSEALED:
        return MoveResult(MoveOutcome.BUSY)
    outcome, moved_bytes = MoveOutcome.UNNEEDED, 0
    remote = await _find_old(parts, inode, FormKind.REMOTE)
    if remote is not None:
        outcome, moved_bytes = await _rekey_remote(parts, inode, remote)
    if await _find_old(parts, inode, FormKind.PACKED) is not None:
        await hydrate(parts, ino)
        outcome, freed_bytes = await drop_form(parts, ino, FormKind.PACKED)
        moved_bytes += freed_bytes
    return MoveResult(outcome, moved_bytes)


async def _find_old(parts: MoveParts, inode: Inode, kind: FormKind) -> Form | None:
    form = await find_form(parts, inode, kind)
    # What memfs does not own has no key of memfs, and is never replaced.
    if form is None or not form.owned or is_under(form.coding, key_of(parts, kind)):
        return None
    return form


async def _rekey_remote(parts: MoveParts, inode: Inode, former: Form) -> MoveResult:
    remote = writable_store(parts)
    key = object_key(former.blob, inode.generation)

    async def publish(intent: IntentId, stored: Sequence[Stored]) -> MoveResult:
        ((form, _),) = stored
        replaced = await parts.engine.replace_form(intent, FormReplacement(former, form))
        outcome = MoveOutcome.DONE if replaced else MoveOutcome.SUPERSEDED
        return MoveResult(outcome, form.stored_bytes)

    async with recorded(parts, MoveKind.UPLOAD, key, inode) as attempt:
        with parts.progress.track("rekey", inode.ino, inode.size) as progress:

            async def put() -> list[Stored]:
                async with temporary_file(parts, f"rekey-{inode.ino}") as (path, fd):
                    blob, coding, stored_bytes = await _copy(
                        parts, remote, inode, former, fd, progress
                    )
                    parts.faults.reach("rekey.prepared")
                    await remote.put_file(key, path)
                form = Form(former.blob, FormKind.REMOTE, Place(key), coding, stored_bytes)
                return [Stored(form, blob)]

            result = await store_object(parts, remote, attempt, "rekey", put, publish, progress)
    assert result is not None, "one form was put"
    return result


async def _copy(
    parts: MoveParts,
    remote: RemoteStore,
    inode: Inode,
    former: Form,
    fd: int,
    progress: MoveProgress,
) -> Container:
    """Write an object's frames under the new key into a local file."""

    def advance(done_bytes: int) -> None:
        progress.done_bytes = done_bytes // 2

    blob = await live_blob(parts, inode)
    reader = await open_content(remote, former, unlock(parts, blob, former.coding))
    encryption = encryption_of(parts, FormKind.REMOTE, inode, former.blob)
    stored_bytes, table = await reader.reencrypt_to(fd, encryption, advance)
    return Container(blob, table.coding, stored_bytes)
