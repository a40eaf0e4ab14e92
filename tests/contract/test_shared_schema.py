"""The schema of a mount in PostgreSQL, on a real server."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from memfs.errors import DatabaseError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared import node_table
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.node_file import Role
from memfs.metadata.shared.node_table import NODE, NodeRow, NodeState
from memfs.metadata.shared.schema import FORMAT_NUMBER, Mount, check, create
from memfs.metadata.shared.tables import TABLES, stored_row
from memfs.metadata.sqlite.creation import create_tables
from memfs.types import ROOT_INODE
from tests.servers.postgresql import USER
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.statements import Row
    from tests.servers.postgresql import Database

STORE = "s3://bucket/prefix"
ME = NodeRow(0, "here", b"i" * 16, 0, 0, "9.9")

Connect = "Callable[..., Client]"


@pytest.fixture
def connect(postgres: Database) -> Iterator[Callable[..., Client]]:
    """Connects to the test's database; the clients are closed after the test."""
    with contextlib.ExitStack() as stack:

        def connected(url: str = postgres.url) -> Client:
            client = Client.connect(Address.parse(url), WAIT_S)
            stack.callback(client.close)
            return client

        yield connected


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    return connect()


def _create(client: Client, store: str = STORE, role: str = "") -> Mount:
    return create(client, "the database", store, "9.9", role)


def _tables_in(client: Client) -> set[str]:
    rows = client.query("select tablename::text from pg_tables where schemaname = current_schema()")
    return {name for (name,) in rows}


