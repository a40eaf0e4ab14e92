"""A state directory of an older format is migrated when it is opened, and nothing is lost.

What `tests.states` has was written by a version of memfs with format 2, and killed.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, Any

import blake3
import pytest
import trio

from memfs.config import MetadataConfig
from memfs.errors import StateDamagedError, UsageError
from memfs.fsck.repair import repair
from memfs.metadata.quarantine import why_quarantined
from memfs.metadata.sqlite import format2
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import FOREIGN_NUMBER, FORMAT_NUMBER
from memfs.metadata.sqlite.journal import Journal
from memfs.metadata.sqlite.migration import Migration
from memfs.metadata.sqlite.statements import UNDERSTOOD
from memfs.query.fields import is_queryable
from memfs.query.filters import Condition, Operator
from memfs.query.values import stored_value
from memfs.stores.lost_found import LostFound
from memfs.stores.packed import PackedStore
from memfs.stores.raw import RawStore
from memfs.types import ROOT_INODE, FormKind, InodeNo, Layout, PendingCode, Place
from tests.contract.engine.making import live_tree, names_in, tree_at
from tests.contract.engine.site import run, write_first_layout
from tests.crash.moves_scenario import KEYS
from tests.moving import State
from tests.states import unpack

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Form, Inode

CONFIG = MetadataConfig()


def content_of_all(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def tables_in(state_dir: Path) -> dict[str, str]:
    """Return what is in the database, and how it was made."""
    with sqlite3.connect(state_dir / "metadata.db") as connection:
        made = dict(connection.execute("select name, sql from sqlite_schema where sql is not null"))
    connection.close()
    comment = re.compile(r"--.*")
    return {name: " ".join(comment.sub("", text).split()) for name, text in made.items()}


def describe_form(form: Form) -> dict[str, Any]:
    assert form.owned
    assert form.layout == Layout.CONTAINER
    assert form.place == Place(form.place.key, form.place.offset)
    return {
        "kind": form.kind.value,
        "key": form.place.key,
        "offset": form.place.offset,
        "stored_bytes": form.stored_bytes,
        **form.coding._asdict(),
    }


async def describe(state: State, inode: Inode) -> dict[str, Any]:
    """Return all that is known of an inode, as `expected.json` has it."""
    engine, ino = state.engine, inode.ino
    found: dict[str, Any] = inode._asdict()
    names = await engine.list_xattrs(ino)
    found["xattrs"] = {name.hex(): (await engine.get_xattr(ino, name)).hex() for name in names}
    if stat.S_ISLNK(inode.mode):
        found["target"] = (await engine.read_link(ino)).hex()
    pending = await engine.get_pending(ino)
    # Format 2 knew not since when, nor in a word what for.
    assert pending is None or pending[5:] == (0, PendingCode.OTHER, 0)
    found["pending"] = None if pending is None else pending[:5]
    found["decision"] = await engine.get_decision(ino)
    found["effective_pin"] = await engine.effective_pin(ino)
    found["effective_codec"] = await engine.effective_codec(ino)
    found["forms"] = []
    if inode.blob:
        found["content_blake3"] = (await engine.get_blob(inode.blob)).digest.hex()
        found["forms"] = [describe_form(form) for form in await engine.list_forms(inode.blob)]
    if stat.S_ISREG(inode.mode):
        found["raw_hex_blake3"] = None
        if inode.raw:
            content = state.raw_store.path(inode.raw).read_bytes()
            found["raw_hex_blake3"] = blake3.blake3(content).hexdigest()
    return found


async def describe_all(state: State) -> dict[str, Any]:
    """Return all inodes that have a name, by path."""
    root = await state.engine.get_inode(ROOT_INODE)
    found = {"": await describe(state, root)}
    todo: list[tuple[InodeNo, bytes]] = [(ROOT_INODE, b"")]
    while todo:
        parent, path = todo.pop()
        for entry in await state.engine.list_directory(parent, 0, 10_000):
            name = path + b"/" + entry.name
            found[name.hex()] = await describe(state, entry.inode)
            if stat.S_ISDIR(entry.inode.mode):
                todo.append((entry.inode.ino, name))
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # tuples become lists


async def check_state(state_dir: Path, expected: dict[str, Any]) -> None:
    """See that a migrated state has all that it had, each byte and each xattr."""
    state = State(state_dir, keys=KEYS)
    engine = state.engine
    try:
        assert engine.check() == []
        assert expected["files"] == await describe_all(state)
        assert expected["usage"] == (await engine.usage())._asdict()
        assert expected["usage"] == (await engine.recount())._asdict()
        intents = [
            [each.kind.value, each.ino, each.generation, each.location]
            for each in await engine.list_intents()
        ]
        assert expected["intents"] == intents
        garbage = await engine.list_garbage(1000)
        assert expected["garbage"] == [[each.kind.value, each.location] for each in garbage]
        assert expected["orphans"] == await engine.list_orphans(10)
        batches = await engine.list_sparse_batches(10**6, 100)
        assert expected["batches"] == [list(batch) for batch in batches]
        for name, value in expected["settings"].items():
            assert await engine.get_setting(name) == bytes.fromhex(value), name
        await check_queries(state, expected)
        await check_contents(state, expected)
        await check_snapshots(engine)
    finally:
        state.close()


async def check_queries(state: State, expected: dict[str, Any]) -> None:
    """See that the index gets the xattrs that the older format did not index."""
    while not (await state.engine.index_attributes(2)).is_whole:
        pass
    asked = 0
    for file in expected["files"].values():
        for name, value in file["xattrs"].items():
            field, content = bytes.fromhex(name), stored_value(bytes.fromhex(value))
            if is_queryable(field) and content is not None:
                node = Condition(field.decode(), Operator.IN, (content,))
                page = await state.engine.find_files(node, None, None, 100, None)
                assert page is not None
                assert file["ino"] in page.inos
                asked += 1
    assert asked > 0


async def check_snapshots(engine: Engine) -> None:
    """See that undo rows are written of what came from the older format."""
    tree = await live_tree(engine)
    snap = (await engine.create_snapshot("migrated", 1)).snap
    for entry in await engine.list_directory(ROOT_INODE, 0, 10):
        await engine.set_xattr(entry.inode.ino, b"user.newer", b"", 0, 1)
        await engine.rename(ROOT_INODE, entry.name, ROOT_INODE, b"newer-" + entry.name, 0, 1)
    assert tree == await tree_at(engine, snap)
    assert engine.check() == []


async def check_contents(state: State, expected: dict[str, Any]) -> None:
    """Do what a mount does after a crash, then read each file, and have fsck look at all of it."""
    await state.recovery.begin()
    while not state.recovery.done:
        await state.recovery.look_at_slice()
    while await state.garbage.collect(1000):
        pass
    for ino in await state.engine.list_unsealed(InodeNo(0), 100):
        await state.seal(ino.ino)
    await state.engine.reap(await state.engine.list_orphans(10))
    state.engine.commit_nowait()
    while await state.garbage.collect(1000):
        pass
    report = await state.check_files(keys=KEYS)
    assert list(report.problems) == []
    for path, row in expected["files"].items():
        if stat.S_ISREG(row["mode"]):
            content = await state.content(InodeNo(row["ino"]))
            digest = row.get("content_blake3") or row["raw_hex_blake3"]
            assert digest == blake3.blake3(content).hexdigest(), bytes.fromhex(path)


async def test_everything_of_a_state_of_format_2_is_there_afterwards(tmp_path: Path) -> None:
    state_dir, expected = unpack(tmp_path)
    told: list[str] = []
    SqliteEngine.open(state_dir, CONFIG, migration=Migration(told.append)).close()
    assert [line for line in told if not line.startswith("migration from format 2 to 3: ")] == []
    assert "begun" in told[0]
    assert "done in" in told[-1]
    await check_state(state_dir, expected)


async def test_a_quarantine_outlives_the_migration(tmp_path: Path) -> None:
    state_dir, expected = unpack(tmp_path)
    state = State(state_dir, keys=KEYS, migration=Migration())
    path = b"/data/in quarantine".hex()
    form = await state.form(InodeNo(expected["files"][path]["ino"]), FormKind.REMOTE)
    assert await why_quarantined(state.engine, form) == "holds another content"
    state.close()


def test_the_tables_are_those_of_a_new_state(tmp_path: Path) -> None:
    """Whatever a later change adds to the schema, it adds to the migration."""
    state_dir, _ = unpack(tmp_path)
    SqliteEngine.open(state_dir, CONFIG, migration=Migration()).close()
    SqliteEngine.open(tmp_path / "new", CONFIG).close()
    assert tables_in(tmp_path / "new") == tables_in(state_dir)


def test_the_frozen_tables_are_those_of_the_saved_state(tmp_path: Path) -> None:
    state_dir, _ = unpack(tmp_path)
    found = tables_in(state_dir)
    connection = sqlite3.connect(tmp_path / "frozen.db")
    for text in format2.SCHEMA + format2.ADDITIONS:
        connection.execute(text)
    query = "select name, sql from sqlite_schema where sql is not null"
    frozen = {name: " ".join(text.split()) for name, text in connection.execute(query)}
    connection.close()
    assert frozen == found


def test_an_older_memfs_refuses_what_was_migrated(tmp_path: Path) -> None:
    """By the format file; and by the journals, should somebody put an older one back."""
    state_dir, _ = unpack(tmp_path)
    assert json.loads((state_dir / "format").read_text())["format"] == 2
    SqliteEngine.open(state_dir, CONFIG, migration=Migration()).close()
    assert json.loads((state_dir / "format").read_text())["format"] == FORMAT_NUMBER
    for name in ("journal.0", "journal.1"):
        journal = Journal(state_dir / name, create=False)
        assert UNDERSTOOD[journal.fingerprint].format == FORMAT_NUMBER
        journal.close()


def test_without_a_migration_it_is_refused_and_not_touched(tmp_path: Path) -> None:
    """By fsck, say: it says what migrates it."""
    state_dir, _ = unpack(tmp_path)
    before = content_of_all(state_dir)
    with pytest.raises(UsageError, match=r"format 2.*mount it, which migrates it"):
        SqliteEngine.open(state_dir, CONFIG)
    assert before == content_of_all(state_dir)


def test_tables_of_a_newer_format_are_refused(tmp_path: Path) -> None:
    SqliteEngine.open(tmp_path, CONFIG).close()
    (tmp_path / "metadata.sums").unlink()
    with sqlite3.connect(tmp_path / "metadata.db") as connection:
        connection.execute(f"pragma user_version = {FOREIGN_NUMBER + 1}")
    connection.close()
    with pytest.raises(UsageError, match=f"tables of format {FOREIGN_NUMBER + 1}"):
        SqliteEngine.open(tmp_path, CONFIG)


async def test_power_may_take_the_tables_after_the_format_file_was_written(tmp_path: Path) -> None:
    """The log of the database is lost, the format file is not."""
    state_dir, expected = unpack(tmp_path)
    content = json.loads((state_dir / "format").read_text())
    (state_dir / "format").write_text(json.dumps(content | {"format": FORMAT_NUMBER}))
    with pytest.raises(UsageError, match="mount it, which migrates it"):
        SqliteEngine.open(state_dir, CONFIG)
    SqliteEngine.open(state_dir, CONFIG, migration=Migration()).close()
    await check_state(state_dir, expected)


def make_first(state_dir: Path) -> None:
    """Turn a state of format 2 into one of the first versions that had it.

    They had neither identities nor page sums, nor settings, and other journals.
    """
    (state_dir / "format").write_text('{"format": 2, "engine": "sqlite"}\n')
    (state_dir / "metadata.sums").unlink()
    connection = sqlite3.connect(state_dir / "metadata.db")
    connection.execute("drop table setting")
    connection.commit()
    ((applied,),) = connection.execute("select applied_sequence from state").fetchall()
    connection.close()
    for name in ("journal.0", "journal.1"):
        write_first_layout(state_dir / name, applied + 1, ())


def test_the_first_states_of_format_2_are_migrated_too(tmp_path: Path) -> None:
    state_dir, _ = unpack(tmp_path)
    make_first(state_dir)
    engine = SqliteEngine.open(state_dir, CONFIG, migration=Migration())
    given = engine.state_id
    assert engine.check() == []
    engine.close()
    content = json.loads((state_dir / "format").read_text())
    assert content == {"format": FORMAT_NUMBER, "engine": "sqlite", "id": given.hex()}
    SqliteEngine.open(tmp_path / "new", CONFIG).close()
    assert tables_in(tmp_path / "new") == tables_in(state_dir)
    engine = SqliteEngine.open(state_dir, CONFIG)
    assert engine.state_id == given
    assert run(engine.get_setting("cursor")) is None
    run(engine.put_setting("cursor", b"1"))
    assert b"data" in run(names_in(engine))
    engine.close()


@pytest.mark.parametrize("victim", ["page", "database", "format", "journal"])
async def test_a_damaged_state_of_format_2_is_repaired_and_migrated(
    tmp_path: Path, victim: str
) -> None:
    """A mount refuses it as damaged, and sends its user to the repair: that must not send back."""
    state_dir, expected = unpack(tmp_path)
    path = state_dir / "metadata.db"
    match victim:
        case "page":
            with sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True) as connection:
                query = "select rootpage from sqlite_master where name = 'xattr'"
                ((page,),) = connection.execute(query)
            connection.close()
            with path.open("r+b") as file:
                file.seek((page - 1) * 4096)
                file.write(b"\xff" * 16)
        case "database":
            path.unlink()
            (state_dir / "metadata.db-wal").unlink()
        case "format":
            (state_dir / "format").write_text("{")
        case "journal":
            # The one that was begun last: the tables lack what it has.
            names = (state_dir / "journal.0", state_dir / "journal.1")
            last = max(names, key=lambda each: each.read_bytes()[16:24][::-1])
            flipped = bytearray(last.read_bytes())
            flipped[1536 + 200] ^= 1
            last.write_bytes(flipped)
    error = StateDamagedError if victim != "format" else UsageError
    with pytest.raises(error):
        SqliteEngine.open(state_dir, CONFIG, migration=Migration())
    raw_store = RawStore(state_dir)
    try:
        repaired = await repair(
            state_dir,
            CONFIG,
            raw_store,
            PackedStore(state_dir),
            LostFound(state_dir),
            time.time_ns(),
        )
    finally:
        raw_store.close()
    state = State(state_dir, keys=KEYS)
    try:
        assert state.engine.check() == [], repaired
        if victim in ("format", "page"):
            path_of_raw = b"/data/raw".hex()
            ino = InodeNo(expected["files"][path_of_raw]["ino"])
            content = await state.content(ino)
            digest = expected["files"][path_of_raw]["raw_hex_blake3"]
            assert digest == blake3.blake3(content).hexdigest()
    finally:
        state.close()
    assert os.listdir(tmp_path / "state" / "lost+found"), victim


def test_the_clock_decides_what_is_told(tmp_path: Path) -> None:
    """A line every few seconds, however many rows there are."""
    state_dir, _ = unpack(tmp_path)
    told: list[str] = []
    migration = Migration(told.append, tell_pause_s=0.0)
    SqliteEngine.open(state_dir, CONFIG, migration=migration).close()
    assert any("rows" in line for line in told)


def test_check_state_finds_what_is_missing(tmp_path: Path) -> None:
    """The measure itself: one xattr less is found."""
    state_dir, expected = unpack(tmp_path)
    SqliteEngine.open(state_dir, CONFIG, migration=Migration()).close()
    expected["files"][b"/data/raw".hex()]["xattrs"][b"user.more".hex()] = ""
    with pytest.raises(AssertionError):
        trio.run(check_state, state_dir, expected)
