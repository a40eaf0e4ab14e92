"""Journals of all kinds of histories, replayed into PostgreSQL: the tables are the same.

Those of single kinds are taken in by a node that reads, too.
"""

from __future__ import annotations

import contextlib
import random
import re
import sqlite3
import stat
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from memfs.fsck.rows import compare
from memfs.metadata.foreign import AdoptedFile, Conflict, ForeignDirectory, ForeignObject, WhenGone
from memfs.metadata.published import PublishedObject, PublishProblem
from memfs.metadata.records import (
    AttributeChanges,
    BatchMember,
    Blob,
    Form,
    FormReplacement,
    NewInode,
)
from memfs.metadata.shared import node_table, schema
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.instant import Instant
from memfs.metadata.shared.node_table import NodeRow
from memfs.metadata.shared.statements import SHARED, translate
from memfs.metadata.shared.tables import TABLES
from memfs.metadata.shared.touched import Touched
from memfs.metadata.sqlite.creation import tables_of
from memfs.metadata.sqlite.format import FORMAT_NUMBER
from memfs.metadata.sqlite.statements import (
    DELETE_FORM,
    DELETE_INODE,
    FORGET_HEAD,
    FORGET_OBJECTS,
    INSERT_FORM,
    INSERT_GARBAGE,
    TEXTS,
)
from memfs.types import ROOT_INODE, FormCoding, FormKind, Generation, Place
from tests.contract.engine.making import DIGEST, NOW_NS, make_directory, make_sealed
from tests.contract.engine.replica import Bodies, FollowedSite
from tests.contract.engine.site import SMALL, SqliteSite, run
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.contract.test_engine_machine import QUICK, EngineMachine
from tests.contract.test_engine_snapshot_machine import SnapshotMachine
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.metadata.sqlite.limits import Limits
    from memfs.metadata.sqlite.statements import Row, SqlValue
    from memfs.metadata.sqlite.tables import Record
    from memfs.types import InodeNo, SourceId
    from tests.servers.postgresql import Database

ME = NodeRow(0, "here", bytes(16), 0, 0, "0")


class ReplayedSite(SqliteSite):
    """A plain SQLite engine; what its journal gets is replayed into PostgreSQL.

    Entries go there in transactions of random numbers of them. After each crash, at each reopening
    and at the end the tables are compared.
    """

    client: ClassVar[Client]
    """Its database has a mount."""

    def __init__(self, root: Path, limits: Limits = SMALL) -> None:
        self._rng = random.Random(1)
        self._recorder: Bodies | None = None
        names = ["node", *(table.name for table in TABLES)]
        self.client.transact_blocking([(f"delete from {name}", ()) for name in names])
        super().__init__(root, limits)

    def _open(self) -> Engine:
        engine = super()._open()
        if self._recorder is None:
            rows = ((table, self._ask(table.select_local)) for table in TABLES)
            node_table.join(self.client, "the database", ME, rows)
        self._recorder = Bodies()
        self._sqlite._database.follow(self._recorder)
        return engine

    def _ask(self, text: str) -> list[Row]:
        return self._sqlite._rows(text)

    def compare(self) -> None:
        """Replay what was committed since, and compare; nothing is uncommitted."""
        assert self._recorder is not None
        bodies = self._recorder.waiting
        while bodies:
            count = self._rng.choice((1, 2, 7, len(bodies)))
            records = [record for body in bodies[:count] for record in body.records]
            self.client.transact_blocking(translate(records))
            del bodies[:count]
        assert_same(local_tables(self._ask), shared_tables(self.client))

    def commit_and_compare(self) -> None:
        """Commit, replay and compare."""
        self._sqlite.commit_nowait()
        self.compare()

    def reopen(self) -> Engine:
        """Close the engine and open it again."""
        self.commit_and_compare()
        return super().reopen()

    def crash(self) -> Engine:
        """Go on with the files as SIGKILL would have left them."""
        before = self._recorder
        assert before is not None
        before.is_dead = True
        engine = super().crash()
        assert self._recorder is not None
        self._recorder.waiting[:0] = before.waiting
        self.compare()
        return engine

    def close(self) -> None:
        """Close the engine, check it and compare before."""
        self.commit_and_compare()
        super().close()


@pytest.fixture
def site_class(postgres: Database) -> Iterator[type[ReplayedSite]]:
    """Sites that use the test's database, one after the other."""
    client = Client.connect(Address.parse(postgres.url), WAIT_S)
    with contextlib.closing(client):
        schema.create(client, "the database", "s3://bucket", "0")

        class Site(ReplayedSite):
            pass

        Site.client = client
        yield Site


@pytest.fixture
def in_postgresql(site_class: type[ReplayedSite], tmp_path: Path) -> Iterator[ReplayedSite]:
    made = site_class(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["postgresql", "reader"])