@pytest.fixture
def local(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The tables of a new state directory."""
    path = tmp_path / "metadata.db"
    create_tables(path, 1_000, settings={"a": b"1", "query.index": b"whole"})
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def _rows_of(local: sqlite3.Connection) -> Iterator[tuple[SharedTable, list[Row]]]:
    for table in TABLES:
        yield table, local.execute(table.select_local).fetchall()


def test_a_mount_is_made_with_all_its_tables(client: Client) -> None:
    """What a mount asks for later is what was made."""
    made = _create(client, STORE + "/")
    assert (made.store, made.version, len(made.mount_id)) == (STORE, "9.9", 32)
    assert _tables_in(client) == {"mount", "node", "change", *(table.name for table in TABLES)}
    assert check(client, "the database", STORE) == made
    assert check(client, "the database", STORE + "/") == made
    assert node_table.find_writer(client) is None


def test_another_mount_has_another_identity(postgres: Database, client: Client) -> None:
    """Two of them in schemas of one database are not taken for each other."""
    first = _create(client)
    postgres.execute(f"create schema other authorization {USER}")
    other = Client.connect(Address.parse(f"{postgres.url}?options=-csearch_path%3Dother"), WAIT_S)
    with contextlib.closing(other):
        second = _create(other)
        assert second.mount_id != first.mount_id
        assert check(other, "the database", STORE) == second
    assert check(client, "the database", STORE) == first


def test_a_used_database_is_refused(client: Client) -> None:
    """Neither a mount nor tables of others are touched."""
    made = _create(client)
    with pytest.raises(UsageError, match="has a mount already, with the object store s3://bucket"):
        _create(client, "s3://bucket/other")
    assert check(client, "the database", STORE) == made
    assert node_table.find_writer(client) is None


@pytest.mark.parametrize(
    "text",
    [
        "create table invoice (number int)",
        "create view mount as select 1 as one",
        "create table mount (place text)",
        "create table inode (ino bigint)",
    ],
)
def test_a_database_with_tables_of_others_is_refused(client: Client, text: str) -> None:
    """Also where they are called as ours are."""
    client.query(text)
    before = _tables_in(client)
    with pytest.raises(UsageError, match=r"has tables \((invoice|mount|inode)\).*createdb NAME"):
        _create(client)
    assert _tables_in(client) == before


def test_tables_of_an_extension_are_in_nobody_s_way(postgres: Database, client: Client) -> None:
    """Administrators have some in each new database."""
    postgres.execute("create extension pg_stat_statements")
    _create(client)


def test_of_two_that_format_at_once_one_is_refused(connect: Callable[..., Client]) -> None:
    """There is one mount afterwards, that of the other one."""
    clients = [connect() for _ in range(2)]

    def attempt(client: Client) -> Mount | UsageError:
        try:
            return _create(client)
        except UsageError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, clients))
    [made] = [each for each in outcomes if isinstance(each, Mount)]
    [refused] = [each for each in outcomes if isinstance(each, UsageError)]
    assert "has a mount already" in str(refused)
    assert check(clients[0], "the database", STORE) == made


def test_a_user_without_rights_is_told_what_to_ask_for(
    postgres: Database, connect: Callable[..., Client]
) -> None:
    """The remedy is the statement that an owner has to run."""
    postgres.execute("create role guest login")
    try:
        client = connect(postgres.server.url(postgres.name, "guest"))
        with pytest.raises(
            UsageError, match=r"guest may make no tables in schema public.*grant cr"
        ):
            _create(client)
        with pytest.raises(UsageError, match="has no mount"):
            check(client, "the database", STORE)
        owner = connect()
        with pytest.raises(UsageError, match="has no role nobody-there: make it, by `create role"):
            _create(owner, role="nobody-there")
        assert _tables_in(owner) == set()
        _create(owner)
        with pytest.raises(UsageError, match=r"must not read the tables of the mount.*grant it"):
            check(client, "the database", STORE)
    finally:
        postgres.execute("drop owned by guest")
        postgres.execute("drop role guest")


def test_a_role_gets_what_a_mount_needs_and_no_more(
    postgres: Database, connect: Callable[..., Client], local: sqlite3.Connection
) -> None:
    """It can read and write rows; it cannot make tables, nor drop or empty them."""
    postgres.execute('create role "a guest" login')
    try:
        made = _create(connect(), role="a guest")
        client = connect(postgres.server.url(postgres.name, "a%20guest"))
        assert check(client, "the database", STORE) == made
        node = node_table.join(client, "the database", ME, _rows_of(local))
        assert (node.number, node.name, node.seq) == (NODE, "here", 0)
        client.query("insert into change values (1, 1, now(), '')")
        client.query("delete from change")
        client.query("update node set epoch = 5")
        for table in TABLES:
            client.query(f"delete from {table.name}")
        for text in (
            "update mount set store = ''",
            "delete from node",
            "truncate inode",
            "drop table inode",
            "create table more (number int)",
        ):
            with pytest.raises(DatabaseError) as caught:
                client.query(text)
            assert caught.value.sqlstate == "42501", text
    finally:
        postgres.execute('drop owned by "a guest"')
        postgres.execute('drop role "a guest"')


def test_a_database_in_another_encoding_is_refused(postgres: Database) -> None:
    """It would refuse names that have letters of others, when there are some already."""
    name = f"{postgres.name}_latin"
    postgres.execute(
        f"create database {name} owner {USER} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"
        " template template0"
    )
    try:
        client = Client.connect(Address.parse(postgres.server.url(name)), WAIT_S)
        with (
            contextlib.closing(client),
            pytest.raises(UsageError, match=r"is in LATIN1.*createdb --encoding UTF8"),
        ):
            _create(client)
    finally:
        postgres.execute(f"drop database {name}")


def test_a_schema_that_is_not_there_is_refused(postgres: Database) -> None:
    """The URL may name one that nobody has made."""
    url = f"{postgres.url}?options=-csearch_path%3Dnowhere"
    client = Client.connect(Address.parse(url), WAIT_S)
    with (
        contextlib.closing(client),
        pytest.raises(UsageError, match=r"names no schema.*create sch"),
    ):
        _create(client)


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("bucket/prefix", "is no URL of an object store"),
        ("s3://", "is no URL of an object store"),
        ("file://objects", "is no URL of an object store.*file:///DIRECTORY"),
        ("s3://me:secret@host/prefix", "may hold a secret"),
        ("s3://bucket/prefix?key=secret", "may hold a secret"),
    ],
)
def test_a_store_that_is_none_or_has_secrets_is_refused(
    client: Client, store: str, reason: str
) -> None:
    """Secrets of a store would be in the database, and in its backups."""
    with pytest.raises(UsageError, match=reason) as caught:
        _create(client, store)
    assert "secret@" not in str(caught.value)
    assert "key=secret" not in str(caught.value)
    assert _tables_in(client) == set()


def test_a_mount_with_another_store_is_refused(client: Client) -> None:
    """Its objects would not be found, and its own go where others do not look."""
    _create(client)
    with pytest.raises(UsageError, match=r"s3://bucket/prefix, and glacier.url is s3://other:"):
        check(client, "the database", "s3://other")
    with pytest.raises(UsageError, match=r"write that as glacier.url"):
        check(client, "the database", None)
    check(client, "the database", "s3://bucket/prefix?key=1")


def test_another_format_is_refused(client: Client) -> None:
    """A later memfs may have made it, with other tables."""
    _create(client)
    client.query("update mount set format = $1::bigint, version = '99.1'", (FORMAT_NUMBER + 1,))
    reason = f"has format {FORMAT_NUMBER + 1}, made by memfs 99.1; this memfs knows {FORMAT_NUMBER}"
    with pytest.raises(UsageError, match=reason):
        check(client, "the database", STORE)
    with pytest.raises(UsageError):
        _create(client)


def test_a_format_before_the_first_release_is_refused(client: Client) -> None:
    """Its table of nodes knows of one."""
    _create(client)
    client.query("update mount set format = 1, version = '0.1'")
    reason = r"has format 1, which memfs 0.1 made before.*make another database, format that, and"
    with pytest.raises(UsageError, match=reason) as caught:
        check(client, "the database", STORE)
    assert caught.value.exit_code == ExitCode.STATE_UNUSABLE


def test_a_state_directory_joins_once_with_its_rows(
    client: Client, local: sqlite3.Connection
) -> None:
    """The root directory and what a new state has; what is one node's alone stays there."""
    _create(client)
    node = node_table.join(client, "the database", ME, _rows_of(local))
    assert node == ME._replace(number=NODE)
    for table, rows in _rows_of(local):
        assert sorted(client.query(table.select_shared)) == sorted(map(stored_row, rows))
    [(ino,)] = client.query("select ino from inode")
    assert ino == ROOT_INODE
    assert client.query("select name from setting") == [(b"a",)]
    client.query("update node set epoch = 7, seq = 3")
    client.query("delete from setting")
    again = node_table.join(client, "the database", ME._replace(name="moved"), _rows_of(local))
    assert again == NodeRow(NODE, "here", ME.state_id, 7, 3, "9.9")
    assert client.query("select count(*) from setting") == [(0,)]
    node_table.come_back(client, "the database", again, "moved", ME.version)
    assert node_table.find_writer(client) == again._replace(name="moved")


def test_another_state_directory_is_refused(client: Client, local: sqlite3.Connection) -> None:
    """It would answer from tables of its own, and mix its changes with the other one's."""
    _create(client)
    node_table.join(client, "the database", ME, _rows_of(local))
    other = ME._replace(name="there", state_id=b"o" * 16)
    with pytest.raises(UsageError, match="written by node here, whose state directory is another"):
        node_table.join(client, "the database", other, _rows_of(local))
    assert node_table.find_writer(client) == ME._replace(number=NODE)


def test_of_two_that_join_at_once_one_is_refused(
    connect: Callable[..., Client], local: sqlite3.Connection
) -> None:
    """The tables have the rows of one of them, whole."""
    clients = [connect() for _ in range(2)]
    _create(clients[0])
    rows = list(_rows_of(local))

    def attempt(at: int) -> NodeRow | UsageError:
        node = ME._replace(state_id=bytes([at] * 16))
        try:
            return node_table.join(clients[at], "the database", node, rows)
        except UsageError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, range(2)))
    [joined] = [each for each in outcomes if isinstance(each, NodeRow)]
    assert node_table.find_writer(clients[0]) == joined
    assert client_count(clients[0], "inode") == 1


