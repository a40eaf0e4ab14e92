"""States of versions that left undo rows to triggers are read, and go on without them.

What `tests.states` has was written by the last such version, and killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.schema import Made
from memfs.metadata.sqlite.undo_triggers import UNDO_TRIGGERS
from memfs.types import ROOT_INODE
from tests.contract.engine.making import Tree, live_tree, tree_at
from tests.contract.engine.site import CONFIG, SMALL, run
from tests.states import unpack

if TYPE_CHECKING:
    from pathlib import Path


def in_json(tree: Tree) -> dict[str, Any]:
    """Return a tree as `expected.json` has it."""
    return {
        path.hex(): [
            list(seen.inode),
            [[name.hex(), value.hex()] for name, value in seen.xattrs],
            seen.target.hex(),
        ]
        for path, seen in tree.items()
    }


def undo_rows(engine: SqliteEngine) -> dict[str, list[list[Any]]]:
    tables = ("inode_was", "dentry_was", "xattr_was", "symlink_was")
    return {
        table: [
            [value.hex() if isinstance(value, bytes) else value for value in row]
            for row in sorted(engine._rows(f"select * from {table}"))
        ]
        for table in tables
    }


@pytest.mark.parametrize("name", ["triggers-journal", "triggers-tables"])
def test_what_the_journal_has_is_redone_with_the_triggers_of_then(
    tmp_path: Path, name: str
) -> None:
    state_dir, expected = unpack(tmp_path, name)
    for _opening in range(2):
        engine = SqliteEngine.open(state_dir, CONFIG, limits=SMALL)
        assert engine.check() == []
        assert undo_rows(engine) == {
            table: sorted(rows) for table, rows in expected["undo"].items()
        }
        trees = {
            each.name: in_json(run(tree_at(engine, each.snap)))
            for each in run(engine.list_snapshots())
        }
        assert trees == expected["trees"]
        assert in_json(run(live_tree(engine))) == expected["now"]
        left = engine._rows("select name from sqlite_schema where type = 'trigger'")
        assert not {Made.by(text).name for text in UNDO_TRIGGERS} & {name for (name,) in left}
        engine.close()


@pytest.mark.parametrize("name", ["triggers-journal", "triggers-tables"])
def test_what_changes_from_then_on_is_kept_for_the_same_snapshots(
    tmp_path: Path, name: str
) -> None:
    state_dir, expected = unpack(tmp_path, name)
    engine = SqliteEngine.open(state_dir, CONFIG, limits=SMALL)
    for entry in run(engine.list_directory(ROOT_INODE, 0, 100)):
        for file in run(engine.list_directory(entry.inode.ino, 0, 100)):
            run(engine.set_xattr(file.inode.ino, b"user.a", b"newer", 0, 1))
            run(engine.unlink(entry.inode.ino, file.name, 1))
            run(engine.reap([file.inode.ino]))
    while run(engine.delete_snapshot_step(1)):
        engine.commit_nowait()
    for each in run(engine.list_snapshots()):
        assert in_json(run(tree_at(engine, each.snap))) == expected["trees"][each.name]
    assert engine.check() == []
    engine.close()
