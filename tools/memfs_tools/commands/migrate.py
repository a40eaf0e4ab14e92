"""`memfs migrate`."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memfs.errors import DatabaseError, DisconnectedError, MemfsError, UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.terminal import tell_json, tell_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.config import Config
    from memfs.metadata.shared.client import Client
    from memfs.metadata.sqlite.engine import SqliteEngine

_SCHEMES = ("postgresql://", "postgres://")


@click.command()
@click.argument("source")
@click.argument("target", required=False)
@click.option(
    "-c", "--config", type=GivenPath(), metavar="FILE", help="TOML file, which may have the URL."
)
@AS_JSON
def migrate(source: str, target: str | None, config: Path | None, as_json: bool) -> None:
    """Move the names of a mount into a PostgreSQL database, or back to its state directory alone.

    \b
    memfs umount /mnt/data
    memfs format postgresql://memfs@db/memfs --store s3://bucket/prefix
    memfs migrate /var/lib/memfs/mnt-data postgresql://memfs@db/memfs
    memfs mount -c FILE --state /var/lib/memfs/mnt-data /mnt/data

    The state directory must not be mounted; it stays where it is, with all bytes and caches. The
    database, which FILE can name by metadata.url instead, was made by `memfs format` for the object
    store of this mount. From then on the configuration has metadata.url and glacier.url, and other
    machines can read the mount.

    All rows are copied and then compared, before the state directory is marked as that of the
    machine that writes. Until then nothing of it is changed.

    \b
    memfs migrate postgresql://memfs@db/memfs /var/lib/memfs/mnt-data

    The way back is for the state directory of the machine that writes, once nobody has the mount
    any more. All rows are compared; then the configuration has no metadata.url any longer. The
    database keeps its tables, which no machine can mount again: its owner drops them.

    Whatever ends this command, run it again: it goes on with what is missing.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    from memfs.config_file import load_config

    loaded = load_config(config)
    if source.startswith(_SCHEMES):
        if target is None or target.startswith(_SCHEMES):
            raise click.UsageError("Name the state directory behind the database.")
        _move_out(Path(target), source, loaded, as_json=as_json)
        return
    url = target if target is not None else loaded.metadata.url
    if url is None:
        raise click.UsageError("Name the database, by its URL or by a configuration that has it.")
    _move_in(Path(source), url, loaded, as_json=as_json)


def _move_in(state: Path, url: str, config: Config, *, as_json: bool) -> None:
    from memfs.metadata.shared.moving_in import MovingIn
    from memfs_tools.display import progress_bar

    with _opened(state, url, config) as opened, progress_bar(hidden=as_json) as show:
        name = config.nodes.name or socket.gethostname()
        engine, client, database = opened
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


def _move_out(state: Path, url: str, config: Config, *, as_json: bool) -> None:
    from memfs.metadata.shared.moving_out import MovingOut
    from memfs_tools.display import progress_bar

    with _opened(state, url, config) as opened, progress_bar(hidden=as_json) as show:
        engine, client, database = opened
        rng = random.SystemRandom()
        moved = MovingOut(engine, state, client, database, rng, show=show).run()
    if as_json:
        tell_json({"state": str(state), "database": database} | moved._asdict())
        return
    rows = format_count(moved.row_count, "row")
    how = f", compared row by row with {database} ({rows})" if moved.row_count else ""
    tell_lines(
        f"{state}: has its names alone{how}\n"
        "Take metadata.url out of the configuration, and mount it again:\n"
        f"  memfs mount -c FILE --state {state} MOUNTPOINT\n"
        f"{database} keeps its tables, and no machine can mount them: drop them when you like"
    )
    for reader in moved.readers:
        tell_lines(f"node {reader} cannot read this mount any more: remove its state directory")


@contextlib.contextmanager
def _opened(state: Path, url: str, config: Config) -> Iterator[tuple[SqliteEngine, Client, str]]:
    """Yield the engine of a state directory, and a connection to a database with its name."""
    # Imported here: the client of the database takes a tenth of a second, as the engine does.
    from memfs.metadata.sqlite.engine import SqliteEngine
    from memfs_daemon.state_dir import require_state
    from memfs_daemon.state_lock import StateLock

    require_state(state, shared=True)
    with (
        StateLock(state, None),
        _connected(url, config) as (client, database),
        _explained(state, database),
        contextlib.closing(SqliteEngine.open(state, config.metadata, shared=True)) as engine,
    ):
        yield engine, client, database


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
def _explained(state: Path, database: str) -> Iterator[None]:
    """Say what is to be done after a database has refused or not answered, or a disk."""
    try:
        yield
    except (DatabaseError, DisconnectedError) as error:
        raise UsageError(
            f"{database}: {error}; run the same command again, which goes on", ExitCode.NO_ANSWER
        ) from None
    except UsageError:
        raise
    except MemfsError as error:
        raise UsageError(f"{state}: {error}", ExitCode.STATE_UNUSABLE) from error