def client_count(client: Client, table: str) -> int:
    """Return how many rows a table has."""
    ((count,),) = client.query(f"select count(*) from {table}")
    return int(count)


def test_rows_of_all_kinds_come_back_as_they_were(client: Client) -> None:
    """Bytes, texts with quotes, backslashes and NUL, long keys, and nulls."""
    _create(client)
    texts = ["", "null", 'a"b', "a\\b", "{1,2}", "a\0b\x10", " \n\t", "\U0001f600", "x" * 4000]
    rows: list[Row] = [
        (ino, 1, 1, bytes([ino]) * 3000, text, text, -(1 << 63), (1 << 63) - 1, None, 0, 0, 1, "")
        for ino, text in enumerate(texts)
    ]
    [table] = [each for each in TABLES if each.name == "foreign_object"]
    stored = list(map(stored_row, rows))
    client.query(table.insert_many, table.arrays_of(stored))
    assert sorted(client.query(table.select_shared)) == stored
    with pytest.raises(DatabaseError) as caught:
        client.query(table.insert_many, table.arrays_of([(99, *stored[0][1:])]))
    assert caught.value.sqlstate == "23505", "the key of an object is unique in its source"


# --- nodes that read -----------------------------------------------------------------------------
def _join_reader(client: Client, name: str, number: int) -> NodeRow:
    return node_table.join_reader(client, "the database", name, bytes([number] * 16), "9.9")


