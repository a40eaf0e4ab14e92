"""Objects of exports: put and read back whole, and read again on a new machine.

Invariant: what `seal_file` returns was read back from the store with its digest; what `open_sealed`
returns has the digest that was asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from memfs.codecs.registry import get_codec, parse_codec
from memfs.errors import CorruptDataError
from memfs.exports.description import DONE_BYTES_MAX, Description, Done, Sealed, done_key
from memfs.moves.coding import key_of
from memfs.moves.storing import temporary_file
from memfs.placement.quotas import cost_of_upload, stored_bytes_max
from memfs.stores.contents import open_content
from memfs.stores.disk import read_fully
from memfs.stores.envelope import Encryption, Unlock
from memfs.stores.packing import pack_file
from memfs.types import BlobId, FormKind, Generation

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.encryption.keys import KeyRing
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas
    from memfs.stores.store import RemoteStore
    from memfs.types import SnapshotId, StateId

CODEC = "zstd:3"
FRAME_BYTES = 1 << 20
SIZE_MAX = 1 << 30
"""Bytes of an object before compression; bounds what a hostile description can ask for."""


async def seal_file(
    parts: MoveParts,
    remote: RemoteStore,
    quotas: Quotas,
    source: Path,
    key: str,
    snap: SnapshotId,
    number: int,
) -> Sealed:
    """Store a local file as an object of an export, and read it back.

    Args:
        source: Removed by the caller.
        key: Never used before.
        snap: That of the export.
        number: That of the object in it.

    Raises:
        QuotaSpentError: A quota of the day has no room for it.
        StoreError, NoSpaceError, CorruptDataError: It cannot be stored.
    """
    encryption = None
    if (secret := key_of(parts, FormKind.REMOTE)) is not None:
        blob = BlobId(int(snap))
        encryption = Encryption(secret, blob, Generation(number), parts.engine.state_id)
    codec = get_codec(parse_codec(CODEC))
    size_max = stored_bytes_max((await trio.to_thread.run_sync(os.stat, source)).st_size)
    with quotas.reserved(cost_of_upload(size_max, copied=True)):
        async with temporary_file(parts, "export", size_max) as (path, fd):
            packed = await trio.to_thread.run_sync(
                lambda: pack_file(source, fd, codec, FRAME_BYTES, encryption=encryption),
                limiter=parts.threads,
            )
            parts.faults.reach("export.packed")
            await remote.put_file(key, path)
        sealed = Sealed(
            key,
            snap,
            packed.size,
            packed.digest,
            packed.stored_bytes,
            CODEC,
            "" if secret is None else secret.id.hex(),
            "" if secret is not None else packed.table.fingerprint,
        )
        await verify_sealed(remote, parts.keys, parts.engine.state_id, sealed)
    parts.faults.reach("export.stored")
    return sealed


async def open_sealed(
    remote: RemoteStore, keys: KeyRing, state_id: StateId, sealed: Sealed
) -> bytes:
    """Return the content of an object of an export.

    Raises:
        CorruptDataError: It is damaged, or another one than was written.
        EncryptionKeyError: Its key is not configured.
        StoreError: It is missing, or the store does not answer.
    """
    if sealed.size > SIZE_MAX:
        raise CorruptDataError(f"{remote.url}/{sealed.key}: claims {sealed.size} bytes")
    reader = await open_content(remote, sealed, _unlock(keys, sealed, state_id))
    fd = os.memfd_create("memfs-export", os.MFD_CLOEXEC)
    try:
        await reader.unpack_to(fd)
        return await trio.to_thread.run_sync(read_fully, fd, sealed.size, 0)
    finally:
        os.close(fd)


async def verify_sealed(
    remote: RemoteStore, keys: KeyRing, state_id: StateId, sealed: Sealed
) -> None:
    """Read an object of an export and check it; raises as `open_sealed`."""
    reader = await open_content(remote, sealed, _unlock(keys, sealed, state_id))
    await reader.verify()


def _unlock(keys: KeyRing, sealed: Sealed, state_id: StateId) -> Unlock:
    return Unlock.of(keys, sealed.blob, sealed.coding, state_id)


async def read_done(remote: RemoteStore, state_id: StateId, snap: SnapshotId) -> Done:
    """Return what says that an export is complete."""
    key = done_key(state_id, snap)
    data = await remote.get_range(key, 0, DONE_BYTES_MAX)
    return Done.decode(data, f"{remote.url}/{key}")


async def read_description(remote: RemoteStore, parts: MoveParts, done: Done) -> Description:
    """Return the description of a complete export of this state."""
    data = await open_sealed(remote, parts.keys, parts.engine.state_id, done.contents)
    return Description.decode(data, f"{remote.url}/{done.contents.key}")
