"""`memfs node`: the machines that take part in a mount whose names are in a database."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

import click

from memfs.errors import DisconnectedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.sizes import format_count, format_duration, format_size
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.shared.client import Client
    from memfs.metadata.shared.node_table import NodeReport

_CONFIG = click.option(
    "-c", "--config", type=GivenPath(), metavar="FILE", help="TOML file that has metadata.url."
)


@click.group()
def node() -> None:
    """Look after the machines that take part in one mount.

    \b
    memfs node list -c /etc/memfs.toml

    Its names are in a PostgreSQL database, which these commands ask: no daemon has to run.
    """  # noqa: D301 - \b is for click: keep the lines below as they are


@node.command("list")
@click.argument("url", required=False)
@_CONFIG
@AS_JSON
def list_nodes(url: str | None, config: Path | None, as_json: bool) -> None:
    """Show which machines write and read a mount, and how far behind each is.

    \b
    memfs node list -c /etc/memfs.toml
    memfs node list postgresql://memfs@db/memfs

    One node writes, and all others read. A node is `live` as long as the changes that it needs are
    kept. It is `behind` when it was away for longer than nodes.keep_changes, and `left` when
    somebody has removed it: it then copies all names anew at its next mount.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    from memfs.metadata.shared import node_table

    with _connected(url, config) as (client, name):
        found = node_table.list_nodes(client, name)
    if as_json:
        tell_json([each._asdict() for each in found])
        return
    if not found:
        tell(f"{name}: no machine has mounted it yet")
    for each in found:
        tell(f"{each.name}: {_state(each)}")
        heard = format_duration(max(each.heard_s, 0))
        tell(f"  heard of {heard} ago, epoch {each.epoch}, memfs {each.version}")
        if each.address:
            tell(f"  answers other nodes at {each.address}")


@node.command()
@click.argument("name")
@click.argument("url", required=False)
@_CONFIG
def forget(name: str, url: str | None, config: Path | None) -> None:
    """Remove a machine that reads and that will not come back.

    \b
    memfs node forget gpu-07 -c /etc/memfs.toml

    The database keeps changes for it until then, for nodes.keep_changes at most, and its name is
    taken. Nothing is lost: should it come back after all, it copies all names anew. One that is
    mounted is refused, and so is the one that writes.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    from memfs.metadata.shared import node_table

    with _connected(url, config) as (client, database):
        node_table.forget(client, database, name)
    tell(f"{name}: removed from {database}")


@node.command()
@click.argument("name")
@click.argument("url", required=False)
@_CONFIG
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Go on where files are lost, of which the present writer alone has the bytes.",
)
@AS_JSON
def promote(
    name: str, url: str | None, config: Path | None, accept_loss: bool, as_json: bool
) -> None:
    """Have a machine that reads write, in the place of the one that does.

    \b
    memfs node promote gpu-07 -c /etc/memfs.toml
    # then on gpu-07: role = "writer" in [nodes], and mount again

    The one that writes must be unmounted, or gone: then it is waited for until it has not been
    heard of for 15 seconds. From then on it changes nothing any more, also if it lives on; its
    state directory comes back as one that reads. The others read on meanwhile.

    Files that it had not uploaded are lost, and without --accept-loss nothing is done then: the
    message names them. A barrier before its unmounting leaves no such file:

    \b
    memfs barrier --level remote /mnt/data
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    from memfs.metadata.shared import node_table

    with _connected(url, config) as (client, database):
        node_table.await_silence(client, database, complain)
        loss = node_table.promote(
            client, database, name, accept_loss=accept_loss, rng=random.SystemRandom()
        )
    if as_json:
        tell_json(loss._asdict())
        return
    if loss.file_count:
        tell(
            f"{format_count(loss.file_count, 'file')} lost, {format_size(loss.size_bytes)} and "
            f"{loss.open_count} being written: {', '.join(loss.paths)}"
        )
    if loss.kept_count:
        contents = format_count(loss.kept_count, "former content")
        tell(f"{contents} of files lost, which snapshots had")
    tell(
        f'{name}: writes from its next mount on; write role = "writer" in [nodes] there, and mount '
        "again"
    )


