"""`memfs migrate`."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.errors import DatabaseError, DisconnectedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.terminal import tell_json, tell_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.config import Config
    from memfs.metadata.shared.client import Client

_SCHEMES = ("postgresql://", "postgres://")


@click.command()
@click.argument("source")
@click.argument("target", required=False)
@click.option(
    "-c", "--config", type=GivenPath(), metavar="FILE", help="TOML file, which may have the URL."
)
@AS_JSON
def migrate(source: str, target: str | None, config: Path | None, as_json: bool) -> None:
    """Move the names of a mount from its state directory into a PostgreSQL database.

    \b
    memfs umount /mnt/data
    memfs format postgresql://memfs@db/memfs --store s3://bucket/prefix
    memfs migrate /var/lib/memfs/mnt-data postgresql://memfs@db/memfs
    memfs mount -c FILE --state /var/lib/memfs/mnt-data /mnt/data

    SOURCE is the state directory, which must not be mounted. TARGET is the database, or FILE names
    it by metadata.url; it was made by `memfs format` for the object store of this mount. From then
    on the configuration has metadata.url and glacier.url: other machines can read the mount.

    The state directory stays where it is, with all bytes and caches. All rows are copied, and then
    compared, before it is marked as that of the machine that writes. Until then nothing of it is
    changed. Whatever ends this command, run it again: it goes on with what is missing.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    from memfs.config_file import load_config

    loaded = load_config(config)
    url = target if target is not None else loaded.metadata.url
    if source.startswith(_SCHEMES):
        raise click.UsageError("SOURCE is a state directory.")
    if url is None:
        raise click.UsageError("Name the database, by its URL or by a configuration that has it.")
    _move_in(Path(source), url, loaded, as_json=as_json)


def _move_in(state: Path, url: str, config: Config, *, as_json: bool) -> None:
    # Imported here: the client of the database takes a tenth of a second, as the engine does.
    from memfs.metadata.shared.moving_in import MovingIn
    from memfs.metadata.sqlite.engine import SqliteEngine
    from memfs_daemon.state_dir import require_state
    from memfs_daemon.state_lock import StateLock
    from memfs_tools.display import progress_bar

    require_state(state, shared=True)
    with (
        StateLock(state, None),
        _connected(url, config) as (client, database),
        contextlib.closing(SqliteEngine.open(state, config.metadata, shared=True)) as engine,
        progress_bar(hidden=as_json) as show,
        _explained(database),
    ):
        name = config.nodes.name or socket.gethostname()
        moved = MovingIn(engine, state, client, database, name, show=show).run()
    if as_json:
        tell_json({"state": str(state), "database": database} | moved._asdict())
        return
    if not moved.row_count:
        tell_lines(f"{state}: its names are in {database} already, as those of node {moved.node}")
        return
    tell_lines(
        f"{state}: {format_count(moved.row_count, 'row')} of names are in {database}, compared row "
        f"by row ({moved.sent_count} sent now)\n"
        f"Name the database as metadata.url, and mount it again, as node {moved.node}:\n"
        f"  memfs mount -c FILE --state {state} MOUNTPOINT"
    )


@contextlib.contextmanager
def _connected(url: str, config: Config) -> Iterator[tuple[Client, str]]:
    """Yield a connection to a database with a mount, and what messages call it."""
    from memfs.metadata.shared import schema
    from memfs.metadata.shared.address import Address
    from memfs.metadata.shared.client import Client

    address = Address.parse(url, os.environ)
    try:
        client = Client.connect(address)
    except DisconnectedError as error:
        raise UsageError(
            f"{error}; see that the server runs and lets you in, as psql does with this URL",
            ExitCode.NO_ANSWER,
        ) from None
    with contextlib.closing(client):
        if config.glacier.url is not None:
            schema.check(client, str(address), config.glacier.url)
        yield client, str(address)


@contextlib.contextmanager
def _explained(database: str) -> Iterator[None]:
    """Say what is to be done after a database has refused, or has not answered."""
    try:
        yield
    except (DatabaseError, DisconnectedError) as error:
        raise UsageError(
            f"{database}: {error}; run the same command again, which goes on", ExitCode.NO_ANSWER
        ) from None
