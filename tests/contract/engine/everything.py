"""A state with rows in every table that nodes share."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from memfs.metadata.foreign import AdoptedFile, Conflict, ForeignDirectory, ForeignObject, WhenGone
from memfs.metadata.published import PublishedObject, PublishProblem
from memfs.metadata.records import BatchMember, Blob, Form, NewInode
from memfs.types import ROOT_INODE, FormCoding, FormKind, Generation, Place
from tests.contract.engine.making import (
    NOW_NS,
    make_directory,
    make_file,
    make_sealed,
    publish,
)
from tests.contract.engine.site import run

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.types import InodeNo

LONG = b"long/\xf0\x9f\x98\x80" * 1000
"""Longer than an index of PostgreSQL takes."""


def write_everything(engine: Engine) -> None:
    """Make some rows of each kind, with texts and keys that the two databases store differently."""
    inodes = [run(make_sealed(engine, b"f%d" % number)) for number in range(9)]
    for number, inode in enumerate(inodes):
        run(engine.set_xattr(inode.ino, b"user.n", b"%d" % number, 0, NOW_NS))
        if number % 2:
            run(publish(engine, inode, FormKind.REMOTE))
    for name in (b"stays", b"symlink"):
        ino, _ = engine.reserve_ids()
        new = NewInode(ino, stat.S_IFLNK | 0o777, 0, 0, NOW_NS, target=b"f1")
        run(engine.create(ROOT_INODE, name, new))
    run(make_file(engine, b"open"))
    # Their order is another one as PostgreSQL stores them.
    for number, key in enumerate(("blobs/\0", "blobs/\x0f", "blobs/\x10\U0001f600")):
        _write_batch(engine, key, number)
    _write_source(engine)
    run(engine.create_snapshot("s\u00e9", NOW_NS, "de\0scribed", [("a", "b\0")], 7))
    for inode in inodes[:4]:
        run(engine.set_xattr(inode.ino, b"user.n", b"other", 0, NOW_NS))
    run(engine.rename(ROOT_INODE, b"f1", ROOT_INODE, b"g1", 0, NOW_NS))
    run(engine.unlink(ROOT_INODE, b"symlink", NOW_NS))
    for name in (b"f2", b"f3"):
        gone = run(engine.unlink(ROOT_INODE, name, NOW_NS))
        run(engine.reap([gone.ino]))
    run(engine.reap([new.ino]))
    _write_published(engine, inodes[4].ino)
    lost = run(make_sealed(engine, b"lost"))
    run(publish(engine, lost, FormKind.REMOTE))
    gone = run(engine.unlink(ROOT_INODE, b"lost", NOW_NS))
    run(engine.reap([gone.ino]))
    engine.commit_nowait()


def _write_batch(engine: Engine, key: str, serial: int) -> None:
    names = [b"b%d-%d" % (serial, number) for number in range(3)]
    inodes = [run(make_sealed(engine, name, size=100)) for name in names]
    intent = run(engine.begin_batch(key, NOW_NS))
    members = []
    for number, inode in enumerate(inodes):
        blob = Blob(engine.reserve_blob(), 100, bytes(32))
        form = Form(blob.blob, FormKind.REMOTE, Place(key, 50 * number), FormCoding("none"), 50)
        members.append(BatchMember(inode.ino, inode.generation, blob, form))
    assert run(engine.publish_batch(intent, key, 150, members)) == [True] * 3


def _write_source(engine: Engine) -> None:
    directory = run(make_directory(engine, b"adopted"))
    url = "s3://other/with\0nul"
    source = run(engine.add_source(url, directory.ino, 60, WhenGone.KEEP, '{"a": "\\u0000"}'))
    files = []
    for key in (b"a", b"b", LONG):
        ino, _ = engine.reserve_ids()
        new = NewInode(ino, stat.S_IFREG | 0o644, 0, 0, NOW_NS, xattrs=((b"user.k", key),))
        found = ForeignObject(
            *(ino, Generation(1), source.source, key, "e\0", "", 10, 5, None, 6),
            ours=False,
            current=True,
            conflict=Conflict.NONE,
        )
        name = b"long" if key == LONG else key
        files.append(AdoptedFile(directory.ino, name, new, found))
    assert run(engine.adopt_files(files)) == [True] * 3
    for name in (b"b", b"long"):
        gone = run(engine.unlink(directory.ino, name, NOW_NS))
        run(engine.reap([gone.ino]))
    listed = run(make_directory(engine, b"listed", directory.ino))
    assert run(engine.add_directory(ForeignDirectory(listed.ino, source.source, LONG, 0)))


def _write_published(engine: Engine, ino: InodeNo) -> None:
    url = "file:///" + "\0\x10long/\U0001f600" * 1000
    published = PublishedObject(
        url, "file:///", ino, Generation(1), "e", "t\0", 3, 4, bytes(32), PublishProblem.TAKEN
    )
    run(engine.put_published(published))
    run(engine.put_published(published._replace(url="s3://short")))
    run(engine.put_setting("quarantine." + url, b"\0\xff"))
    run(engine.put_setting("generation", b"some mark"))
