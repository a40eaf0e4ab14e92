"""Short ways to make inodes, contents and forms."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from memfs.metadata.records import Blob, Form, Inode, MoveKind, NewInode, Seal
from memfs.types import NO_RAW, ROOT_INODE, FormCoding, FormKind, Place

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.types import InodeNo

NOW_NS = 5_000
DIGEST = bytes(range(32))

_MOVE_OF = {FormKind.PACKED: MoveKind.PACK, FormKind.REMOTE: MoveKind.UPLOAD}


def new_file(engine: Engine, now_ns: int = NOW_NS) -> NewInode:
    """Return a regular file with a raw file of its own."""
    ino, raw = engine.reserve_ids()
    return NewInode(ino, stat.S_IFREG | 0o644, 1000, 100, now_ns, raw=raw)


def new_directory(engine: Engine, now_ns: int = NOW_NS) -> NewInode:
    """Return an empty directory."""
    return NewInode(engine.reserve_ids()[0], stat.S_IFDIR | 0o755, 1000, 100, now_ns)


async def make_file(engine: Engine, name: bytes, parent: InodeNo = ROOT_INODE) -> Inode:
    """Create an unsealed file."""
    return await engine.create(parent, name, new_file(engine))


async def make_directory(engine: Engine, name: bytes, parent: InodeNo = ROOT_INODE) -> Inode:
    """Create a directory."""
    return await engine.create(parent, name, new_directory(engine))


async def make_sealed(
    engine: Engine, name: bytes, parent: InodeNo = ROOT_INODE, size: int = 10_000
) -> Inode:
    """Create a file and seal it."""
    return await seal(engine, await make_file(engine, name, parent), size)


async def seal(engine: Engine, inode: Inode, size: int = 10_000) -> Inode:
    """Seal an unsealed file with so many bytes."""
    blocks = -(-size // 512)
    now_ns = NOW_NS + 10
    await engine.seal([Seal(inode.ino, inode.generation, size, blocks, 1, now_ns, now_ns)])
    return await engine.get_inode(inode.ino)


async def publish(
    engine: Engine, inode: Inode, kind: FormKind, location: str | None = None
) -> bool:
    """Record an intent and publish a form of the inode's generation, of half its size."""
    location = location or f"{kind.value}/{inode.ino}-{inode.generation}"
    intent = await engine.begin_intent(_MOVE_OF[kind], inode.ino, inode.generation, location, 1)
    blob = Blob(inode.blob or engine.reserve_blob(), inode.size, DIGEST)
    form = Form(blob.blob, kind, Place(location), FormCoding("zstd:3"), inode.size // 2)
    return await engine.publish_form(inode.ino, inode.generation, blob, form, intent)


async def hydrate(engine: Engine, inode: Inode) -> bool:
    """Publish a fresh raw file of the inode's generation."""
    raw = engine.reserve_ids()[1]
    assert raw != NO_RAW
    intent = await engine.begin_intent(
        MoveKind.HYDRATE, inode.ino, inode.generation, str(raw), NOW_NS
    )
    blocks = -(-inode.size // 512)
    return await engine.publish_raw(inode.ino, inode.generation, raw, blocks, intent)


async def names_in(engine: Engine, parent: InodeNo = ROOT_INODE) -> list[bytes]:
    """Return the names in a directory in order of creation."""
    return [entry.name for entry in await engine.list_directory(parent, 0, 1000)]


async def garbage_in(engine: Engine) -> set[tuple[FormKind, str]]:
    """Return kind and location of all garbage."""
    return {(item.kind, item.location) for item in await engine.list_garbage(10_000)}
