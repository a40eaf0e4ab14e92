"""`memfs node check`: each kind of damage is told, and nothing of sound tables."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from memfs.exit_codes import ExitCode
from memfs.metadata.shared import invariants
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.invariants import KINDS, SENTENCE_COUNT_MAX, find_damage
from memfs_tools.main import run as run_command
from tests.contract.engine.everything import write_everything
from tests.contract.engine.postgres_site import MountDatabase, PostgresSite
from tests.contract.engine.scene import Scene, send
from tests.contract.engine.tables import assert_same, shared_tables
from tests.contract.test_engine_machine import QUICK, EngineMachine
from tests.contract.test_engine_snapshot_machine import SnapshotMachine
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgresql import Database

_BIG = 1 << 46

DAMAGES: dict[str, str] = {
    "no root": "update inode set mode = 33188 where ino = 1",
    "name without an inode": "insert into dentry values (1, 9001, 'x', 9999)",
    "name without a directory": "update dentry set parent = 9999 where name = 'f0'",
    "links of a file": "update inode set nlink = 3 where ino = {f0}",
    "links of a directory": "update inode set nlink = 7 where ino = 1",
    "removed directory with names": "update inode set nlink = 0 where ino = {adopted}",
    "names of a directory": "insert into dentry values (1, 9001, 'x', {adopted})",
    "loop": "update dentry set parent = {listed} where name = 'adopted'",
    "impossible number": f"update dentry set cookie = {_BIG} where name = 'f0'",
    "flags": "update inode set flags = 2 where ino = {f0}",
    "unsealed with a blob": "update inode set flags = 1 where ino = {f5}",
    "blob of no file": "update inode set blob = {blob} where ino = {adopted}",
    "symlink without a target": "delete from symlink",
    "target without a symlink": "insert into symlink values ({f0}, 'x')",
    "xattr without an inode": "update xattr set ino = 9999 where ino = {f0}",
    "missing blob": "delete from blob where blob = {blob}",
    "blob without an inode": "insert into blob values (9999, 1, '')",
    "form without a blob": "delete from blob where blob = {blob}",
    "form in the garbage": "insert into garbage select 9999, key from form where blob = {blob}",
    "ownership of a form": "update form set etag = 'e' where blob = {blob}",
    "layout of a form": "update form set layout = 'x' where blob = {blob}",
    "counts of a batch": "update batch set live_count = 7",
    "missing batch": "delete from batch",
    "batch in the garbage": "insert into garbage select 9999, min(key) from batch",
    "newest snapshot": "delete from head",
    "past inode without a snapshot": "update inode_was set snap = snap + 1",
    "past name without a snapshot": "update dentry_was set snap = snap + 1",
    "past xattr without a snapshot": "update xattr_was set snap = snap + 1",
    "past name without an inode": "delete from inode_was",
    "past xattr without an inode": "delete from inode_was",
    "kept for no snapshot": "insert into kept values (9999, 1, 0, 1, 1, 0)",
    "kept without its blob": "insert into kept values ({f0}, 1, 9999, 1, 1, 0)",
    "past symlink without a target": "delete from symlink_was",
    "past target without a symlink": "insert into symlink_was values (9999, 'x')",
    "size of a foreign object": "update foreign_object set size = 11",
    "foreign object without an inode": "update foreign_object set ino = 9999 where key = 'a'",
    "foreign object without a name": "update inode set nlink = 0 where ino in"
    " (select ino from foreign_object where current = 1)",
    "foreign object without a source": "delete from source",
    "state of a foreign object": "update foreign_object set conflict = 'x'",
    "prefix without a directory": "update foreign_directory set ino = {f0}",
    "prefix without a source": "delete from source",
    "gone key without a source": "insert into foreign_gone values (9999, 'k')",
    "no writer": "update node set role = 'reader', state = 'left'",
    "reader ahead": "update node set applied = 9999 where role = 'reader'",
    "change of no writer": "insert into change values (9, 1, now(), '')",
    "change ahead": "insert into change values (1, 9998, now(), '')",
    "gap in the changes": "insert into change values (1, 9997, now(), ''), (1, 9999, now(), '')",
    "missing change": "update node set applied = 0 where role = 'reader'; delete from change",
}
"""What brings each kind about, with numbers of what there is."""


@pytest.fixture
def scene(tmp_path: Path, postgres: Database) -> Iterator[Scene]:
    made = Scene(tmp_path, MountDatabase(postgres))
    write_everything(made.writer)
    made.read("r").close()
    send(made.writer)
    yield made
    made.writer.close()
    made.mount.client.close()


def numbers(scene: Scene) -> dict[str, int]:
    """Return the numbers that damages name."""
    ask = scene.mount.client.query
    names = {bytes(name).decode(): ino for name, ino in ask("select name, ino from dentry")}
    ((blob,),) = ask(f"select blob from inode where ino = {names['f5']}")
    return {"blob": blob, **{name: names[name] for name in ("f0", "f5", "adopted", "listed")}}


def test_each_kind_has_a_damage() -> None:
    assert [kind.name for kind in KINDS] == [*DAMAGES]


def test_each_damage_is_told(scene: Scene) -> None:
    """By a sentence of its kind, from the tables as they are then; nothing is changed by it."""
    client, known = scene.mount.client, numbers(scene)
    assert find_damage(client) == []
    for kind, text in DAMAGES.items():
        client.query("begin")
        for statement in text.format(**known).split(";"):
            client.query(statement)
        query = next(each for each in KINDS if each.name == kind)
        rows = client.query(query.query)
        assert rows, kind
        assert all(query.sentence.format(*row) for row in rows)
        client.query("rollback")
    assert find_damage(client) == []


def test_the_first_sentences_of_a_kind_are_told(
    scene: Scene, postgres: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    client = scene.mount.client
    client.query("insert into blob select 9000 + at, 1, '' from generate_series(1, 30) as at")
    before = shared_tables(client)
    assert run_command(["node", "check", postgres.url]) == ExitCode.PROBLEMS
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "blob 9001 belongs to no inode"
    assert len(lines) == SENTENCE_COUNT_MAX + 2
    assert lines[-2] == "and more of this kind: blob without an inode"
    assert lines[-1].endswith(": 1 kind of damage")
    assert run_command(["node", "check", "--json", postgres.url]) == ExitCode.PROBLEMS
    told = json.loads(capfd.readouterr().out)
    [damage] = told["damage"]
    assert (told["clean"], damage["kind"], damage["has_more"]) == (
        False,
        "blob without an inode",
        True,
    )
    assert_same(before, shared_tables(client))
    client.query("delete from blob where blob > 9000")
    assert run_command(["node", "check", postgres.url]) == 0
    assert capfd.readouterr().out.endswith(": clean\n")


@pytest.mark.parametrize("machine", [EngineMachine, SnapshotMachine])
@pytest.mark.usefixtures("postgres_mount")
def test_histories_leave_no_damage(machine: type[EngineMachine]) -> None:
    """Names, contents, forms, batches, xattrs, settings, snapshots."""

    class Site(PostgresSite):
        def compare(self) -> None:
            super().compare()
            with contextlib.closing(Client.connect(self.mount.address, WAIT_S)) as client:
                assert invariants.find_damage(client) == []

    class Machine(machine):  # type: ignore[misc, valid-type]  # a base that is chosen
        site_class: ClassVar = Site

    run_state_machine_as_test(Machine, settings=settings(QUICK, max_examples=10))