@node.command()
@click.argument("url", required=False)
@_CONFIG
@AS_JSON
def check(url: str | None, config: Path | None, as_json: bool) -> None:
    """Check the tables in the database against each other; changes nothing.

    \b
    memfs node check -c /etc/memfs.toml

    Names lead to inodes, directories hang together without a loop, counts of links, forms, batches
    and snapshots are right, and the changes that machines need are kept: all as of one instant,
    while machines go on. At most 20 sentences are told of each kind of damage.

    Exits with 0 if all is well, and 1 if not. `memfs fsck` compares a machine with these tables.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    from memfs.metadata.shared import invariants, node_table, schema
    from memfs_tools.display import progress_bar

    with _connected(url, config) as (client, database):
        schema.find_mount(client, database)
        if (writer := node_table.find_writer(client)) is not None:
            node_table.require_whole(database, writer)
        with progress_bar(hidden=as_json) as show:
            damage = invariants.find_damage(client, show)
    if as_json:
        tell_json({"clean": not damage, "damage": [each._asdict() for each in damage]})
    else:
        for each in damage:
            for sentence in each.sentences:
                tell(sentence)
            if each.has_more:
                tell(f"and more of this kind: {each.kind}")
        verdict = f"{format_count(len(damage), 'kind')} of damage" if damage else "clean"
        tell(f"{database}: {verdict}")
    if damage:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


@node.command()
@click.argument("directory", type=GivenPath())
@click.argument("url", required=False)
@_CONFIG
@AS_JSON
def export(directory: Path, url: str | None, config: Path | None, as_json: bool) -> None:
    """Write each table of the database to a Parquet file, all as of one instant.

    \b
    memfs node export /data/names -c /etc/memfs.toml
    duckdb -c "select count(*) from '/data/names/dentry.parquet'"

    Machines go on meanwhile. DIRECTORY is new or empty, and has all tables when the command is
    done: it gets its name at the end. Names and values of xattrs are bytes. It needs the extra
    `traces` (pyarrow). For a mount that comes back from the object store there is
    `memfs snapshot export`.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    from memfs.metadata.shared import node_table, schema
    from memfs_tools.display import progress_bar

    try:
        from memfs_tools import parquet_tables
    except ImportError as missing:
        raise UsageError(
            f"Parquet files need pyarrow ({missing}): pip install 'memfs-tiers[traces]'"
        ) from None
    parquet_tables.require_empty(directory)
    with _connected(url, config) as (client, database):
        schema.find_mount(client, database)
        if (writer := node_table.find_writer(client)) is not None:
            node_table.require_whole(database, writer)
        with progress_bar(hidden=as_json) as show:
            counts = parquet_tables.write_tables(
                client, directory, lambda table, count: show(table, count, 0)
            )
    if as_json:
        tell_json({"directory": str(directory), "rows": counts})
        return
    rows = format_count(sum(counts.values()), "row")
    tell(f"{directory}: {format_count(len(counts), 'table')}, {rows}")


@contextlib.contextmanager
def _connected(url: str | None, config: Path | None) -> Iterator[tuple[Client, str]]:
    """Yield a connection to the database of a mount, and what messages call it."""
    # Imported here: the client of the database takes a tenth of a second.
    from memfs.metadata.shared.address import Address
    from memfs.metadata.shared.client import Client

    address = Address.parse(_url(url, config), os.environ)
    try:
        client = Client.connect(address)
    except DisconnectedError as error:
        raise UsageError(
            f"{error}; see that the server runs and lets you in, as psql does with this URL",
            ExitCode.NO_ANSWER,
        ) from None
    with contextlib.closing(client):
        yield client, str(address)


def _url(url: str | None, config: Path | None) -> str:
    """Return the URL of the database that a command is about."""
    if url is not None and config is None:
        return url
    if url is not None or config is None:
        raise click.UsageError("name the database by its URL, or else a configuration by -c")
    from memfs.config_file import load_config

    found = load_config(config).metadata.url
    if found is None:
        raise UsageError(f"{config} has no metadata.url: the names of its mount are in no database")
    return found


def _state(node: NodeReport) -> str:
    if node.role == "writer" and node.state == "left":
        return 'is to write, once it is mounted with role = "writer"; no node writes now'
    if node.role == "writer" and node.state == "behind":
        if node.epoch:
            return "has its names alone: they have moved out of this database (memfs migrate)"
        return "its names are on their way to this database: memfs migrate goes on"
    if node.role == "writer":
        ended = ", unmounted" if node.has_ended else ""
        return f"writes, {format_count(node.applied, 'change')} so far{ended}"
    if node.state != "live":
        return f"reads, {node.state}"
    if not node.behind_count:
        return "reads, live, has all changes"
    lacks = f"reads, live, lacks {format_count(node.behind_count, 'change')}"
    if node.behind_s is None:
        return lacks
    return f"{lacks}, the oldest of {format_duration(max(node.behind_s, 0))} ago"