@pytest.fixture
def written(client: Client, local: sqlite3.Connection) -> Client:
    """A mount with a node that writes, and that has made 70 changes."""
    _create(client)
    node_table.join(client, "the database", ME, _rows_of(local))
    client.query("update node set seq = 70")
    return client


def test_any_number_of_nodes_reads(written: Client) -> None:
    """Each comes back to its own row, also by another name; changes are kept from the first on."""
    first, second = (_join_reader(written, name, at) for at, name in enumerate("ab"))
    assert first == NodeRow(NODE + 1, "a", bytes(16), 0, 0, "9.9", Role.READER, 70, "live")
    assert (second.number, second.name, second.applied) == (NODE + 2, "b", 70)
    written.query("update node set epoch = 5, applied = 71 where name = 'a'")
    assert _join_reader(written, "c", 0) == first._replace(epoch=5, applied=71)
    assert [node.name for node in node_table.find_nodes(written)] == ["here", "c", "b"]
    writer = node_table.find_writer(written)
    assert writer is not None
    assert (writer.name, writer.role) == ("here", Role.WRITER)


@pytest.mark.parametrize("state", [NodeState.BEHIND, NodeState.LEFT])
def test_a_node_whose_changes_are_gone_is_told_so_once(written: Client, state: NodeState) -> None:
    """It reads all tables again, and needs what comes after them."""
    before = _join_reader(written, "a", 0)
    written.query("update node set state = $1::text where role = 'reader'", (state,))
    written.query("update node set seq = 90 where role = 'writer'")
    assert _join_reader(written, "a", 0) == before._replace(state=state)
    assert node_table.find_nodes(written)[1] == before._replace(applied=90)


def test_nobody_reads_what_nobody_has_written(client: Client) -> None:
    """There is not even a root directory."""
    _create(client)
    with pytest.raises(UsageError, match="has no node that writes: mount it there first") as caught:
        _join_reader(client, "a", 0)
    assert caught.value.exit_code == ExitCode.NO_ANSWER
    assert node_table.find_nodes(client) == []


def test_a_state_directory_keeps_its_role(written: Client, local: sqlite3.Connection) -> None:
    """One that writes has files that no object store has, and one that reads has not all."""
    with pytest.raises(UsageError, match=r'node here, which writes: write role = "writer"') as one:
        node_table.join_reader(written, "the database", "a", ME.state_id, "9.9")
    _join_reader(written, "a", 0)
    reader = ME._replace(state_id=bytes(16))
    with pytest.raises(UsageError, match=r'node a, which reads: write role = "reader"') as other:
        node_table.join(written, "the database", reader, _rows_of(local))
    assert one.value.exit_code == other.value.exit_code == ExitCode.STATE_UNUSABLE


