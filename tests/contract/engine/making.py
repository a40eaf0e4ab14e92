"""Short ways to make inodes, contents and forms."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.records import Blob, Form, Inode, MoveKind, NewInode, Seal
from memfs.types import NO_BLOB, NO_RAW, ROOT_INODE, FormCoding, FormKind, Layout, Place

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.types import InodeNo, SnapshotId

NOW_NS = 5_000
DIGEST = bytes(range(32))

_MOVE_OF = {FormKind.PACKED: MoveKind.PACK, FormKind.REMOTE: MoveKind.UPLOAD}


class Seen(NamedTuple):
    """What is at one path."""

    inode: Inode
    """Without what a snapshot does not keep."""
    xattrs: tuple[tuple[bytes, bytes], ...]
    target: bytes


Tree = dict[bytes, Seen]
"""By path; the root is at the empty one."""


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


async def adopt(engine: Engine, inode: Inode, key: str) -> bool:
    """Publish a plain form of the inode's generation that memfs does not own."""
    blob = Blob(inode.blob or engine.reserve_blob(), inode.size, DIGEST)
    form = Form(
        blob.blob,
        FormKind.REMOTE,
        Place(key, etag="e"),
        FormCoding("none"),
        inode.size,
        Layout.PLAIN,
        owned=False,
    )
    return await engine.publish_form(inode.ino, inode.generation, blob, form, None)


async def hydrate(engine: Engine, inode: Inode) -> bool:
    """Publish a fresh raw file of the inode's generation."""
    raw = engine.reserve_ids()[1]
    assert raw != NO_RAW
    intent = await engine.begin_intent(
        MoveKind.HYDRATE, inode.ino, inode.generation, str(raw), NOW_NS
    )
    blocks = -(-inode.size // 512)
    after = await engine.publish_raw(inode.ino, inode.generation, raw, blocks, intent)
    return after is not None


async def names_in(engine: Engine, parent: InodeNo = ROOT_INODE) -> list[bytes]:
    """Return the names in a directory in order of creation."""
    return [entry.name for entry in await engine.list_directory(parent, 0, 1000)]


async def live_tree(engine: Engine) -> Tree:
    """Return all that can be reached, as the methods of the present show it."""
    tree: Tree = {}
    rest = [(b"", await engine.get_inode(ROOT_INODE))]
    while rest:
        path, inode = rest.pop()
        xattrs = [
            (name, await engine.get_xattr(inode.ino, name))
            for name in await engine.list_xattrs(inode.ino)
        ]
        link = stat.S_ISLNK(inode.mode)
        target = await engine.read_link(inode.ino) if link else b""
        tree[path] = Seen(_kept(inode), tuple(xattrs), target)
        if stat.S_ISDIR(inode.mode):
            for entry in await engine.list_directory(inode.ino, 0, 1000):
                assert await engine.lookup(inode.ino, entry.name) == entry.inode
                rest.append((path + b"/" + entry.name, entry.inode))
    return tree


async def tree_at(engine: Engine, snap: SnapshotId) -> Tree:
    """Return all that could be reached at an instant; listings in pages of three."""
    tree: Tree = {}
    rest = [(b"", await engine.inode_at(snap, ROOT_INODE))]
    while rest:
        path, inode = rest.pop()
        xattrs = await engine.list_xattrs_at(snap, inode.ino)
        link = stat.S_ISLNK(inode.mode)
        target = await engine.read_link_at(snap, inode.ino) if link else b""
        tree[path] = Seen(_kept(inode), tuple(xattrs), target)
        if stat.S_ISDIR(inode.mode):
            cookie = 0
            while entries := await engine.list_directory_at(snap, inode.ino, cookie, 3):
                cookie = entries[-1].cookie
                for entry in entries:
                    assert path + b"/" + entry.name not in tree
                    assert await engine.lookup_at(snap, inode.ino, entry.name) == entry.inode
                    assert await engine.inode_at(snap, entry.inode.ino) == entry.inode
                    assert (path + b"/" + entry.name) in await engine.list_paths_at(
                        snap, entry.inode.ino
                    )
                    if stat.S_ISDIR(entry.inode.mode):
                        assert await engine.get_parent_at(snap, entry.inode.ino) == inode.ino
                    rest.append((path + b"/" + entry.name, entry.inode))
    return tree


def _kept(inode: Inode) -> Inode:
    """Return an inode with what a snapshot has of it."""
    return inode._replace(
        atime_ns=0,
        raw=NO_RAW,
        blob=NO_BLOB,
        flags=0,
        pin=0,
        codec=None,
        accessed_ns=0,
        blocks=0,
    )


async def garbage_in(engine: Engine) -> set[tuple[FormKind, str]]:
    """Return kind and location of all garbage."""
    return {(item.kind, item.location) for item in await engine.list_garbage(10_000)}
