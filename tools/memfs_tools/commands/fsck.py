"""`memfs fsck`."""

from __future__ import annotations

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
from memfs.errors import MemfsError, StoreUnavailableError, UsageError
from memfs.exit_codes import ExitCode
from memfs.fsck.accept import Change, accept_changes, find_change
from memfs.fsck.check import check
from memfs.fsck.repair import Repaired, repair
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
    from memfs.fsck.report import Progress, Report


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

    --repair is for a state directory that the mount refuses as damaged. It copies the metadata to
    lost+found/, applies all entries of the journals that join, makes what is left agree, says what
    is lost, and moves files without a record to lost+found/. A backup of the metadata has more.

    --accept is for a raw file that you edited, or took from a backup without its times, which reads
    as damaged. FILE is its path in the mount, its raw file's path, or that file's number. It shows
    what the metadata tell and what is there, asks, and begins a new generation of the file; its
    packed and remote forms are removed after the next mount. It can be given several times.

    Exits with 0 if all is well, 1 if not, and 8 if the object store cannot be reached. Where the
    store is not the local default, name the configuration that the mount uses.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("memfs: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    loaded = load_config(config, parse_options(options).overrides)
    if not mends:
        require_state(state)
    elif not state.is_dir():
        raise UsageError(f"{state} is no directory", ExitCode.STATE_UNUSABLE)
    repaired = None
    if yes and not accepted:
        raise UsageError("--yes goes with --accept", ExitCode.USAGE)
    with StateLock(state, None), progress_bar(hidden=as_json) as progress:
        try:
            if mends:
                repaired = trio.run(_repair, state, loaded)
            if accepted:
                trio.run(_accept, state, loaded, accepted, yes)
            report = trio.run(partial(_check, state, loaded, verify=verify, progress=progress))
        except UsageError:
            raise
        except StoreUnavailableError as error:
            raise UsageError(f"{state}: {error}", ExitCode.NO_ANSWER) from error
        except MemfsError as error:
            raise UsageError(f"{state}: {error}", ExitCode.STATE_UNUSABLE) from error
    _show(report, repaired, state, as_json=as_json)
    if not report.clean:
        raise click.exceptions.Exit(ExitCode.PROBLEMS)


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


async def _check(state: Path, config: Config, *, verify: bool, progress: Progress) -> Report:
    keys = load_keys(config, os.environ)
    opened = open_stores(config, state / "glacier", os.environ)
    remote = together(opened) if opened else None
    raw_store = RawStore(state)
    try:
        engine = SqliteEngine.open(state, config.metadata)
        sources = Sources(engine, partial(open_store, config, os.environ))
        try:
            await _require_stores(engine, config)
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
            )
        finally:
            await sources.aclose()
            engine.close()
    finally:
        raw_store.close()
        if remote is not None:
            await remote.aclose()


async def _require_stores(engine: SqliteEngine, config: Config) -> None:
    """See that the stores are those of the last mount: every object would seem lost otherwise."""
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
            "store"
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
    verdict = "clean" if report.clean else format_count(len(report.problems), "problem")
    checked = (
        f"{format_count(report.file_count, 'file')}, {format_count(report.form_count, 'form')}"
    )
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