def test_a_name_belongs_to_one_live_node(written: Client) -> None:
    """People tell nodes by their names; one that is behind has given its own away."""
    _join_reader(written, "a", 0)
    _join_reader(written, "b", 1)
    refusal = "another node has the name a: give this one another, by name in"
    for number in (1, 2):
        with pytest.raises(UsageError, match=refusal) as caught:
            _join_reader(written, "a", number)
        assert caught.value.exit_code == ExitCode.STATE_IN_USE
    with pytest.raises(UsageError, match=refusal):
        node_table.come_back(written, "the database", ME._replace(number=NODE), "a", ME.version)
    written.query("update node set state = 'behind' where name = 'a'")
    assert _join_reader(written, "a", 2).number == NODE + 3
    with pytest.raises(UsageError, match=refusal):
        _join_reader(written, "a", 0)


@pytest.mark.parametrize("name", ["", "a\0b", "n\n", "x" * 256, "\udc80"])
def test_a_name_that_nobody_can_write_is_refused(
    written: Client, local: sqlite3.Connection, name: str
) -> None:
    """It would be in messages, and in an index."""
    refusal = r"nodes.name: .* cannot be the name of a node"
    with pytest.raises(UsageError, match=refusal):
        _join_reader(written, name, 0)
    with pytest.raises(UsageError, match=refusal):
        node_table.join(written, "the database", ME._replace(name=name), _rows_of(local))
    assert [node.name for node in node_table.find_nodes(written)] == ["here"]


def test_of_many_that_come_at_once_each_gets_a_row(
    written: Client, connect: Callable[..., Client]
) -> None:
    """Their numbers are those of different nodes."""
    clients = [connect() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda at: _join_reader(clients[at], f"n{at}", at), range(4)))
    assert sorted(row.number for row in rows) == [NODE + 1, NODE + 2, NODE + 3, NODE + 4]
    assert node_table.find_nodes(written)[1:] == sorted(rows)


def test_how_far_nodes_are_is_told(written: Client) -> None:
    """By the database's clock, whatever those of the nodes say."""
    for at, name in enumerate("abc"):
        _join_reader(written, name, at)
    written.query("update node set applied = 69 where name = 'b'")
    written.query("update node set state = 'behind', applied = 1 where name = 'c'")
    written.query("update node set beat = now() - interval '5 min' where name = 'b'")
    written.query("insert into change values (1, 69, now() - interval '1 day', '')")
    written.query("insert into change values (1, 70, now() - interval '1 hour', '')")
    writer, *readers = node_table.list_nodes(written, "the database")
    assert (writer.name, writer.role, writer.applied, writer.behind_count) == (
        *("here", Role.WRITER, 70, 0),
    )
    told = [(each.name, each.state, each.applied, each.behind_count) for each in readers]
    assert told == [("a", "live", 70, 0), ("b", "live", 69, 1), ("c", "behind", 1, 69)]
    assert [each.behind_s for each in (writer, readers[0], readers[2])] == [None] * 3
    behind_s = readers[1].behind_s
    assert behind_s is not None
    assert 3600 <= behind_s < 3600 + WAIT_S
    assert 300 <= readers[1].heard_s < 300 + WAIT_S
    assert 0 <= readers[0].heard_s < WAIT_S


def test_a_reader_needs_few_rights(
    postgres: Database, connect: Callable[..., Client], local: sqlite3.Connection
) -> None:
    """As the guide says: to read all tables, and to have a row of its own."""
    postgres.execute("create role looker login")
    try:
        owner = connect()
        _create(owner)
        node_table.join(owner, "the database", ME, _rows_of(local))
        postgres.execute("grant usage on schema public to looker")
        postgres.execute("grant select on all tables in schema public to looker")
        postgres.execute("grant insert, update on node to looker")
        client = connect(postgres.server.url(postgres.name, "looker"))
        check(client, "the database", STORE)
        assert _join_reader(client, "a", 0).role == Role.READER
        assert len(node_table.list_nodes(client, "the database")) == 2
        for table in TABLES:
            client.query(table.select_shared)
        with pytest.raises(DatabaseError):
            client.query("delete from change")
    finally:
        postgres.execute("drop owned by looker")
        postgres.execute("drop role looker")
