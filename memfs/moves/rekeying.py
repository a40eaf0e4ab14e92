"""Rekey: the forms of a content get the key that new forms have, and the former key can be retired.

Invariant: the former form stays until the new one was read back whole with the content's digest;
then one engine call puts the new one in its place and makes the former one garbage. All that share
the content have the new form then, snapshots among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.addresses import address_of, store_of
from memfs.metadata.records import Form, FormReplacement, InodeFlags, MoveKind
from memfs.moves.attempt import recorded, writable_store
from memfs.moves.coding import encryption_of, is_under, key_of, unlock
from memfs.moves.containers import Container
from memfs.moves.keeping import inode_of
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import find_form, live_blob
from memfs.moves.storing import Stored, store_object, temporary_file
from memfs.moves.uploading import object_key
from memfs.stores.contents import open_content
from memfs.stores.reading import PackedFile
from memfs.types import NO_INODE, FormKind, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.encryption.keys import Key
    from memfs.metadata.records import Blob, Inode, KeptContent
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.stores.store import RemoteStore
    from memfs.types import FormCoding, InodeNo, IntentId


class KeyedForm(NamedTuple):
    """A form of a content, and whether its key is the one that new forms have."""

    kind: FormKind
    key_id: str
    """As hexadecimal digits; empty: it is not encrypted."""
    stored_bytes: int
    current: bool
    """True also of a form that memfs does not own: it stays as it is."""


async def list_keyed(parts: MoveParts, ino: InodeNo) -> list[KeyedForm]:
    """Return the packed and remote forms of a file with their keys."""
    return await _list_keyed(parts, await parts.engine.get_inode(ino))


async def list_keyed_kept(parts: MoveParts, kept: KeptContent) -> list[KeyedForm]:
    """Return the packed and remote forms of what snapshots keep, with their keys."""
    return await _list_keyed(parts, inode_of(kept))


async def _list_keyed(parts: MoveParts, inode: Inode) -> list[KeyedForm]:
    found = []
    for form in await parts.engine.list_forms(inode.blob) if inode.blob else ():
        current = not form.owned or is_under(form.coding, _key_of(parts, form))
        found.append(KeyedForm(form.kind, form.coding.key_id, form.stored_bytes, current))
    return found


async def rekey(parts: MoveParts, ino: InodeNo) -> MoveResult:
    """Bring the forms of a sealed file under the key that new ones have, or in clear.

    Each is copied under its new key, a batched object into one of its own.

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
    return await _rekey(parts, inode)


async def rekey_kept(parts: MoveParts, kept: KeptContent) -> MoveResult:
    """Bring the forms of what snapshots keep under the key that new ones have; raises as `rekey`.

    `StaleInodeError` says here that no snapshot keeps it any more.
    """
    # Its file may be gone, so that no move can name it.
    return await _rekey(parts, inode_of(kept)._replace(ino=NO_INODE))


async def _rekey(parts: MoveParts, inode: Inode) -> MoveResult:
    outcome, moved_bytes = MoveOutcome.UNNEEDED, 0
    for kind, rekey_form in ((FormKind.REMOTE, _rekey_object), (FormKind.PACKED, _rekey_packed)):
        former = await _find_old(parts, inode, kind)
        if former is not None:
            result = await rekey_form(parts, inode, former)
            moved_bytes += result.moved_bytes
            if outcome is not MoveOutcome.SUPERSEDED:
                outcome = result.outcome
    return MoveResult(outcome, moved_bytes)


async def _find_old(parts: MoveParts, inode: Inode, kind: FormKind) -> Form | None:
    form = await find_form(parts, inode, kind)
    # What memfs does not own has no key of memfs, and is never replaced.
    if form is None or not form.owned or is_under(form.coding, _key_of(parts, form)):
        return None
    return form


def _key_of(parts: MoveParts, form: Form) -> Key | None:
    """Return the key that a form has to be under; None: it has to be in clear."""
    return key_of(parts, form.kind, store_of(form.place.key))


