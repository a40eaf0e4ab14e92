"""The schema of a mount in PostgreSQL: made once by `memfs format`, checked by each mount.

Beside the shared tables there are three: `mount` has one row, which tells what this is; `node` has
a row for each state directory that takes part, of which one writes and all others read; `change`
has the bodies of journal entries of the one that writes, until it and those that read have them.
There are no foreign keys, which lock rows that need no lock, and no triggers: each node does the
same changes as its SQLite tables.

All tables are in the schema that the connection creates tables in (`search_path`), so that an URL
with `options=-csearch_path=NAME` has a mount of its own in a database of others.

Invariant: the tables come all together, in a schema that has no others, with the row of `mount`.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import DatabaseError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared.tables import TABLES
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from memfs.metadata.shared.client import Client

FORMAT_NUMBER = 3
"""That of these tables; another number is refused."""

TIMEOUT_S = 60.0
"""For the tables, and for the rows of a new node. Guess."""


_MANAGEMENT = (
    """create table mount (
        one bigint primary key check (one = 1),
        format bigint not null,         -- FORMAT_NUMBER
        mount_id text not null,         -- 32 random hexadecimal digits
        store text not null,            -- glacier.url of all nodes
        version text not null,          -- of memfs, which made it
        created timestamptz not null
    )""",
    """create table node (
        node bigint primary key,
        name text collate "C" not null, -- nodes.name
        state_id bytea not null unique, -- of its state directory, 16 bytes
        role text collate "C" not null check (role in ('writer', 'reader')),
        epoch bigint not null,          -- who has another one changes nothing any longer
        state text collate "C" not null -- 'live': it finds the changes that it needs; 'behind': it
            check (state in ('live', 'behind', 'left')), -- may not; 'left': nor is it expected
        seq bigint not null,            -- changes of its journal that are in the tables
        applied bigint not null,        -- of a reader: it needs no changes of the writer up to here
                                        -- of the writer: the epoch in which it ended in order
        beat timestamptz not null,      -- when it was heard of last
        version text collate "C" not null, -- of memfs
        address text collate "C",       -- where it answers other nodes; null: it does not
        certificate bytea               -- that it shows to other nodes, DER; null: it has none
    ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02)""",
    "create unique index node_writer on node (role) where role = 'writer'",
    "create unique index node_name on node (name) where state = 'live'",
    """create table change (
        node bigint,
        seq bigint,                     -- from 1 on, without a gap
        at timestamptz not null,
        body bytea not null,
        primary key (node, seq)
    ) with (autovacuum_vacuum_scale_factor = 0.02)""",
)

_RIGHTS = {"mount": "select", "node": "select, insert, update", "change": "select, insert, delete"}
"""What a mount needs of these tables; of the others it needs to read and to write rows."""

_WHERE = """
    select current_setting('server_encoding'), current_database()::text, current_schema()::text,
        current_user::text, coalesce(has_schema_privilege(current_schema(), 'create'), false)
