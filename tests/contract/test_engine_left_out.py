"""Bytes that a user leaves out of snapshots, as marks and directories come, change and go."""

from __future__ import annotations

import random
import stat
from typing import TYPE_CHECKING

from memfs.errors import MemfsError
from memfs.metadata.records import AttributeChanges, NewInode
from memfs.policy.marks import SNAPSHOT_XATTR
from memfs.types import ROOT_INODE, Generation, InodeNo
from tests.contract.engine.making import NOW_NS, make_directory, make_sealed

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.types import SnapshotId

ROOT_USER, SOMEBODY = 0, 1001
"""The second is another one than that of the files."""
STEP_COUNT = 1000


async def make_owned(engine: Engine, name: bytes, parent: InodeNo, user: int) -> InodeNo:
    new = NewInode(engine.reserve_ids()[0], stat.S_IFDIR | 0o755, user, 100, NOW_NS)
    return (await engine.create(parent, name, new)).ino


async def test_what_is_left_out_is_as_it_was_at_each_instant(engine: Engine) -> None:
    """After random changes of marks, places and owners, with snapshots that come and go among them.

    A file is left out if its path said so at all instants that show it.
    """
    rng = random.Random(1)
    directories = [await make_owned(engine, b"top", ROOT_INODE, ROOT_USER)]
    for number in range(5):
        above = rng.choice(directories)
        user = rng.choice([ROOT_USER, SOMEBODY])
        directories.append(await make_owned(engine, b"%d" % number, above, user))
    files = [await make_sealed(engine, b"file", each) for each in directories]
    instants: dict[SnapshotId, list[bool]] = {}
    seen = set()
    for step in range(STEP_COUNT):
        ino = rng.choice(directories)
        change = rng.choice(["mark", "unmark", "own", "move", "exchange", "keep", "let go"])
        dentry = await engine.get_dentry(ino)
        assert dentry is not None
        try:
            if change == "mark":
                mark = rng.choice([b"off", b"on"])
                await engine.set_xattr(ino, SNAPSHOT_XATTR, mark, 0, NOW_NS + step)
            elif change == "unmark":
                await engine.remove_xattr(ino, SNAPSHOT_XATTR, NOW_NS + step)
            elif change == "own":
                user = rng.choice([ROOT_USER, SOMEBODY])
                await engine.set_attributes(ino, AttributeChanges(uid=user))
            elif change == "move":
                target, name = rng.choice(directories), b"at %d" % step
                await engine.rename(*dentry, target, name, 0, NOW_NS + step)
            elif change == "exchange":
                inos = directories + [file.ino for file in files]
                other = await engine.get_dentry(rng.choice(inos))
                dentry, other = rng.sample([dentry, other], 2)
                assert dentry is not None
                assert other is not None
                await engine.rename(*dentry, *other, 2, NOW_NS + step)
            elif change == "keep" and len(instants) < 3:
                marks = [await engine.effective_xattr(file.ino, SNAPSHOT_XATTR) for file in files]
                made = await engine.create_snapshot(str(step), NOW_NS)
                instants[made.snap] = [each != b"off" for each in marks]
            elif change == "let go" and instants:
                gone = rng.choice([*instants])
                del instants[gone]
                await engine.delete_snapshot(gone)
                while await engine.delete_snapshot_step(100):
                    pass
        except MemfsError:
            # A directory below itself, say.
            continue
        for at, file in enumerate(files):
            wanted = {kept[at] for kept in instants.values()}
            assert await engine.needs_copy(file.ino) == (True in wanted), (step, change)
            seen.add(frozenset(wanted))
    assert len(seen) == 4


async def test_a_mark_holds_for_what_is_removed_with_its_directory(engine: Engine) -> None:
    """Its bytes go, and those of a file beside it stay."""
    top = await make_owned(engine, b"top", ROOT_INODE, ROOT_USER)
    marked = await make_owned(engine, b"marked", top, ROOT_USER)
    await engine.set_xattr(marked, SNAPSHOT_XATTR, b"off", 0, NOW_NS)
    inside = await make_directory(engine, b"inside", marked)
    files = [
        (marked, await make_sealed(engine, b"left out", marked)),
        (inside.ino, await make_sealed(engine, b"left out too", inside.ino)),
        (top, await make_sealed(engine, b"kept", top)),
    ]
    await engine.create_snapshot("first", NOW_NS)
    for (parent, _), name in zip(files, (b"left out", b"left out too", b"kept"), strict=True):
        await engine.unlink(parent, name, NOW_NS)
    await engine.rmdir(marked, b"inside", NOW_NS)
    await engine.rmdir(top, b"marked", NOW_NS)
    await engine.reap([file.ino for _, file in files] + [inside.ino, marked])
    kept = await engine.list_kept((InodeNo(0), Generation(0)), 10)
    assert [each.ino for each in kept] == [files[2][1].ino]


async def test_a_removed_directory_counts_where_the_snapshot_has_it(engine: Engine) -> None:
    """It was moved out of a marked one, before it went."""
    top = await make_owned(engine, b"top", ROOT_INODE, ROOT_USER)
    await engine.set_xattr(top, SNAPSHOT_XATTR, b"off", 0, NOW_NS)
    moved = await make_owned(engine, b"moved", top, ROOT_USER)
    file = await make_sealed(engine, b"file", moved)
    await engine.create_snapshot("first", NOW_NS)
    await engine.rename(top, b"moved", ROOT_INODE, b"moved", 0, NOW_NS)
    assert not await engine.needs_copy(file.ino)
    await engine.unlink(moved, b"file", NOW_NS)
    await engine.rmdir(ROOT_INODE, b"moved", NOW_NS)
    await engine.reap([file.ino])
    assert await engine.list_kept((InodeNo(0), Generation(0)), 10) == []


async def test_a_snapshot_that_is_taken_back_leaves_no_answer_behind(engine: Engine) -> None:
    """What was looked up amid the change is forgotten with it, and its number is used again."""
    top = await make_owned(engine, b"top", ROOT_INODE, ROOT_USER)
    file = await make_sealed(engine, b"file", top)
    await engine.commit()
    try:
        async with engine.change():
            await engine.set_xattr(top, SNAPSHOT_XATTR, b"off", 0, NOW_NS)
            await engine.create_snapshot("first", NOW_NS)
            assert not await engine.needs_copy(file.ino)
            raise KeyError
    except KeyError:
        pass
    await engine.create_snapshot("first", NOW_NS)
    assert await engine.needs_copy(file.ino)


async def test_a_mark_of_a_file_itself_holds_when_it_is_removed(engine: Engine) -> None:
    """Its xattrs go with it, and count all the same."""
    for name in (b"off", b"on"):
        file = await make_sealed(engine, name)
        await engine.set_xattr(file.ino, SNAPSHOT_XATTR, name, 0, NOW_NS)
    await engine.create_snapshot("first", NOW_NS)
    removed = [await engine.unlink(ROOT_INODE, name, NOW_NS) for name in (b"off", b"on")]
    await engine.reap([each.ino for each in removed])
    kept = await engine.list_kept((InodeNo(0), Generation(0)), 10)
    assert [each.ino for each in kept] == [removed[1].ino]
