"""Importing: a state directory on an empty machine, from an export in the object store.

Files get their names, attributes and places; their bytes stay where they are, to be read on demand.

The new state has the identity of the one that was exported: the objects are its own, encrypted ones
are bound to it, and after a take-over it goes on where that one was. Until then the store belongs
to the former state, which may live: nothing in it is changed (`moves.generation`).

Invariant: what is imported has the digests that the export says, or nothing is; an export that is
damaged is passed over for the one before, and the caller is told so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import (
    CorruptDataError,
    EncryptionKeyError,
    ObjectMissingError,
    StoreUnavailableError,
    UsageError,
)
from memfs.exit_codes import ExitCode
from memfs.exports.description import PREFIX, Description, Done, ExportId, parse_done_key
from memfs.exports.exporter import SETTING as EXPORTS_SETTING
from memfs.exports.exporter import ExportNote, dump_notes, read_done
from memfs.exports.objects import open_sealed
from memfs.metadata.sqlite.creation import NO_SETTINGS
from memfs.metadata.sqlite.importing import StateBuilder
from memfs.metadata.store_record import SETTING as STORE_SETTING
from memfs.moves.faults import FaultPoints
from memfs.moves.generation import SOURCE_SETTING, StateGeneration
from memfs.placement.resident import POOLS_SETTING
from memfs.policy.ages import AGE_SETTING
from memfs.policy.marks import AGES_XATTR, MARKED_SETTING, MARKS, TENSOR_MARKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from memfs.encryption.keys import KeyRing
    from memfs.metadata.local import Local
    from memfs.metadata.sqlite.importing import Imported
    from memfs.stores.store import RemoteStore

AHEAD_COUNT = 2
"""Parts that are fetched before the rows before them are in the tables."""


class Chosen(NamedTuple):
    """What an import has come to."""

    export: ExportId
    description: Description
    imported: Imported
    passed_over: tuple[str, ...]
    """A sentence for each later export that could not be used."""


class Wanted(NamedTuple):
    """What is to be imported, and into what."""

    remote: RemoteStore
    url: str
    """`glacier.url` of the mounts to come."""
    keys: KeyRing
    state_dir: Path
    """Locked by this process."""
    at: str | None = None
    """Which export, as `ExportId` is written, or the state's part of it; None: the newest."""
    encrypted: bool = False
    """Take nothing in clear: the configuration encrypts, and anybody may have written it."""
    settings: Mapping[str, bytes] = NO_SETTINGS
    """Those that a new state has from the beginning."""


async def list_exports(remote: RemoteStore) -> list[ExportId]:
    """Return all complete exports, newest first."""
    parsed = [parse_done_key(stat.key) async for stat in remote.list(PREFIX)]
    return sorted((ExportId(snap, state) for state, snap in filter(None, parsed)), reverse=True)


async def import_state(
    wanted: Wanted, show: Callable[[str, int, int], None], faults: FaultPoints | None = None
) -> Chosen:
    """Make a state directory of an export.

    Raises:
        UsageError: There is no such export, or not one is whole; the directory is not empty; the
            key is not configured.
        StoreError: The store does not answer.
        NoSpaceError: The disk is full.
    """
    remote, faults = wanted.remote, faults or FaultPoints()
    exports = await list_exports(remote)
    candidates = choose(exports, wanted)
    builder = StateBuilder(wanted.state_dir, faults.reach)
    passed_over: list[str] = []
    try:
        for export in candidates:
            try:
                description = await _build(wanted, export, builder, show, faults)
            except EncryptionKeyError as error:
                # Older ones may be complete, but to take one needs the user's word: `--at`.
                raise UsageError("; ".join([*passed_over, str(error)]), ExitCode.PROBLEMS) from None
            except StoreUnavailableError:
                raise
            except (CorruptDataError, ObjectMissingError) as error:
                passed_over.append(f"export {export} cannot be used: {error}")
                continue
            show("making indexes", 0, 0)
            settings = await _settings(wanted, exports, description)
            if await trio.to_thread.run_sync(builder.has_xattrs, (*MARKS, *TENSOR_MARKS)):
                settings[MARKED_SETTING] = b"1"
            if await trio.to_thread.run_sync(builder.has_xattrs, (AGES_XATTR,)):
                # The shortest one is not known: as short as files are looked for.
                settings[AGE_SETTING] = b"0"
            try:
                imported = await trio.to_thread.run_sync(
                    builder.finish, description.state_id, description.next_id, settings
                )
            except CorruptDataError as error:
                passed_over.append(f"export {export} cannot be used: {error}")
                continue
            return Chosen(export, description, imported, tuple(passed_over))
    except BaseException:
        builder.discard()
        raise
    builder.discard()
    raise UsageError(
        f"{wanted.url}: nothing was imported: {'; '.join(passed_over)}", ExitCode.PROBLEMS
    )