"""
_THERE = """
    select relname::text from pg_class as c
    where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
        and not exists (
            select from pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    order by relname = 'mount' desc, relname limit 4
"""
"""Tables and views, but for those of extensions."""
_HAS_TABLES = """
    select to_regclass('mount') is not null and to_regclass('node') is not null
        and to_regclass('change') is not null
"""
_READ_MOUNT = "select format, mount_id, store, version, created::text from mount"
_INSERT_MOUNT = """
    insert into mount (one, format, mount_id, store, version, created)
    values (1, $1::bigint, $2::text, $3::text, $4::text, now())
"""

_NO_RIGHT, _NO_COLUMN, _NO_ROLE = "42501", "42703", "42704"
TAKEN = frozenset({"42P07", "23505"})
"""SQLSTATEs of a table that is there already, or that somebody makes at the same time."""


class Mount(NamedTuple):
    """What the row of `mount` tells."""

    mount_id: str
    """Which mount it is: 32 hexadecimal digits."""
    store: str
    """URL of the object store, without a slash at its end."""
    version: str
    """That of memfs, which made it."""
    created: str
    """When, with the database's time zone."""


def create(client: Client, database: str, store: str, version: str, role: str = "") -> Mount:
    """Make a mount in an empty database or schema.

    Args:
        client: Connected to it.
        database: How messages name it, without secrets.
        store: URL of the object store.
        version: That of this memfs.
        role: Gets exactly what a mount needs; empty: nobody does.

    Raises:
        UsageError: It has tables, must not have some, or takes not all texts; the URL is wrong,
            or has secrets; there is no such role. Nothing was made.
        DatabaseError, DisconnectedError: As of `Client.transact_blocking`.
    """
    store = _checked_store(store)
    ((encoding, name, schema, user, may_create),) = client.query(_WHERE)
    if encoding != "UTF8":
        raise UsageError(
            f"database {name} is in {encoding}, which not all texts fit in: make one in UTF8, by "
            f"`createdb --encoding UTF8 --template template0 NAME`"
        )
    if schema is None:
        raise UsageError(
            f"the search_path of {user} in database {name} names no schema that is there: make "
            "one (create schema NAME), and name it by ?options=-csearch_path%3DNAME in the URL"
        )
    _refuse_used(client, database)
    if not may_create:
        raise UsageError(
            f"{user} may make no tables in schema {schema} of database {name}: have its owner run "
            f"`grant create on schema {_quoted(schema)} to {_quoted(user)}`, or format it as the "
            f"owner, with --role {user}"
        )
    texts = [*_MANAGEMENT, *(text for table in TABLES for text in table.create)]
    row = (FORMAT_NUMBER, secrets.token_hex(16), store, version)
    texts += _grants(schema, role) if role else ()
    try:
        client.transact_blocking([*((text, ()) for text in texts), (_INSERT_MOUNT, row)], TIMEOUT_S)
    except DatabaseError as error:
        if error.sqlstate in TAKEN:
            # Somebody else was faster.
            _refuse_used(client, database)
        if error.sqlstate == _NO_ROLE:
            raise UsageError(
                f"{database} has no role {role}: make it, by `create role {_quoted(role)} login`"
            ) from None
        raise
    return find_mount(client, database)


def check(client: Client, database: str, store: str | None) -> Mount:
    """See that a database has a mount that this memfs knows, with the same object store.

    Args:
        client: Connected to it.
        database: How messages name it, without secrets.
        store: `glacier.url`; None: it is not set.

    Raises:
        UsageError: It has no mount, or one of another format or with another store; or the user
            must not read it.
        DatabaseError, DisconnectedError: As of `Client.query`.
    """
    mount = find_mount(client, database)
    if store is None:
        raise UsageError(
            f"{database} was formatted for the object store {mount.store}: write that as "
            "glacier.url"
        )
    if url_without_secrets(store).rstrip("/") != mount.store:
        raise UsageError(
            f"{database} was formatted for the object store {mount.store}, and glacier.url is "
            f"{url_without_secrets(store)}: its objects would not be found; correct one of "
            "glacier.url and metadata.url"
        )
    return mount


def find_mount(client: Client, database: str) -> Mount:
    """Return what a database says of its mount; `UsageError` unless memfs knows it.

    Args:
        client: Connected to it.
        database: How messages name it, without secrets.
    """
    ((has_tables,),) = client.query(_HAS_TABLES)
    rows = []
    if has_tables:
        try:
            rows = client.query(_READ_MOUNT)
        except DatabaseError as error:
            if error.sqlstate == _NO_RIGHT:
                raise UsageError(
                    f"{database}: its user must not read the tables of the mount: have their owner "
                    "grant it usage of the schema, and select, insert, update and delete on all "
                    "tables in it, as `memfs format --role` does"
                ) from None
            if error.sqlstate != _NO_COLUMN:
                raise
    if not rows:
        raise UsageError(
            f"{database} has no mount: make one, by `memfs format URL --store URL`, or correct "
            "metadata.url"
        )
    ((number, *rest),) = rows
    mount = Mount._make(rest)
    if number < FORMAT_NUMBER:
        raise UsageError(
            f"{database} has format {number}, which memfs {mount.version} made before its first "
            f"release; this memfs knows {FORMAT_NUMBER}: make another database, format that, and "
            "mount it with a new state directory",
            ExitCode.STATE_UNUSABLE,
        )
    if number != FORMAT_NUMBER:
        raise UsageError(
            f"{database} has format {number}, made by memfs {mount.version}; this memfs knows "
            f"{FORMAT_NUMBER}: use the version of memfs that made it, or a newer one",
            ExitCode.STATE_UNUSABLE,
        )
    return mount


def _refuse_used(client: Client, database: str) -> None:
    there = [name for (name,) in client.query(_THERE)]
    if not there:
        return
    try:
        mount = find_mount(client, database)
    except UsageError:
        raise UsageError(
            f"{database} has tables ({', '.join(there)}), and memfs wants no others beside its "
            "own: make a database for it, by `createdb NAME`, or a schema, by `create schema NAME` "
            "and ?options=-csearch_path%3DNAME in the URL"
        ) from None
    raise UsageError(
        f"{database} has a mount already, with the object store {mount.store}, formatted "
        f"{mount.created}: mount it by metadata.url, or make another database"
    )


def _grants(schema: str, role: str) -> list[str]:
    """Return the statements that give a role what a mount needs."""
    rights = {table.name: "select, insert, update, delete" for table in TABLES} | _RIGHTS
    return [
        f"grant usage on schema {_quoted(schema)} to {_quoted(role)}",
        *(f"grant {chosen} on {table} to {_quoted(role)}" for table, chosen in rights.items()),
    ]


def _quoted(name: str) -> str:
    """Return a name as a statement has it."""
    return '"' + name.replace('"', '""') + '"'


def _checked_store(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    is_relative = scheme == "file" and not rest.startswith("/")
    if not separator or not scheme or not rest.strip("/") or is_relative:
        raise UsageError(
            f"--store: {url!r} is no URL of an object store: write s3://BUCKET/PREFIX, "
            "gs://BUCKET/PREFIX, abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX, or "
            "file:///DIRECTORY"
        )
    if url_without_secrets(url) != url:
        raise UsageError(
            "--store: a URL with a user, a password or a query may hold a secret, and others see "
            "it: leave that out, and give the store its credentials by glacier.credentials"
        )
    return url.rstrip("/")
