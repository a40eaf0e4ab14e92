"""`memfs format`."""

from __future__ import annotations

import os

import click

from memfs import __version__
from memfs.errors import DisconnectedError, UsageError
from memfs.exit_codes import ExitCode
from memfs_tools.terminal import tell_json, tell_lines


@click.command()
@click.argument("url")
@click.option(
    "--store", required=True, metavar="URL", help="The object store, the same for all its nodes."
)
@click.option(
    "--role",
    default="",
    metavar="NAME",
    help="Another user of the database, who is to mount it: gets the rights that a mount needs.",
)
@click.option("--json", "as_json", is_flag=True, help="Tell what was made as JSON.")
def format(url: str, store: str, role: str, as_json: bool) -> None:
    """Make a mount whose names are in a PostgreSQL database.

    \b
    createdb --encoding UTF8 memfs
    memfs format postgresql://memfs@db/memfs --store s3://bucket/prefix

    A configuration names both, and `memfs mount` does the rest:

    \b
    [metadata]
    url = "postgresql://memfs@db/memfs"
    [glacier]
    url = "s3://bucket/prefix"

    The database, or a schema of it (?options=-csearch_path%3DNAME), is memfs's own: one that has
    tables is refused, and nothing is changed. It is PostgreSQL 13 or later.

    Passwords are not in the URL, which others can see. They come from ~/.pgpass or the file that
    PGPASSFILE names, from a service (?service=NAME), or from where the URL says
    (?password=file:/PATH, ?password=credential:NAME for one of systemd). Over a network they are
    sent by TLS only.

    The user that formats has to be able to make tables. The user of the mount has not:

    \b
    memfs format postgresql://admin@db/memfs --role memfs --store s3://bucket/prefix
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    # Imported here: the client of the database takes a tenth of a second.
    from memfs.metadata.shared.address import Address
    from memfs.metadata.shared.client import Client
    from memfs.metadata.shared.schema import create

    address = Address.parse(url, os.environ)
    try:
        client = Client.connect(address)
    except DisconnectedError as error:
        raise UsageError(
            f"{error}; see that the server runs and lets you in, as psql does with this URL, and "
            "that the database is there, or make it by createdb",
            ExitCode.NO_ANSWER,
        ) from None
    try:
        made = create(client, str(address), store, __version__, role)
    finally:
        client.close()
    if as_json:
        told = {"database": str(address), "store": made.store, "mount_id": made.mount_id}
        tell_json(told | {"created": made.created, "role": role or None})
        return
    tell_lines(
        f"{address}: made, with the object store {made.store}\n"
        "Name both in a configuration, as metadata.url and glacier.url, and mount it:\n"
        "  memfs mount -c FILE MOUNTPOINT"
    )