def choose(exports: Sequence[ExportId], wanted: Wanted) -> list[ExportId]:
    """Return the exports to try, in order.

    Raises:
        UsageError: There is no such export, or it could be that of several states.
    """
    if not exports:
        raise UsageError(
            f"{wanted.url} has no complete export of memfs: name the glacier.url of the mount that "
            "has exported",
            ExitCode.PROBLEMS,
        )
    if wanted.at is not None:
        found = [each for each in exports if str(each) == wanted.at]
        if not found:
            state, _, snap = wanted.at.partition("-")
            found = [each for each in exports if not snap and str(each).startswith(f"{state}-")]
        if not found:
            told = ", ".join(map(str, exports[:10]))
            raise UsageError(f"{wanted.url} has no export {wanted.at!r}; it has {told}")
        exports = found
    if len({each.state_id for each in exports}) > 1:
        newest = {each.state_id: each for each in reversed(exports)}
        told = ", ".join(map(str, newest.values()))
        raise UsageError(
            f"{wanted.url} has exports of several states: name one with --at; the newest of each: "
            f"{told}"
        )
    return list(exports)


async def _build(
    wanted: Wanted,
    export: ExportId,
    builder: StateBuilder,
    show: Callable[[str, int, int], None],
    faults: FaultPoints,
) -> Description:
    """Bring all rows of an export into the tables."""
    remote = wanted.remote
    done = await read_done(remote, export.state_id, export.snap)
    name = f"{remote.url}/{done.key}"
    if (done.state_id, done.snap) != (export.state_id, export.snap):
        raise CorruptDataError(f"{name}: is that of another export")
    _refuse_clear(wanted, done, name)
    data = await open_sealed(remote, wanted.keys, export.state_id, done.contents)
    description = Description.decode(data, f"{remote.url}/{done.contents.key}")
    if (description.state_id, description.snap) != (export.state_id, export.snap):
        raise CorruptDataError(f"{name}: its description is that of another export")
    if done.contents.key_id and not all(part.sealed.key_id for part in description.parts):
        raise CorruptDataError(f"{name}: a part of it is in clear")
    await trio.to_thread.run_sync(builder.begin)
    total = sum(part.sealed.stored_bytes for part in description.parts)
    done_bytes, now_ns = 0, time.time_ns()
    send, receive = trio.open_memory_channel[tuple[str, int, bytes]](AHEAD_COUNT)
    failures: list[Exception] = []

    async def fetch() -> None:
        async with send:
            for part in description.parts:
                try:
                    rows = await open_sealed(remote, wanted.keys, export.state_id, part.sealed)
                except Exception as error:
                    failures.append(error)
                    return
                await send.send((part.sealed.key, part.sealed.stored_bytes, rows))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch)
        async with receive:
            async for key, stored_bytes, rows in receive:
                try:
                    await trio.to_thread.run_sync(builder.add, rows, f"{remote.url}/{key}", now_ns)
                except CorruptDataError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()
                    break
                faults.reach("import.part")
                done_bytes += stored_bytes
                show("importing", done_bytes, total)
    if failures:
        raise failures[0]
    return description


def _refuse_clear(wanted: Wanted, done: Done, name: str) -> None:
    if wanted.encrypted and not done.contents.key_id:
        raise CorruptDataError(
            f"{name}: is in clear, so that anybody may have written it, and the configuration "
            "encrypts; if it is yours, import it with -o encryption.remote=false"
        )


async def _settings(
    wanted: Wanted, exports: Sequence[ExportId], description: Description
) -> dict[str, bytes]:
    """Return what the new state remembers."""
    notes = []
    for export in exports:
        if export.state_id != description.state_id:
            continue
        # The first look at the others tells what is in them.
        is_chosen = export.snap == description.snap
        notes.append(
            ExportNote.of(description) if is_chosen else ExportNote(export.snap, 0, is_done=True)
        )
    settings = {
        **wanted.settings,
        SOURCE_SETTING: wanted.url.encode(),
        STORE_SETTING: wanted.url.encode(),
        POOLS_SETTING: description.pools.encode(),
    }
    if (noted := dump_notes(sorted(notes))) is not None:
        settings[EXPORTS_SETTING] = noted
    return settings


async def take_over(
    engine: Local,
    stores: Mapping[str, RemoteStore],
    temporary_path: Callable[[str], Path],
    faults: FaultPoints | None = None,
) -> None:
    """Make the stores this state's own; the former state can change nothing in them from now on.

    Args:
        engine: That of the imported state.
        stores: By name, that of the default one empty.
        temporary_path: As of `StateGeneration`.
        faults: Likewise.

    Raises:
        UsageError: It is its own already.
        StoreError: The store does not answer; nothing has changed, or only the mark: do it again.
    """
    faults = faults or FaultPoints()
    if await engine.get_setting(SOURCE_SETTING) is None:
        raise UsageError("the store belongs to this state already", ExitCode.PROBLEMS)
    for name, remote in stores.items():
        generation = StateGeneration(engine, remote, temporary_path, faults, store=name)
        await generation.take_over()
    faults.reach("import.marked")
    async with engine.change():
        await engine.put_setting(SOURCE_SETTING, None)
    await trio.to_thread.run_sync(engine.sync)
    faults.reach("import.taken")
