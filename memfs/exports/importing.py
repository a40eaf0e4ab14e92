"""Importing: a state directory on an empty machine, from an export in the object store.

Files get their names, attributes and places; their bytes stay where they are, to be read on demand.

The new state has the identity of the one that was exported: the objects are its own, encrypted ones
are bound to it, and after a take-over it goes on where that one was. Until then the store belongs
to the former state, which may live: nothing in it is changed (`moves.generation`).

Invariant: what is imported has the digests that the export says, or nothing is; an export that is
damaged is passed over for the one before, and the caller is told so.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import (
    CorruptDataError,
    EncryptionKeyError,
    NewerFormatError,
    ObjectMissingError,
    StoreUnavailableError,
    UsageError,
)
from memfs.exit_codes import ExitCode
from memfs.exports.description import PREFIX, Description, Done, ExportId, parse_done_key
from memfs.exports.notes import SETTING as EXPORTS_SETTING
from memfs.exports.notes import ExportNote, dump_notes
from memfs.exports.objects import open_sealed, read_done
from memfs.exports.places import StoreAddress, needs_trust, store_of_source
from memfs.metadata.namespace import FROZEN_SETTING
from memfs.metadata.sqlite.creation import NO_SETTINGS
from memfs.metadata.sqlite.frozen import encode_trees
from memfs.metadata.sqlite.importing import StateBuilder
from memfs.metadata.store_record import SETTING as STORE_SETTING
from memfs.metadata.store_record import recall_store, store_setting
from memfs.moves.faults import FaultPoints
from memfs.moves.generation import SOURCE_SETTING, StateGeneration, source_setting
from memfs.moves.publish_marks import ROOT_COUNT_MAX, ROOTS_SETTING
from memfs.moves.publish_tokens import LIFE_SETTING, make_life
from memfs.placement.resident import POOLS_SETTING
from memfs.policy.ages import AGE_SETTING
from memfs.policy.marks import AGES_XATTR, MARKED_SETTING, MARKS, PUBLISH_XATTR, TENSOR_MARKS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Mapping, Sequence
    from pathlib import Path

    from memfs.encryption.keys import KeyRing
    from memfs.metadata.engine import Engine
    from memfs.metadata.sqlite.importing import Imported
    from memfs.stores.store import RemoteStore

AHEAD_COUNT = 2
"""Parts that are fetched before the rows before them are in the tables."""

STORES_SETTING = "exports.stores"
"""Names of the stores that the former state had, as JSON."""

_DOUBTFUL_SHOWN = 3


class NamedStore(NamedTuple):
    """A named store that the new state needs, or that the former one had."""

    name: str
    url: str
    """Without secrets; empty: it is not known."""
    object_count: int
    """Places in it where bytes of files are."""
    section: str
    """That of a configuration, in TOML; without credentials and keys."""


class Chosen(NamedTuple):
    """What an import has come to."""

    export: ExportId
    description: Description
    imported: Imported
    passed_over: tuple[str, ...]
    """A sentence for each later export that could not be used."""
    stores: tuple[NamedStore, ...] = ()
    """Named stores that have objects, and those that sources get their credentials from."""


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
    stores: frozenset[str] = frozenset()
    """Names of the stores that are configured."""
    trusts_sources: bool = False
    """Take an export in clear whose sources may lead to what is on this machine."""


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
            except (EncryptionKeyError, NewerFormatError) as error:
                # Older ones may be complete, but to take one needs the user's word: `--at`.
                raise UsageError(
                    "; ".join([*passed_over, f"{error}; --list shows older ones for --at"]),
                    ExitCode.PROBLEMS,
                ) from None
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
            if roots := await trio.to_thread.run_sync(
                builder.inodes_with, PUBLISH_XATTR, ROOT_COUNT_MAX
            ):
                settings[ROOTS_SETTING] = json.dumps(roots).encode()
            try:
                imported = await trio.to_thread.run_sync(
                    builder.finish,
                    description.state_id,
                    description.next_id,
                    settings,
                    description.sources,
                    description.indexes,
                )
            except CorruptDataError as error:
                passed_over.append(f"export {export} cannot be used: {error}")
                continue
            stores = _named_stores(description, imported)
            return Chosen(export, description, imported, tuple(passed_over), stores)
    except BaseException:
        builder.discard()
        raise
    builder.discard()
    raise UsageError(
        f"{wanted.url}: nothing was imported: {'; '.join(passed_over)}", ExitCode.PROBLEMS
    )


def _named_stores(description: Description, imported: Imported) -> tuple[NamedStore, ...]:
    """Return the named stores that files are read from, or with whose credentials."""
    uses = {use.name: use for use in imported.stores}
    lent = {store_of_source(source) for source in description.sources} - {""}
    told = {store.name: store for store in description.stores}
    found = []
    for name in sorted({*uses, *lent}):
        use, store = uses.get(name), told.get(name)
        # An older version has told no stores.
        known = store or StoreAddress(name, "")
        key_ids = use.key_ids if use is not None else ()
        section = known.section(key_ids)
        found.append(NamedStore(name, known.url, use.form_count if use else 0, section))
    return tuple(found)


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
    if not done.contents.key_id:
        _refuse_untrusted(wanted, description, export)
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


def _refuse_untrusted(wanted: Wanted, description: Description, export: ExportId) -> None:
    """See that who may write to a bucket has no mount read what is on this machine."""
    doubtful = [source.url for source in description.sources if needs_trust(source)]
    if doubtful and not wanted.trusts_sources:
        told = ", ".join(doubtful[:_DOUBTFUL_SHOWN])
        raise UsageError(
            f"export {export} reads files from {told}. It is not encrypted, so anybody who may "
            "write to the store can have named these places. Add --trust-sources if they are yours",
            ExitCode.PROBLEMS,
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
        LIFE_SETTING: make_life(description.life + 1),
        STORES_SETTING: json.dumps([store.name for store in description.stores]).encode(),
        # So that what is not configured yet can be told with its place.
        **{
            store_setting(store.name): store.url.encode()
            for store in description.stores
            if store.name not in wanted.stores
        },
    }
    if description.frozen:
        settings[FROZEN_SETTING] = encode_trees(dict.fromkeys(description.frozen, False))
    if (noted := dump_notes(sorted(notes))) is not None:
        settings[EXPORTS_SETTING] = noted
    return settings


async def take_over(
    engine: Engine,
    stores: Mapping[str, RemoteStore],
    temporary_path: Callable[[str], Path],
    faults: FaultPoints | None = None,
    without: Collection[str] = (),
) -> None:
    """Make the stores this state's own; the former state can change nothing in them from now on.

    Args:
        engine: That of the imported state.
        stores: By name, that of the default one empty.
        temporary_path: As of `StateGeneration`.
        faults: Likewise.
        without: Names of stores that are left to the former state: nothing is changed in them, and
            a mount with one of them changes nothing in any, until they are taken over too.

    Raises:
        UsageError: It is its own already; or objects are in a store that is in neither of both.
        StoreError: The store does not answer; nothing has changed, or only the mark: do it again.
    """
    faults = faults or FaultPoints()
    is_own = await engine.get_setting(SOURCE_SETTING) is None
    due = [name for name in stores if name not in without]
    if is_own:
        due = [name for name in due if await engine.get_setting(source_setting(name)) is not None]
    if not due:
        raise UsageError("the store belongs to this state already", ExitCode.PROBLEMS)
    left: list[str] = []
    if not is_own:
        left = await _left_stores(engine, stores, without)
    for name in due:
        generation = StateGeneration(engine, stores[name], temporary_path, faults, store=name)
        await generation.take_over()
    faults.reach("import.marked")
    async with engine.change():
        for name in left:
            url = await recall_store(engine, name) or name
            await engine.put_setting(source_setting(name), url.encode())
        for name in due:
            await engine.put_setting(source_setting(name), None)
    await trio.to_thread.run_sync(engine.sync)
    faults.reach("import.taken")


async def _left_stores(
    engine: Engine, stores: Container[str], without: Collection[str]
) -> list[str]:
    """Return the named stores that stay with the former state.

    Those that have no object of this state, and are not configured, are among them: it may have
    left its mark there.

    Raises:
        UsageError: There is no such store, or one that has objects is neither configured nor named.
    """
    in_use = await engine.list_stores()
    former = json.loads(await engine.get_setting(STORES_SETTING) or b"[]")
    known = dict.fromkeys([*in_use, *former])
    for name in without:
        if name not in known and name not in stores:
            raise UsageError(f"--without {name}: this state has no store of that name")
    lacking = [name for name in in_use if name not in stores and name not in without]
    if lacking:
        places = [f"{name} ({await recall_store(engine, name) or '?'})" for name in lacking]
        raise UsageError(
            f"objects of this state are in stores that are not configured: {', '.join(places)}; "
            f"add [stores.{lacking[0]}] to the configuration, or leave it to the former state by "
            f"--without {lacking[0]}",
            ExitCode.PROBLEMS,
        )
    return [name for name in known if name not in stores or name in without]
