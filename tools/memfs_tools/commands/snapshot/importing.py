"""`memfs snapshot import`."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from memfs.config_file import load_config
from memfs.encryption.keys import load_keys
from memfs.errors import MemfsError, StoreUnavailableError, UsageError
from memfs.exit_codes import ExitCode
from memfs.exports.importing import Wanted, import_state, list_exports, take_over
from memfs.jobs.automatic_snapshots import SETTINGS_OF_NEW_STATE
from memfs.log_lines import EscapingFormatter
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import read_format
from memfs.metadata.sqlite.importing import require_empty
from memfs.metadata.store_record import recall_store
from memfs.sizes import format_count, format_size
from memfs.stores.packed import PackedStore
from memfs.stores.remote import open_stores, together
from memfs.urls import url_without_secrets
from memfs_daemon.options import parse_options
from memfs_daemon.state_dir import require_state
from memfs_daemon.state_lock import StateLock
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.commands.snapshot.options import show_instant
from memfs_tools.display import progress_bar
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.config import Config
    from memfs.exports.importing import Chosen
    from memfs.stores.store import RemoteStore

_PATHS_SHOWN = 10


@click.command("import")
@click.argument("url", required=False)
@click.option("--state", type=GivenPath(), metavar="DIR", help="The new state directory.")
@click.option("--at", metavar="ID", help="Which export; by default the newest.")
@click.option("-c", "--config", type=GivenPath(), metavar="FILE", help="TOML file.")
@click.option("-o", "options", multiple=True, metavar="KEY=VALUE", help="As of `memfs mount`.")
@click.option("--list", "only_list", is_flag=True, help="Only list the exports in the store.")
@click.option("--take-over", "takes", is_flag=True, help="The former state is gone for good.")
@click.option(
    "--without",
    "without",
    multiple=True,
    metavar="STORE",
    help="With --take-over: leave a named store that is not configured to the former state.",
)
@click.option(
    "--trust-sources",
    "trusts",
    is_flag=True,
    help="Read adopted files from wherever an export in clear says.",
)
@AS_JSON
def import_(
    url: str | None,
    state: Path | None,
    at: str | None,
    config: Path | None,
    options: tuple[str, ...],
    only_list: bool,
    takes: bool,
    without: tuple[str, ...],
    trusts: bool,
    as_json: bool,
) -> None:
    """Make a state directory of an export in an object store, on any machine.

    \b
    memfs snapshot import s3://bucket/data --state /var/lib/memfs/data -c data.toml
    memfs mount --state /var/lib/memfs/data -c data.toml /mnt/data
    memfs snapshot import --take-over --state /var/lib/memfs/data -c data.toml

    URL is the glacier.url of the mount that has exported; by default that of the configuration,
    which also has the credentials, and the keys where the mount encrypts. The files have their
    names and attributes at once, and their bytes are read from the store on demand.

    The former state may still live, so nothing in the store is changed: what is written stays on
    this machine. --take-over makes the store this state's own, here or later, while it is not
    mounted; the former state is refused from then on.

    Files of named stores are read once the configuration has these stores: the sections that it
    lacks are told. Adopted files are read from their sources. An export in clear whose sources are
    no buckets needs --trust-sources.

    An export that is damaged is passed over for the one before, and that is told.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("memfs: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    loaded = _with_url(load_config(config, parse_options(options).overrides), url)
    try:
        if only_list:
            trio.run(_list, loaded, as_json)
            return
        if state is None:
            raise click.UsageError("Name the state directory with --state.")
        if takes and url is None and read_format(state) is not None:
            trio.run(_take_over, state, loaded, without)
            tell(f"{state}: the store is its own now")
            return
        _import(state, loaded, at, without, takes=takes, trusts=trusts, as_json=as_json)
    except StoreUnavailableError as error:
        raise UsageError(str(error), ExitCode.NO_ANSWER) from error


def _with_url(config: Config, url: str | None) -> Config:
    """Return the configuration with the URL of the store."""
    known = config.glacier.url
    if url is None and known is None:
        raise click.UsageError("Name the URL of the object store, or a configuration that has it.")
    if url is not None and known is not None and url.rstrip("/") != known.rstrip("/"):
        raise UsageError(
            f"the configuration has glacier.url = {known!r}, and {url!r} is to be imported: name "
            "one of the two"
        )
    return replace(config, glacier=replace(config.glacier, enabled=True, url=known or url))


def _import(
    state: Path,
    config: Config,
    at: str | None,
    without: tuple[str, ...],
    *,
    takes: bool,
    trusts: bool,
    as_json: bool,
) -> None:
    require_empty(state)
    made = not state.exists()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with StateLock(state, None), progress_bar(hidden=as_json) as show:
            chosen = trio.run(_run, state, config, at, trusts, show)
    except BaseException:
        if made:
            _remove_empty(state)
        raise
    if takes:
        trio.run(_take_over, state, config, without)
    for sentence in chosen.passed_over:
        complain(sentence)
    _tell(chosen, state, config, takes=takes, as_json=as_json)


def _remove_empty(state: Path) -> None:
    try:
        (state / "lock").unlink(missing_ok=True)
        state.rmdir()
    except OSError:
        return


async def _run(
    state: Path,
    config: Config,
    at: str | None,
    trusts: bool,
    show: Callable[[str, int, int], None],
) -> Chosen:
    keys = load_keys(config, os.environ)
    remote = _open_default(config, state / "glacier")
    encrypted = bool(config.encryption.keys) and config.encryption.remote
    assert config.glacier.url is not None
    try:
        url, settings = config.glacier.url, SETTINGS_OF_NEW_STATE
        stores = frozenset(config.stores)
        wanted = Wanted(remote, url, keys, state, at, encrypted, settings, stores, trusts)
        return await import_state(wanted, show)
    finally:
        await remote.aclose()


def _open_default(config: Config, default_dir: Path) -> RemoteStore:
    """Return the store that exports are in."""
    return open_stores(replace(config, stores={}), default_dir, os.environ)[""]


async def _take_over(state: Path, config: Config, without: tuple[str, ...]) -> None:
    require_state(state)
    opened = open_stores(config, state / "glacier", os.environ)
    try:
        with StateLock(state, None):
            engine = SqliteEngine.open(state, config.metadata)
            try:
                known = await recall_store(engine)
                if known is not None and known != config.glacier.url:
                    raise UsageError(
                        f"{state} was imported from {known}, not from {config.glacier.url}"
                    )
                await take_over(engine, opened, PackedStore(state).temporary_path, without=without)
            finally:
                engine.close()
    finally:
        await together(opened).aclose()


async def _list(config: Config, as_json: bool) -> None:
    remote = _open_default(config, Path())
    try:
        found = [str(each) for each in await list_exports(remote)]
    except MemfsError as error:
        raise UsageError(str(error), ExitCode.PROBLEMS) from error
    finally:
        await remote.aclose()
    if as_json:
        tell_json(found)
        return
    for each in found:
        tell(each)


def _tell(chosen: Chosen, state: Path, config: Config, *, takes: bool, as_json: bool) -> None:
    description, imported = chosen.description, chosen.imported
    if as_json:
        tell_json(
            {
                "export": str(chosen.export),
                "created_ns": description.created_ns,
                "inodes": imported.usage.inode_count,
                "files": description.file_count,
                "bytes": imported.usage.logical_bytes,
                "missing_count": imported.missing_count,
                "missing_bytes": imported.missing_bytes,
                "missing": [os.fsdecode(path) for path in imported.missing_paths],
                "passed_over": list(chosen.passed_over),
                "taken_over": takes,
                "indexes": list(imported.indexes),
                "stores": [
                    {
                        "name": each.name,
                        "url": each.url,
                        "objects": each.object_count,
                        "configured": each.name in config.stores,
                        "section": each.section,
                    }
                    for each in chosen.stores
                ],
                "sources": [
                    {"url": each.url, "watch_s": each.watch_s, "deleted": each.deleted.value}
                    for each in description.sources
                ],
            }
        )
        return
    tell(
        f"{state}: export {chosen.export} of {show_instant(description.created_ns)}: "
        f"{format_count(description.file_count, 'file')}, "
        f"{format_size(imported.usage.logical_bytes)}"
    )
    if imported.missing_count:
        tell(
            f"{format_count(imported.missing_count, 'file')}, "
            f"{format_size(imported.missing_bytes)}, had no object in the store, "
            "and their bytes are lost:"
        )
        for path in imported.missing_paths[:_PATHS_SHOWN]:
            tell(f"  {os.fsdecode(path)}")
        if imported.missing_count > _PATHS_SHOWN:
            tell(f"  and {imported.missing_count - _PATHS_SHOWN} more; --json has the first 1000")
    for source in description.sources:
        tell(f"adopted files are read from {source.url}")
    if imported.indexes:
        tell(f"the mount builds the indexes of {', '.join(imported.indexes)}")
    _tell_stores(chosen, config)
    if not takes:
        tell(
            f"nothing in {config.glacier.url} is changed until "
            f"`memfs snapshot import --take-over --state {state}`"
        )


def _tell_stores(chosen: Chosen, config: Config) -> None:
    """Say what the configuration lacks."""
    missing = []
    for each in chosen.stores:
        configured = config.stores.get(each.name)
        if configured is None:
            missing.append(each)
            continue
        known = url_without_secrets(configured.url or "").rstrip("/")
        if each.url and known != each.url.rstrip("/"):
            complain(
                f"stores.{each.name}.url is {known}, and was {each.url} when the state was "
                "exported: objects that are there alone cannot be read"
            )
    if not missing:
        return
    tell("the configuration lacks stores; add them, with their credentials and keys:")
    for each in missing:
        count = format_count(each.object_count, "object")
        for line in ("", f"# {count} of these files", *each.section.splitlines(), ""):
            tell(line)
