"""Check finds each kind of planted damage, and nothing on a sound engine."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from memfs.types import NO_RAW, ROOT_INODE, FormKind
from tests.contract.engine.making import (
    NOW_NS,
    make_directory,
    make_file,
    make_sealed,
    new_file,
    publish,
)
from tests.contract.engine.site import SqliteSite, run

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.engine import Engine

DAMAGE = {
    "names inode 9999, which does not exist": (
        "insert into dentry values (1, 50000, x'61', 9999)",
    ),
    "which is no directory": ("update dentry set parent = {sealed} where name = x'6c6f6f7365'",),
    "has link count 7, but 1 names": ("update inode set nlink = 7 where ino = {sealed}",),
    "has link count 9, but 1 subdirectories": (
        "update inode set nlink = 9 where ino = {directory}",
    ),
    "still holds 2 names": ("update inode set nlink = 0 where ino = {directory}",),
    "has 2 names": ("insert into dentry values (1, 50001, x'62', {inner})",),
    "cannot be reached from the root": (
        "update dentry set parent = {inner} where ino = {directory}",
    ),
    "has the impossible flags 3": ("update inode set flags = 3 where ino = {sealed}",),
    "is unsealed without a raw file": ("update inode set raw = 0 where ino = {loose}",),
    "is unsealed but has blob": ("update inode set flags = 1 where ino = {sealed}",),
    "is no regular file but has raw file 60000": (
        "update inode set raw = 60000 where ino = {directory}",
    ),
    "has 10000 bytes but neither a raw file nor a form": (
        "update inode set raw = 0 where ino = {sealed}",
        "delete from form",
    ),
    "belongs to 2 inodes": ("update inode set raw = {sealed} where ino = {loose}",),
    "raw file {sealed} of inode {sealed} is marked as garbage": (
        "insert into garbage values (14, 'raw', '{sealed}')",
    ),
    "has blob 60000, which does not exist": ("update inode set blob = 60000 where ino = {sealed}",),
    "belongs to no inode": ("update inode set blob = 0 where ino = {sealed}",),
    "has no form": ("delete from form",),
    "packed form {location} has blob": ("delete from blob",),
    "packed form {location} is marked as garbage": (
        "insert into garbage values (14, 'packed', '{location}')",
    ),
    "batch b is kept with 2 forms of 9 bytes, but has 0 of 0": (
        "insert into batch values ('b', 20, 2, 9)",
    ),
    "1 remote forms lie in the batch b, which does not exist": (
        """insert into form values ({blob}, 'remote', '', 'b', 0, '', '', 1, 'container', 'lz4', 1,
            '', '', 1)""",
    ),
    "packed form {location} of blob {blob} cannot be owned so: 0": ("update form set owned = 0",),
    "packed form {location} of blob {blob} cannot be owned so: 1": (
        "update form set store = 'elsewhere'",
    ),
    "packed form {location} has the unknown layout 'odd'": ("update form set layout = 'odd'",),
    "batch b is marked as garbage": (
        "insert into batch values ('b', 20, 2, 9)",
        "insert into garbage values (14, 'remote', 'b')",
    ),
    "is marked packed 0, which its forms contradict": ("update inode set packed = 0",),
    "has no target": ("delete from symlink",),
    "which is no symlink": ("insert into symlink values ({sealed}, x'61')",),
    "xattr b'user.a' belongs to inode 9999": ("update xattr set ino = 9999",),
    "a pending move belongs to inode 9999": ("insert into pending values (9999, 1, '', 0, 0)",),
    "a decision belongs to inode 9999": ("insert into decision values (9999, '', '', 0, 0)",),
    "logical_bytes is kept as 10001, but counts 10000": (
        "update state set logical_bytes = logical_bytes + 1",
    ),
    "is beyond the numbers handed out": (
        "update dentry set cookie = 900000000 where name = x'6c6f6f7365'",
    ),
    "changes are kept for snapshot 0, but the newest one is": ("delete from head",),
    "inode {directory} is kept for snapshot 77, which": ("update inode_was set snap = 77",),
    "the name b'gone' of inode {gone} is kept for snapshot 77": (
        "update dentry_was set snap = 77",
    ),
    "xattr b'user.a' of inode {sealed} is kept for snapshot 77": (
        "update xattr_was set snap = 77",
    ),
    "symlink {gone} of a snapshot has no target": ("delete from symlink_was",),
    "target of symlink 4242 belongs to no snapshot": (
        "insert into symlink_was values (4242, x'61')",
    ),
    "no snapshot shows generation 9 of inode {sealed}, which is kept": (
        "insert into kept values ({sealed}, 9, 14, 0, 1, 8, 1, 0)",
    ),
    "generation 9 of inode {sealed} is kept without bytes": (
        "insert into kept values ({sealed}, 9, 0, 0, 1, 8, 1, 0)",
    ),
    "generation 9 of inode {sealed} is kept by blob 777, which does not exist": (
        "insert into kept values ({sealed}, 9, 0, 777, 1, 8, 1, 0)",
    ),
    "raw file 14 of a snapshot is marked as garbage": (
        "insert into kept values ({sealed}, 9, 14, 0, 1, 8, 1, 0)",
        "insert into garbage values (14, 'raw', '14')",
    ),
    "the name b'gone' of inode {gone}, as snapshot {snap} shows it, has no inode beside it": (
        "delete from inode_was where ino = {gone}",
    ),
    "xattr b'user.a' of inode {sealed}, as snapshot {snap} shows it, has no inode beside it": (
        "delete from inode_was where ino = {sealed}",
    ),
    "raw file {sealed} belongs to 2 inodes": (
        "insert into kept values ({sealed}, 1, {sealed}, 0, 1, 8, 1, 0)",
    ),
    "blob {blob} belongs to no inode": (
        # As if deletion of the snapshot had forgotten the blob of the kept row.
        "insert into kept values ({sealed}, 1, 0, {blob}, 1, 8, 1, 0)",
        "update inode set blob = 0, packed = 0",
        "delete from kept",
    ),
    "raw_count is kept as 3, but counts 4": (
        "insert into kept values ({sealed}, 1, 14, 0, 1, 8, 1, 0)",
    ),
    "root directory 1 is missing": ("delete from inode where ino = 1",),
}


async def plant(engine: Engine) -> dict[str, object]:
    """Make one of everything; return the numbers of what the damage is done to."""
    directory = await make_directory(engine, b"directory")
    inner = await make_directory(engine, b"inner", directory.ino)
    await make_file(engine, b"file", directory.ino)
    sealed = await make_sealed(engine, b"sealed")
    assert await publish(engine, sealed, FormKind.PACKED, "packed/1")
    loose = await make_file(engine, b"loose")
    link = new_file(engine)._replace(mode=0o120777, raw=NO_RAW, target=b"target")
    await engine.create(ROOT_INODE, b"link", link)
    await engine.set_xattr(sealed.ino, b"user.a", b"value", 0, NOW_NS)
    gone = await engine.create(directory.ino, b"gone", link._replace(ino=engine.reserve_ids()[0]))
    snap = (await engine.create_snapshot("snapshot", NOW_NS)).snap
    await engine.set_xattr(sealed.ino, b"user.a", b"newer", 0, NOW_NS)
    await engine.unlink(directory.ino, b"gone", NOW_NS)
    await engine.reap([gone.ino])
    return {
        "gone": gone.ino,
        "snap": snap,
        "directory": directory.ino,
        "inner": inner.ino,
        "sealed": sealed.ino,
        "loose": loose.ino,
        "location": "packed/1",
        "blob": (await engine.get_inode(sealed.ino)).blob,
    }


@pytest.mark.parametrize("sentence", DAMAGE)
def test_check_finds(tmp_path: Path, sentence: str) -> None:
    """Each sentence comes from its damage, and from nothing before."""
    site = SqliteSite(tmp_path)
    planted = run(plant(site.engine))
    run(site.engine.commit())
    assert site.engine.check() == []
    site.engine.close()
    connection = sqlite3.connect(site.state_dir / "metadata.db", isolation_level=None)
    for statement in DAMAGE[sentence]:
        connection.execute(statement.format(**planted))
    connection.close()
    # A defect wrote that, not a disk: the sums are those of what was written.
    (site.state_dir / "metadata.sums").unlink()
    engine = site.reopen()
    found = engine.check()
    engine.close()
    assert [line for line in found if sentence.format(**planted) in line], found


def test_check_finds_a_damaged_database_file(tmp_path: Path) -> None:
    """An index that has lost a row is found by SQLite itself."""
    site = SqliteSite(tmp_path)
    run(make_file(site.engine, b"file"))
    site.engine.close()
    connection = sqlite3.connect(site.state_dir / "metadata.db", isolation_level=None)
    connection.execute("pragma writable_schema = on")
    # The rows that the index holds are no longer those that its condition asks for.
    connection.execute(
        "update sqlite_schema set sql = 'create index inode_orphan on inode (ino) where nlink = 1'"
        " where name = 'inode_orphan'"
    )
    connection.close()
    (site.state_dir / "metadata.sums").unlink()
    engine = site.reopen()
    found = engine.check()
    engine.close()
    assert [line for line in found if line.startswith("the database file is damaged")]
