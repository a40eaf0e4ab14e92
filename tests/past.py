"""Files as of a snapshot, and clones, on a state directory of `tests.moving`.

Invariant: bytes of the past are read as a mount reads them, with the keys that moves have now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.content.forms import FormReader
from memfs.content.past import PastReader
from memfs.metadata.records import AttributeChanges, NewInode
from memfs.types import ROOT_INODE, Generation

if TYPE_CHECKING:
    from memfs.types import InodeNo, SnapshotId
    from tests.moving import State

READ_BYTES_MAX = 1 << 20


async def clone(state: State, ino: InodeNo, name: str) -> InodeNo:
    """Make a second file that shares the blob of the first."""
    engine = state.engine
    source = await engine.get_inode(ino)
    async with engine.change():
        number, _ = engine.reserve_ids()
        await engine.create_orphan(NewInode(number, source.mode, 0, 0, 1))
        changes = AttributeChanges(size=source.size, mtime_ns=source.mtime_ns)
        await engine.set_attributes(number, changes)
        assert await engine.share_blob(number, Generation(1), source.blob)
        await engine.link(number, ROOT_INODE, name.encode(), 1)
    return number


async def past(state: State, snap: SnapshotId, ino: InodeNo) -> bytes:
    """Return the bytes of a small file as of a snapshot."""
    stores = (state.engine, state.packed_store, state.remote, state.raw_store)
    forms = FormReader(*stores, keys=state.parts.keys)
    reader = PastReader(state.engine, state.raw_store, state.sealer, forms)
    return await reader.read(snap, ino, 0, READ_BYTES_MAX)
