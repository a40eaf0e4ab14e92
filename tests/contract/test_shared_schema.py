"""The schema of a mount in PostgreSQL, on a real server."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from memfs.errors import DatabaseError, UsageError
from memfs.metadata.shared import schema
from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.schema import FORMAT_NUMBER, NODE, Mount, NodeRow, check, create
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
    assert schema.find_node(client) is None


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
    assert schema.find_node(client) is None


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
        node = schema.join(client, "the database", ME, _rows_of(local))
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


def test_a_state_directory_joins_once_with_its_rows(
    client: Client, local: sqlite3.Connection
) -> None:
    """The root directory and what a new state has; what is one node's alone stays there."""
    _create(client)
    node = schema.join(client, "the database", ME, _rows_of(local))
    assert node == ME._replace(number=NODE)
    for table, rows in _rows_of(local):
        assert sorted(client.query(table.select_shared)) == sorted(map(stored_row, rows))
    [(ino,)] = client.query("select ino from inode")
    assert ino == ROOT_INODE
    assert client.query("select name from setting") == [(b"a",)]
    client.query("update node set epoch = 7, seq = 3")
    client.query("delete from setting")
    again = schema.join(client, "the database", ME._replace(name="moved"), _rows_of(local))
    assert again == NodeRow(NODE, "here", ME.state_id, 7, 3, "9.9")
    assert client.query("select count(*) from setting") == [(0,)]
    assert schema.find_node(client) == again._replace(name="moved")


def test_another_state_directory_is_refused(client: Client, local: sqlite3.Connection) -> None:
    """It would answer from tables of its own, and mix its changes with the other one's."""
    _create(client)
    schema.join(client, "the database", ME, _rows_of(local))
    other = ME._replace(name="there", state_id=b"o" * 16)
    with pytest.raises(UsageError, match=r"node here, whose state directory is another one.*later"):
        schema.join(client, "the database", other, _rows_of(local))
    assert schema.find_node(client) == ME._replace(number=NODE)


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
            return schema.join(clients[at], "the database", node, rows)
        except UsageError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, range(2)))
    [joined] = [each for each in outcomes if isinstance(each, NodeRow)]
    assert schema.find_node(clients[0]) == joined
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