def replayed(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[ReplayedSite | FollowedSite]:
    """A site whose journal goes into PostgreSQL, or to a node that reads."""
    if request.param == "postgresql":
        yield request.getfixturevalue("in_postgresql")
        return
    made = FollowedSite(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("machine", [EngineMachine, SnapshotMachine])
def test_histories_leave_the_same_tables(
    site_class: type[ReplayedSite], machine: type[EngineMachine]
) -> None:
    """Names, contents, forms, batches, xattrs, settings, snapshots, crashes."""

    class Machine(machine):  # type: ignore[misc, valid-type]  # a base that is chosen
        pass

    Machine.site_class = site_class
    run_state_machine_as_test(Machine, settings=settings(QUICK, max_examples=10))


LONG_KEY = random.Random(1).randbytes(3000)
"""Longer than an index of PostgreSQL takes, also once it is compressed."""


def _object(ino: InodeNo, source: SourceId, key: bytes) -> ForeignObject:
    return ForeignObject(
        *(ino, Generation(1), source, key, "e\0", "", 10, 5, None, 6),
        ours=False,
        current=True,
        conflict=Conflict.NONE,
    )


async def _adopt(engine: Engine, source: SourceId, keys: Iterable[bytes]) -> list[bool]:
    files = []
    for key in keys:
        ino, _raw = engine.reserve_ids()
        new = NewInode(ino, stat.S_IFREG | 0o644, 0, 0, NOW_NS, xattrs=((b"user.k", key),))
        name = b"long" if key == LONG_KEY else key
        files.append(AdoptedFile(ROOT_INODE, name, new, _object(ino, source, key)))
    return await engine.adopt_files(files)


def test_sources_and_their_objects_are_the_same(replayed: ReplayedSite | FollowedSite) -> None:
    """Adoption, a second listing, files that go and come, and the end of the source."""
    engine = replayed.engine
    url = "s3://other/with\0nul"
    source = run(engine.add_source(url, ROOT_INODE, 60, WhenGone.KEEP, '{"a": "\\u0000"}'))
    keys = [b"a", b"b", b"c", LONG_KEY]
    assert run(_adopt(engine, source.source, keys)) == [True] * 4
    replayed.commit_and_compare()
    assert run(_adopt(engine, source.source, [b"a", b"d"])) == [False, True]
    run(engine.create_snapshot("shown\u00e9", NOW_NS, "de\0scribed", [("a", "b\0")], 7))
    for name in (b"b", b"long"):
        inode = run(engine.unlink(ROOT_INODE, name, NOW_NS))
        run(engine.reap([inode.ino]))
    assert run(engine.list_gone(source.source, b"", 9)) == sorted([b"b", LONG_KEY])
    run(engine.clear_gone(source.source, [LONG_KEY]))
    kept = run(engine.lookup(ROOT_INODE, b"c"))
    foreign = _object(kept.ino, source.source, b"c")
    assert run(engine.put_object(foreign._replace(digest=bytes(32))))
    assert run(engine.attach_object(foreign._replace(etag="other")))
    run(engine.put_source(source._replace(problem="gone", listed_ns=7)))
    replayed.commit_and_compare()
    [snapshot] = run(engine.list_snapshots())
    run(engine.delete_snapshot(snapshot.snap))
    while run(engine.delete_snapshot_step(2)):
        pass
    replayed.commit_and_compare()
    for name in (b"a", b"c", b"d"):
        inode = run(engine.unlink(ROOT_INODE, name, NOW_NS))
        run(engine.reap([inode.ino]))
    run(engine.remove_source(source.source))
    replayed.commit_and_compare()


def test_directories_of_a_source_are_the_same(replayed: ReplayedSite | FollowedSite) -> None:
    """Those that are listed as somebody looks into them."""
    engine = replayed.engine
    source = run(engine.add_source("s3://other", ROOT_INODE, 0, WhenGone.REMOVE, "{}")).source
    for name, prefix in ((b"d", b"d/"), (b"e", LONG_KEY), (b"f", b"")):
        directory = run(make_directory(engine, name))
        assert run(engine.add_directory(ForeignDirectory(directory.ino, source, prefix, 0)))
        run(engine.set_listed(directory.ino, 77))
    run(engine.rmdir(ROOT_INODE, b"e", NOW_NS))
    replayed.commit_and_compare()
    run(engine.forget_directories(source))
    replayed.commit_and_compare()


def test_batches_are_the_same(replayed: ReplayedSite | FollowedSite) -> None:
    """Forms that share an object, one that moves out of it, and its end."""
    engine = replayed.engine
    inodes = [run(make_sealed(engine, b"%d" % number, size=100)) for number in range(3)]
    intent = run(engine.begin_batch("blobs/1", NOW_NS))
    members = []
    for number, inode in enumerate(inodes):
        blob = Blob(engine.reserve_blob(), 100, DIGEST)
        place = Place("blobs/1", 50 * number)
        form = Form(blob.blob, FormKind.REMOTE, place, FormCoding("none"), 50)
        members.append(BatchMember(inode.ino, inode.generation, blob, form))
    assert run(engine.publish_batch(intent, "blobs/1", 150, members)) == [True] * 3
    replayed.commit_and_compare()
    intent = run(engine.begin_batch("blobs/2", NOW_NS))
    former = members[0].form
    form = former._replace(place=Place("blobs/2", 0))
    assert run(engine.replace_batched(intent, "blobs/2", 50, [FormReplacement(former, form)]))
    replayed.commit_and_compare()
    for number in range(3):
        inode = run(engine.unlink(ROOT_INODE, b"%d" % number, NOW_NS))
        run(engine.reap([inode.ino]))
    replayed.commit_and_compare()
    garbage = run(engine.list_garbage(9))
    run(engine.clear_garbage([item.item for item in garbage]))
    replayed.commit_and_compare()


def test_published_objects_and_settings_are_the_same(replayed: ReplayedSite | FollowedSite) -> None:
    """Their keys may be longer than an index takes, and have any letter."""
    engine = replayed.engine
    ino = run(make_sealed(engine, b"f")).ino
    url = "file:///" + "\0\x10long/\U0001f600" * 1000
    published = PublishedObject(
        url, "file:///", ino, Generation(1), "e", "t\0", 3, 4, bytes(32), PublishProblem.TAKEN
    )
    run(engine.put_published(published))
    run(engine.put_published(published._replace(problem=PublishProblem.NONE, size=5)))
    run(engine.put_published(published._replace(url="s3://short")))
    run(engine.put_setting("quarantine." + url, b"\0\xff"))
    run(engine.put_setting("quarantine." + url, b"again"))
    run(engine.put_setting("gone", b""))
    replayed.commit_and_compare()
    run(engine.forget_published([url]))
    run(engine.put_setting("gone", None))
    run(engine.put_setting("quarantine." + url, None))
    replayed.commit_and_compare()
    assert run(engine.get_published("s3://short")) is not None


def test_numbers_of_64_bits_are_the_same(replayed: ReplayedSite | FollowedSite) -> None:
    """Sparse files and times of any year have the largest ones."""
    engine = replayed.engine
    inode = run(make_sealed(engine, b"f", size=(1 << 63) - 1))
    changes = AttributeChanges(
        uid=(1 << 32) - 1, gid=(1 << 32) - 1, atime_ns=-(1 << 63), mtime_ns=(1 << 63) - 1
    )
    run(engine.set_attributes(inode.ino, changes))
    replayed.commit_and_compare()


def test_an_entry_with_thousands_of_files_is_a_few_statements(in_postgresql: ReplayedSite) -> None:
    """A listing of a bucket is taken in at once."""
    engine = in_postgresql.engine
    source = run(engine.add_source("s3://other", ROOT_INODE, 0, WhenGone.KEEP, "{}"))
    in_postgresql.commit_and_compare()
    count = 3000
    run(_adopt(engine, source.source, (b"key-%d" % number for number in range(count))))
    run(engine.commit())
    assert in_postgresql._recorder is not None
    [(records, _totals)] = in_postgresql._recorder.waiting
    assert len(records) > 4 * count
    assert len(translate(records)) < 20
    in_postgresql.compare()


def test_rows_are_found_by_their_keys_in_small_tables_too(site_class: type[ReplayedSite]) -> None:
    """A plan is made once, and the tables grow."""
    client = site_class.client
    for table in TABLES:
        rows = [tuple(_LIKE[column.letter](at) for column in table.columns) for at in range(9)]
        client.query(table.insert_many, table.arrays_of(rows))
        client.query(f"analyze {table.name}")
    # All rows of a source go, and the only one of `head`: such plans look expensive.
    whole = {FORGET_OBJECTS, FORGET_HEAD}
    whole_plan = client.query("explain analyze delete from head")
    assert not any("JIT" in line for (line,) in whole_plan), whole_plan
    one: dict[str, SqlValue] = {"i": 1, "b": b"a", "t": "a", "u": b"a", "l": "{1,2}"}
    many: dict[str, SqlValue] = {"i": "{1,2}", "b": "{a,b}", "t": "{a,b}", "u": "{a,b}"}
    for number, shared in SHARED.items():
        letters = [letter for _place, letter in shared.takes]
        chosen = [(shared.text, [one[letter] for letter in letters])]
        if shared.many:
            chosen.append((shared.many, [many[letter] for letter in letters]))
        for text, parameters in chosen if number not in whole else ():
            plan = "\n".join(row[0] for row in client.query(f"explain {text}", parameters))
            assert not re.search("Seq Scan on|Hash Join|Merge Join", plan), f"{text}\n{plan}"


_LIKE: dict[str, Callable[[int], SqlValue]] = {
    "i": int,
    "b": lambda at: b"%d" % at,
    "t": str,
    "u": lambda at: b"%d" % at,
}

_VALUES: dict[str, list[SqlValue]] = {
    "i": [1, 2, 3, 4],
    "b": [b"", b"a\0", b"\xff"],
    "t": ["", "x\0", 'y"\\'],
    "u": ["query.x", "x\0", "y" * 3000],
    "l": ["[]", "[1, 2]", "[2, 3, 4]"],
}
"""So few that records meet."""
_KINDS: list[SqlValue] = [FormKind.PACKED.value, FormKind.REMOTE.value]
_KIND_PLACES = {INSERT_FORM: 1, DELETE_FORM: 1, INSERT_GARBAGE: 1}


def _random_records(seed: int) -> Iterator[Record]:
    """Yield records of all shared statements, with values of the right types."""
    rng = random.Random(seed)
    # Few statements meet more often than all.
    numbers = rng.sample(sorted(SHARED), rng.choice((4, 12, len(SHARED))))
    for _ in range(80):
        number = rng.choice(numbers)
        text, letters = TEXTS[number], dict(SHARED[number].takes)
        count = max(map(int, re.findall(r"\?(\d+)", text)), default=text.count("?"))
        values = [_VALUES[letters.get(place, "i")] for place in range(count)]
        if (place := _KIND_PLACES.get(number)) is not None:
            values[place] = _KINDS
        yield number, tuple(map(rng.choice, values))


def test_any_records_leave_the_same_tables(site_class: type[ReplayedSite]) -> None:
    """The vocabulary itself, whatever an engine does with it, in one transaction."""
    empty = [(f"delete from {table.name}", ()) for table in TABLES]
    for seed in range(60):
        local = sqlite3.connect(":memory:")
        with contextlib.closing(local):
            for text in tables_of(FORMAT_NUMBER):
                local.execute(text)
            done = _do(local, _random_records(seed))
            site_class.client.transact_blocking([*empty, *translate(done)])
            expected = local_tables(partial(_rows_of, local))
            assert_same(expected, shared_tables(site_class.client), f"seed {seed}")


def test_rows_that_differ_by_some_records_are_touched_by_them(
    site_class: type[ReplayedSite],
) -> None:
    """Whichever of the two databases lacks them; and of other rows each difference is told."""
    empty = [(f"delete from {table.name}", ()) for table in TABLES]
    passed_count = told_count = 0
    for seed in range(60):
        local = sqlite3.connect(":memory:")
        with contextlib.closing(local):
            for text in tables_of(FORMAT_NUMBER):
                local.execute(text)
            done = _do(local, _random_records(seed))
            first = random.Random(seed).randrange(len(done))
            site_class.client.transact_blocking([*empty, *translate(done[:first])])
            touched = Touched()
            for known in (done[first:], ()):
                touched.add(known)
                with Instant(site_class.client) as instant:
                    compared = compare(
                        local,
                        instant,
                        touched if known else Touched(),
                        is_reader=False,
                        is_heir=False,
                        progress=lambda _count: None,
                    )
                if known:
                    assert compared.faults == [], f"seed {seed}"
                    passed_count += compared.passed_count
                else:
                    told_count += len(compared.faults)
    assert 0 < passed_count == told_count


def _do(local: sqlite3.Connection, records: Iterable[Record]) -> list[Record]:
    """Do records in SQLite; returns those that a journal would have."""
    done = []
    for number, parameters in records:
        # What a row is in the way of would be in no journal, nor a removed inode that was
        # not there: SQLite's trigger would not look for its xattrs.
        with contextlib.suppress(sqlite3.IntegrityError):
            count = local.execute(TEXTS[number], parameters).rowcount
            if count or number != DELETE_INODE:
                done.append((number, parameters))
    return done


def _rows_of(local: sqlite3.Connection, text: str) -> list[Row]:
    return local.execute(text).fetchall()


def test_each_statement_is_known_to_postgresql(in_postgresql: ReplayedSite) -> None:
    """Also those that no history here has; their types are as they say."""
    empty: dict[str, SqlValue] = {"i": 0, "b": b"", "t": "", "u": b"", "l": "{}"}
    for number, shared in SHARED.items():
        one = [empty[letter] for _place, letter in shared.takes]
        for text, parameters in ((shared.text, one), (shared.many, ["{}"] * len(one))):
            if text:
                explained = in_postgresql.client.query(f"explain {text}", parameters)
                assert explained, TEXTS[number]