async def _rekey_packed(parts: MoveParts, inode: Inode, former: Form) -> MoveResult:
    blob = await live_blob(parts, inode)
    location = parts.packed_store.location(parts.engine.reserve_blob())
    async with recorded(parts, MoveKind.PACK, location, inode) as attempt:
        with parts.progress.track("rekey", inode.ino, blob.size) as progress:
            stored_bytes, coding = await trio.to_thread.run_sync(
                _copy_packed,
                *(parts, inode, blob, former, location, progress),
                limiter=parts.threads,
            )
        form = Form(former.blob, FormKind.PACKED, Place(location), coding, stored_bytes)
        replaced = await attempt.publish(
            lambda intent: parts.engine.replace_form(intent, FormReplacement(former, form))
        )
    parts.faults.reach("rekey_packed.published")
    return MoveResult(MoveOutcome.DONE if replaced else MoveOutcome.SUPERSEDED, stored_bytes)


def _copy_packed(
    parts: MoveParts,
    inode: Inode,
    blob: Blob,
    former: Form,
    location: str,
    progress: MoveProgress,
) -> tuple[int, FormCoding]:
    """Write a packed file anew under the key of such files, durable, and read it back."""
    store = parts.packed_store

    def advance(done_bytes: int) -> None:
        progress.done_bytes = done_before + done_bytes // 2
        rest()

    done_before = 0
    encryption = encryption_of(parts, FormKind.PACKED, inode, former.blob)
    with parts.throttle.stint() as rest:
        unlocking = unlock(parts, blob, former.coding)
        with (
            PackedFile.open(store.path(former.place.key), unlock=unlocking) as source,
            store.draft(location) as draft,
        ):
            stored_bytes, table = source.reencrypt_to(draft.fd, encryption, advance)
            draft.publish()
        parts.faults.reach("rekey_packed.written")
        done_before = blob.size // 2
        unlocking = unlock(parts, blob, table.coding)
        with PackedFile.open(store.path(location), unlock=unlocking) as packed:
            packed.verify(advance, parts.zeros)
    parts.faults.reach("rekey_packed.verified")
    return stored_bytes, table.coding


async def _rekey_object(parts: MoveParts, inode: Inode, former: Form) -> MoveResult:
    return await replace_object(parts, inode, former, store_of(former.place.key), "rekey")


async def replace_object(
    parts: MoveParts, inode: Inode, former: Form, store: str, move: str
) -> MoveResult:
    """Copy the object of a content under the key of a store, and put it in the former one's place.

    Its frames stay as they are compressed.

    Args:
        inode: Has the content.
        former: Its remote form, which memfs owns.
        store: Name of the store of the new object; empty: the default one.
        move: `rekey` or `relocate`: name that its fault points begin with.

    Raises:
        StoreError: One of the stores refused or cannot be reached.
        NoSpaceError: The disk has no room for a copy.
        CorruptDataError: The form is damaged, or the object does not read back equal.
        EncryptionKeyError: The key of the form is not configured.
    """
    remote = writable_store(parts)
    key = address_of(store, object_key(former.blob, inode.generation))

    async def publish(intent: IntentId, stored: Sequence[Stored]) -> MoveResult:
        ((form, _),) = stored
        replaced = await parts.engine.replace_form(intent, FormReplacement(former, form))
        outcome = MoveOutcome.DONE if replaced else MoveOutcome.SUPERSEDED
        return MoveResult(outcome, form.stored_bytes)

    async with recorded(parts, MoveKind.UPLOAD, key, inode) as attempt:
        with parts.progress.track(move, inode.ino, inode.size) as progress:

            async def put() -> list[Stored]:
                async with temporary_file(parts, f"{move}-{inode.ino}") as (path, fd):
                    blob, coding, stored_bytes = await _copy(
                        parts, remote, inode, former, fd, store, progress
                    )
                    parts.faults.reach(f"{move}.prepared")
                    await remote.put_file(key, path)
                form = Form(former.blob, FormKind.REMOTE, Place(key), coding, stored_bytes)
                return [Stored(form, blob)]

            result = await store_object(parts, remote, attempt, move, put, publish, progress)
    assert result is not None, "one form was put"
    return result


async def _copy(
    parts: MoveParts,
    remote: RemoteStore,
    inode: Inode,
    former: Form,
    fd: int,
    store: str,
    progress: MoveProgress,
) -> Container:
    """Write an object's frames, under the key of a store, into a local file."""

    def advance(done_bytes: int) -> None:
        progress.done_bytes = done_bytes // 2

    blob = await live_blob(parts, inode)
    reader = await open_content(remote, former, unlock(parts, blob, former.coding))
    encryption = encryption_of(parts, FormKind.REMOTE, inode, former.blob, store)
    stored_bytes, table = await reader.reencrypt_to(fd, encryption, advance)
    return Container(blob, table.coding, stored_bytes)
