"""`memfs fsck`."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import click
import trio

from memfs.config_file import load_config
from memfs.content.sources import Sources, open_store
from memfs.encryption.keys import load_keys
from memfs.errors import (
    DatabaseError,
    DisconnectedError,
    MemfsError,
    StoreUnavailableError,
    UsageError,
)
from memfs.exit_codes import ExitCode
from memfs.fsck.accept import Change, accept_changes, find_change
from memfs.fsck.check import check
from memfs.fsck.membership import read_membership, refuse_changes
from memfs.fsck.repair import Repaired, repair
from memfs.fsck.report import ALONE
from memfs.log_lines import EscapingFormatter
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.store_record import describe_store, recall_store
from memfs.sizes import format_count
from memfs.stores.lost_found import DIRECTORY_NAME, LostFound
from memfs.stores.packed import PackedStore
from memfs.stores.raw import RawStore
from memfs.stores.remote import open_stores, together
from memfs_daemon.options import parse_options
from memfs_daemon.state_dir import require_state
from memfs_daemon.state_lock import StateLock
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.display import progress_bar
from memfs_tools.terminal import complain, tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.config import Config
    from memfs.fsck.node import NodeCheck
    from memfs.fsck.report import NodeReport, Progress, Report
    from memfs.metadata.shared.node_file import Membership


@click.command()
@click.argument("state", type=GivenPath())
@click.option("-c", "--config", type=GivenPath(), metavar="FILE", help="TOML file.")
@click.option("-o", "options", multiple=True, metavar="KEY=VALUE", help="As of `memfs mount`.")
@click.option("--verify", is_flag=True, help="Read packed and remote files whole; takes long.")
@click.option("--repair", "mends", is_flag=True, help="Rebuild damaged metadata first.")
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    metavar="FILE",
    help="Take a raw file that was changed by hand for the file's content.",
)
@click.option("--yes", is_flag=True, help="With --accept: do not ask.")
@AS_JSON
def fsck(
    state: Path,
    config: Path | None,
    options: tuple[str, ...],
    verify: bool,
    mends: bool,
    accepted: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Check a state directory that is not mounted; changes nothing without --repair or --accept.

    \b
    memfs fsck /var/lib/memfs/mnt-data
    memfs fsck --verify -c /etc/memfs/data.toml /var/lib/memfs/mnt-data
    memfs fsck --repair /var/lib/memfs/mnt-data
    memfs fsck --accept models/a.bin /var/lib/memfs/mnt-data
    memfs fsck -c /etc/memfs/shared.toml /var/lib/memfs/mnt-shared

    Where the names are in PostgreSQL (metadata.url in the configuration), each row of the tables
    is compared with that of the database. It is said what could not be compared, and why: changes
    that one side lacks are no damage. --repair and --accept are refused there, with what to do
    instead.

    --repair is for a state directory that the mount refuses as damaged. It copies the metadata to
    lost+found/, applies all entries of the journals that join, makes what is left agree, says what
    is lost, and moves files without a record to lost+found/. A backup of the metadata has more.

    --accept is for a raw file that you edited, or took from a backup without its times, which reads
    as damaged. FILE is its path in the mount, its raw file's path, or that file's number. It shows
    what the metadata tell and what is there, asks, and begins a new generation of the file; its
    packed and remote forms are removed after the next mount. It can be given several times.

    Exits with 0 if all is well, 1 if not, and 8 if the object store or the database cannot be
    reached. Where the store is not the local default, name the configuration that the mount uses.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("memfs: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    loaded = load_config(config, parse_options(options).overrides)
    if mends and not state.is_dir():
        raise UsageError(f"{state} is no directory", ExitCode.STATE_UNUSABLE)
    node = _read_node(state, "--repair" if mends else "--accept" if accepted else "")
    if not mends:
        require_state(state, shared=node is not None)
    repaired = None
    if yes and not accepted:
        raise UsageError("--yes goes with --accept", ExitCode.USAGE)
    with StateLock(state, None), progress_bar(hidden=as_json) as progress:
        try:
            if mends:
                repaired = trio.run(_repair, state, loaded)
            if accepted:
                trio.run(_accept, state, loaded, accepted, yes)
            report = trio.run(
                partial(_check, state, loaded, node, verify=verify, progress=progress)
            )
        except UsageError:
            raise
        except StoreUnavailableError as error:
            raise UsageError(f"{state}: {error}", ExitCode.NO_ANSWER) from error
        except MemfsError as error:
            raise UsageError(f"{state}: {error}", ExitCode.STATE_UNUSABLE) from error
    _show(report, repaired, state, as_json=as_json)
    if not report.clean:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)
    if not report.is_answered:
        raise click.exceptions.Exit(ExitCode.NO_ANSWER)


def _read_node(state: Path, option: str) -> Membership | None:
    """Return which node of a shared mount a state directory is; None: it is not one.

    Args:
        state: The directory.
        option: What would change it; empty: nothing.

    Raises:
        UsageError: It is one, and would be changed.
    """
    try:
        known = read_membership(state)
    except MemfsError as error:
        raise UsageError(str(error), ExitCode.STATE_UNUSABLE) from error
    if known is not None and option:
        raise refuse_changes(state, known, option)
    return known


async def _repair(state: Path, config: Config) -> Repaired:
    raw_store = RawStore(state)
    try:
        return await repair(
            state,
            config.metadata,
            raw_store,
            PackedStore(state),
            LostFound(state),
            time.time_ns(),
        )
    finally:
        raw_store.close()


async def _accept(state: Path, config: Config, names: tuple[str, ...], yes: bool) -> None:
    raw_store = RawStore(state)
    try:
        engine = SqliteEngine.open(state, config.metadata)
        try:
            changes = [await find_change(engine, raw_store, name) for name in dict.fromkeys(names)]
            wanted = [change for change in changes if change.differs]
            for change in changes:
                complain(_describe(change))
            if wanted and not yes:
                _ask(len(wanted))
            await accept_changes(engine, wanted)
        finally:
            engine.close()
    finally:
        raw_store.close()


def _describe(change: Change) -> str:
    if not change.differs:
        return f"{change.path}: {change.raw_path} is as the metadata tell: nothing to accept"
    before = f"{change.size_before} bytes of {_show_time(change.mtime_ns_before)}"
    now = f"{change.size} bytes of {_show_time(change.mtime_ns)}"
    lost = f"; {change.form_count} packed or remote forms are removed" if change.form_count else ""
    return f"{change.path}: {change.raw_path} has {now} instead of {before}{lost}"


def _show_time(time_ns: int) -> str:
    moment = datetime.datetime.fromtimestamp(time_ns // 10**9, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns % 10**9:09} UTC"


def _ask(count: int) -> None:
    """Return if the user agrees."""
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here: add --yes", ExitCode.USAGE)
    what = "this file" if count == 1 else f"these {count} files"
    if not click.confirm(f"Take what is there for the content of {what}?", err=True):
        raise UsageError("nothing was changed", ExitCode.USAGE)


async def _check(
    state: Path,
    config: Config,
    known: Membership | None,
    *,
    verify: bool,
    progress: Progress,
) -> Report:
    keys = load_keys(config, os.environ)
    opened = open_stores(config, state / "glacier", os.environ)
    remote = together(opened) if opened else None
    raw_store = RawStore(state)
    try:
        node, remedies = None, ALONE
        if known is None:
            engine = SqliteEngine.open(state, config.metadata)
        else:
            # What it needs is installed where there are such nodes.
            from memfs.fsck.node import NodeCheck, open_node

            engine = open_node(state, known, config.metadata)
        sources = Sources(engine, partial(open_store, config, os.environ))
        try:
            if config.metadata.url is None:
                # A mount without metadata.url refuses the directory of a node with this status.
                code = ExitCode.USAGE if known is None else ExitCode.STATE_UNUSABLE
                await _require_stores(engine, config, code)
            if known is not None:
                check_of_node = NodeCheck(state, known, engine)
                node = _compare(check_of_node, config, progress)
                remedies = check_of_node.remedies
            return await check(
                engine,
                raw_store,
                PackedStore(state),
                remote,
                verify=verify,
                progress=progress,
                keys=keys,
                stores=[*opened],
                sources=sources,
                node=node,
                remedies=remedies,
            )
        finally:
            await sources.aclose()
            engine.close()
    finally:
        raw_store.close()
        if remote is not None:
            await remote.aclose()


def _compare(node: NodeCheck, config: Config, progress: Progress) -> NodeReport:
    """Compare a node with the database of its mount, if that answers.

    Raises:
        UsageError: The configuration is that of another mount.
    """
    url = config.metadata.url
    if url is None:
        return node.run_alone(
            "name the mount's configuration, which has metadata.url, with -c", is_answered=True
        )
    from memfs.metadata.shared import schema
    from memfs.metadata.shared.address import Address
    from memfs.metadata.shared.client import Client

    address = Address.parse(url, os.environ)
    try:
        with contextlib.closing(Client.connect(address)) as client:
            mount = schema.check(client, str(address), config.glacier.url)
            return node.run(client, mount, str(address), progress)
    except (DatabaseError, DisconnectedError) as error:
        return node.run_alone(str(error), is_answered=False)


async def _require_stores(engine: SqliteEngine, config: Config, code: ExitCode) -> None:
    """See that the stores are those of the last mount: every object would seem lost otherwise.

    Raises:
        UsageError: They are others; with this exit status.
    """
    if not config.glacier.enabled:
        return
    for name in ("", *config.stores):
        last, url = await recall_store(engine, name), config.store(name).url or ""
        if last is None or last == url:
            continue
        what = f"the objects of store {name!r}" if name else "the objects"
        raise UsageError(
            f"{what} are in another store than {describe_store(url)}: the last mount had "
            f"{describe_store(last)}; name its configuration with -c, or mount once with the new "
            "store",
            code,
        )


def _show(report: Report, repaired: Repaired | None, state: Path, *, as_json: bool) -> None:
    if as_json:
        content = report._asdict() | {
            "clean": report.clean,
            "problems": [problem._asdict() for problem in report.problems],
        }
        if repaired is not None:
            content["repaired"] = repaired._asdict()
        tell_json(content)
        return
    if repaired is not None:
        _show_repaired(repaired, state)
    for problem in report.problems:
        tell(str(problem))
    for sentence in report.left_out:
        tell(sentence)
    verdict = "clean" if report.clean else format_count(len(report.problems), "problem")
    checked = (
        f"{format_count(report.file_count, 'file')}, {format_count(report.form_count, 'form')}"
    )
    if report.row_count:
        checked += f", {format_count(report.row_count, 'row')} of the database"
    tell(f"{state}: {verdict}; {checked} checked")


def _show_repaired(repaired: Repaired, state: Path) -> None:
    for action in repaired.actions:
        tell(f"repaired: {action}")
    for path in repaired.lost:
        tell(f"lost: {path}: its bytes are gone; restore it from a backup, or remove it")
    for name in repaired.moved:
        tell(f"moved: {state / DIRECTORY_NAME / name} has no record")
    tell(
        f"repair: {format_count(len(repaired.actions), 'fault')}, "
        f"{format_count(len(repaired.lost), 'file')} lost, "
        f"{len(repaired.moved)} moved to lost+found; the metadata as they were: {repaired.copy}"
    )
