"""The guide to names in PostgreSQL: its statements make roles that can do what a mount does."""

from __future__ import annotations

import contextlib
import re
import secrets
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from memfs.metadata.shared.address import Address
from memfs.metadata.shared.client import Client, DatabaseError, DisconnectedError
from memfs.metadata.shared.tables import TABLES
from memfs_tools.main import run
from tests.documents import ROOT, Document
from tests.servers.postgresql import CLEAR, Database
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgresql import PostgresServer

GUIDE = ROOT / "docs/guide/many-nodes.md"


class Made(NamedTuple):
    """What the guide's statements have made."""

    database: Database
    user: str
    """That of the mount."""
    owner: str

    def url(self, user: str) -> str:
        """By the unix socket."""
        return self.database.server.url(self.database.name, user)


@pytest.fixture
def made(postgres_server: PostgresServer) -> Iterator[Made]:
    """The database and the roles, by other names than the guide's, which are the fixture's own."""
    name = f"guide_{secrets.token_hex(4)}"
    owner = f"{name}_admin"
    blocks = [
        re.sub(r"\bmemfs\b", name, re.sub(r"\bmemfs_admin\b", owner, block.text))
        for block in Document(GUIDE, GUIDE.read_text()).blocks
        if block.language == "sql"
    ]
    before, inside = blocks
    database = Database(postgres_server, name)
    for statement in filter(None, map(str.strip, before.split(";"))):
        postgres_server.execute(statement)
    database.execute(inside)
    yield Made(database, name, owner)
    postgres_server.execute(f"drop database {name} with (force)")
    postgres_server.execute(f"drop role {name}, {owner}")


@contextlib.contextmanager
def _connected(made: Made, user: str) -> Iterator[Client]:
    with contextlib.closing(Client.connect(Address.parse(made.url(user)), WAIT_S)) as client:
        yield client


def test_the_user_of_a_mount_has_the_rights_that_it_needs_and_no_others(
    made: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["format", made.url(made.owner), "--role", made.user, "--store", "s3://bucket/data"]
    assert run(arguments) == 0, capfd.readouterr().err
    expected = {each.name: {"select", "insert", "update", "delete"} for each in TABLES} | {
        "mount": {"select"},
        "node": {"select", "insert", "update"},
        "change": {"select", "insert", "delete"},
    }
    rights = made.database.execute(
        "select table_name::text, lower(privilege_type) from information_schema.table_privileges"
        " where grantee = %s",
        made.user,
    )
    assert {name: {right for each, right in rights if each == name} for name, _ in rights} == (
        expected
    )
    with _connected(made, made.user) as client:
        assert client.query("select store from mount") == [("s3://bucket/data",)]
        changes = [
            (
                "insert into node values (1, 'a', $1, 'writer', 0, 'live', 0, 0, now(), '')",
                (b"x" * 16,),
            ),
            ("update node set seq = 1 where node = 1", ()),
            ("insert into change values (1, 1, now(), $1)", (b"",)),
            ("delete from change", ()),
            ("insert into dentry (parent, cookie, name, ino) values (1, 9, $1, 9)", (b"f",)),
            ("update dentry set name = $1", (b"g",)),
            ("delete from dentry", ()),
        ]
        client.transact_blocking(changes)
        for statement in (
            "create table more (n int)",
            "create temporary table more (n int)",
            "create schema more",
            "drop table dentry",
            "truncate dentry",
            "alter table dentry add column more int",
            "update mount set store = ''",
            "delete from node",
            "create role more",
        ):
            with pytest.raises(DatabaseError, match=r"42501|must be owner") as refusal:
                client.query(statement)
            assert refusal.value.sqlstate == "42501", statement


def test_others_are_not_let_into_the_database(made: Made) -> None:
    with pytest.raises(DisconnectedError, match="permission denied for database"):
        Client.connect(Address.parse(made.url(CLEAR)), WAIT_S)


def test_the_owner_may_be_shut_out_afterwards(made: Made) -> None:
    made.database.execute(f"alter role {made.owner} nologin")
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        psycopg.connect(made.url(made.owner))
    with _connected(made, made.user) as client:
        assert client.query("select 1") == [(1,)]
