"""Exporter: puts the metadata of a mount beside its objects, by rule and by hand.

0. All exports in the store are looked at (`integrity`): one that has lost an object is noted, and
   counts for nothing from then on.
1. One change makes the snapshot that is exported, has files that are open for writing go on as new
   generations, and notes that it is exported. From here on an object that becomes garbage stays:
   the export may name it (`MoveParts.held_from`).
2. The reader process writes the tables into files, part by part; a part that the export before had
   with the same digest, and that the store still has, is not stored again.
3. The description is stored, and then what says that the export is complete (`done.json`).
4. The state notes that, and the snapshot goes.
5. Exports beyond `snapshots.export_keep_count` go: first what says that they are complete, then the
   note, then the objects that no export names any more, with what killed ones have left.

*Killed* in 1 to 3: the next mount forgets the unfinished export and its snapshot, and the exports
before are as they were. In 4: the same, unless the note was written. In 5: the next export goes on.

Invariant: while an export is in the store, so are all objects that it names.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

from memfs.errors import (
    AlreadyExistsError,
    CorruptDataError,
    EncryptionKeyError,
    MemfsError,
    NewerFormatError,
    NotFoundError,
    NotSupportedError,
    ObjectMissingError,
    StoreError,
)
from memfs.exports.description import (
    PREFIX,
    Description,
    Done,
    ExportId,
    Part,
    contents_key,
    done_key,
    parse_done_key,
    part_key,
    root_of,
)
from memfs.exports.integrity import Integrity
from memfs.exports.naming import NamedObjects
from memfs.exports.notes import (
    LOST_SETTING,
    SETTING,
    ExportNote,
    dump_lost,
    dump_notes,
    load_lost,
    load_notes,
)
from memfs.exports.objects import read_description, read_done, seal_file
from memfs.exports.places import StoreAddress
from memfs.metadata.records import IndexState
from memfs.metadata.store_record import recall_store
from memfs.moves.coding import key_of
from memfs.moves.publish_tokens import sender_of
from memfs.placement.resident import POOLS_SETTING
from memfs.signals import Signal
from memfs.stores.digesting import digest_file
from memfs.types import FormKind, SnapshotId
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from memfs.config import SnapshotsConfig
    from memfs.exports.description import Sealed
    from memfs.metadata.foreign import Source
    from memfs.metadata.records import ExportPosition
    from memfs.moves.attempt import MoveParts
    from memfs.moves.open_files import OpenFiles
    from memfs.placement.quotas import Quotas
    from memfs.stores.store import ObjectStat, RemoteStore
    from memfs.types import SourceId

log = logging.getLogger(__name__)

LABELS = (("memfs.export", ""),)
"""That of the snapshots that are being exported."""

COUNTS = ("file_count", "content_bytes", "missing_count", "missing_bytes")
"""As of `metadata.sqlite.exporting.Page`."""

TABLES = ("inodes", "dentries", "published")
"""As of `metadata.sqlite.exporting.read_page`."""

CONTENTS = "contents"
"""The kind of the parts that name objects."""

TABLES_OF_SOURCES = ("gone",)
"""Those that have rows only where there are sources."""

UPLOADS_MAX = 3
"""Objects of an export under way at a time. Guess."""

MOUNT_PAUSE_S = 300.0
"""A mount that begins exports so much later at the earliest: it may end soon. Guess."""

AGAIN_S = 300.0
"""Pause after an export that failed. Guess."""

LOOK_S = 86_400.0
"""So often the exports are looked at where nothing is exported by rule."""

STEP_COUNT = 1000
"""Inodes of a step of the removal of a snapshot: some 4 ms."""


class Reader(Protocol):
    """Reads the tables in another process (`metadata.sqlite.reader_process`)."""

    async def publish(self) -> None:
        """Bring all changes so far into the tables."""

    async def read_parts(
        self, table: str, snap: SnapshotId, after: ExportPosition, paths: Sequence[Path]
    ) -> dict[str, Any]:
        """Have the next parts written into files."""


class Former(NamedTuple):
    """The export before."""

    description: Description
    is_whole: bool
    sound_parts: Mapping[tuple[str, bytes], Part]
    """Those that the store still has, by kind and digest."""


class Unneeded(NamedTuple):
    """What lies below `meta/` and no complete export needs."""

    objects: tuple[ObjectStat, ...]
    """In the order in which they are removed."""
    foreign_count: int
    """Objects there of other states."""


class ExportProgress(NamedTuple):
    """What the exporter is at."""

    running: bool = False
    row_count: int = 0
    """Inodes and names that are read."""
    row_total: int = 0
    stored_count: int = 0
    """Objects that were stored; parts that have not changed are not among them."""
    stored_bytes: int = 0
    finished_count: int = 0
    """Attempts that have ended since the mount."""
    error: str | None = None
    """Why the last one failed; None: it did not."""


class Exporter:
    """Exports one mount.

    Args:
        parts: What moves work with; `remote` is not None.
        reader: Reads the tables.
        open_files: Parts files that are open for writing from the snapshot.
        quotas: Those of the day.
        seal_all: Seals what can be sealed.
        confirm: Returns once the store has shown anew that this state may change it.
        config: How often, and how many are kept.
        by_rule: False: only when it is asked for.
        clock: Nanoseconds since the epoch.
    """

    def __init__(
        self,
        parts: MoveParts,
        reader: Reader,
        open_files: OpenFiles,
        quotas: Quotas,
        seal_all: Callable[[], Awaitable[object]],
        confirm: Callable[[], Awaitable[None]],
        config: SnapshotsConfig,
        *,
        by_rule: bool = True,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._reader = reader
        self._open_files = open_files
        self._quotas = quotas
        self._seal_all = seal_all
        self._confirm = confirm
        self._config = config
        self._by_rule = by_rule
        self._clock = clock
        self._lock = trio.Lock()
        self._wanted = Signal()
        self._notes: list[ExportNote] = []
        self._claimed: set[SnapshotId] = set()
        """Unfinished exports that the store may have as complete ones."""
        self._lost: dict[SnapshotId, str] = {}
        self._known: dict[SnapshotId, tuple[Done, Description]] = {}
        """Those of the complete exports that were stored or read since the mount, as they were."""
        self._integrity = Integrity(parts, quotas)
        self._addresses = NamedObjects(parts)
        self.progress = ExportProgress()

    @property
    def notes(self) -> Sequence[ExportNote]:
        """The exports that are complete, newest first."""
        return [note for note in self._stored if note.snap not in self._lost]

    @property
    def lost(self) -> Sequence[tuple[ExportNote, str]]:
        """Those that are complete no longer, newest first, and why."""
        return [(note, self._lost[note.snap]) for note in self._stored if note.snap in self._lost]

    @property
    def _stored(self) -> Sequence[ExportNote]:
        return [note for note in reversed(self._notes) if note.is_done]

    @property
    def refusal(self) -> str | None:
        """Why nothing is exported; None: it is."""
        return self._parts.source

    def name_of(self, note: ExportNote) -> str:
        """Return how users write an export."""
        return str(ExportId(note.snap, self._engine.state_id))

    def key_id_of(self, note: ExportNote) -> str:
        """Return the id of the key that an export is encrypted with.

        Empty: it is in clear, or it was not looked at since the mount.
        """
        known = self._known.get(note.snap)
        return "" if known is None else known[0].contents.key_id

    @property
    def interval_s(self) -> float | None:
        """So often it exports by itself; None: never."""
        if not self._by_rule or self._parts.source is not None:
            return None
        return self._config.export_s or None

    async def begin(self) -> None:
        """Take what earlier mounts noted; before anything in the store is removed."""
        self._notes = load_notes(await self._engine.get_setting(SETTING))
        self._claimed = {note.snap for note in self._notes if not note.is_done}
        self._lost = load_lost(await self._engine.get_setting(LOST_SETTING))
        self._hold()

    def _hold(self) -> None:
        """An object that became garbage after an export began may be named in it."""
        self._parts.held_from = min((note.snap for note in self._notes), default=None)

    async def run(self) -> None:
        """Export when it is due, or asked for; a task of the mount."""
        begun_s = trio.current_time()
        seen = 0
        while True:
            await self._try_to_forget()
            due_s = self._due_s(begun_s)
            with trio.move_on_after(min(due_s, LOOK_S)):
                await self._wanted.wait(seen)
            is_due = due_s <= LOOK_S or self._wanted.count != seen
            seen = self._wanted.count
            try:
                if is_due:
                    await self.export()
                else:
                    await self.look()
            except MemfsError as error:
                if not is_due:
                    log.info("the exports are looked at again later: %s", error)
                    continue
                # Told by `memfs status` too, with the age of the last one.
                log.warning("the metadata are not exported, trying again later: %s", error)

    def _due_s(self, begun_s: float) -> float:
        """Return for how long to wait."""
        interval_s = self.interval_s
        if interval_s is None:
            return float("inf")
        if self.progress.error is not None:
            return min(AGAIN_S, interval_s)
        first_s = begun_s + min(MOUNT_PAUSE_S, interval_s) - trio.current_time()
        notes = self.notes
        if not notes:
            return max(first_s, begun_s + interval_s - trio.current_time())
        age_s = (self._clock() - notes[0].checked_ns) / 1e9
        return max(first_s, interval_s - max(0.0, age_s), 0.0)

    def begin_now(self) -> int:
        """Have an export made as soon as can be.

        Returns:
            `ExportProgress.finished_count` once that has ended; a later one ends with it too.

        Raises:
            NotSupportedError: The store belongs to another state.
        """
        if self._parts.source is not None:
            raise NotSupportedError(self._parts.source)
        self._wanted.set()
        return self.progress.finished_count + (2 if self.progress.running else 1)

    async def export(self) -> ExportNote:
        """Export the present instant.

        Raises:
            MemfsError: It was not possible; exports before are as they were.
        """
        async with self._lock:
            finished = self.progress.finished_count
            self.progress = ExportProgress(running=True, finished_count=finished)
            error: str | None = None
            try:
                note = await self._export()
            except BaseException as failure:
                error = str(failure) or type(failure).__name__
                raise
            finally:
                self.progress = self.progress._replace(
                    running=False, finished_count=finished + 1, error=error
                )
            return note

    async def _export(self) -> ExportNote:
        parts, remote = self._parts, self._parts.remote
        if remote is None:
            raise NotSupportedError("no glacier tier is configured: set glacier.url")
        if parts.source is not None:
            raise NotSupportedError(parts.source)
        await self._confirm()
        await self._forget_unfinished()
        former = await self._look(remote)
        await self._seal_all()
        note, sources, waiting = await self._begin()
        try:
            await self._reader.publish()
            parts.faults.reach("export.published")
            description = await self._store_parts(remote, note, sources, former)
            if listed := waiting - await self._waiting(sources):
                told = next(source.url for source in sources if source.source in listed)
                raise StoreError(
                    f"{told} was listed whole while the metadata were exported: directories that "
                    "nobody had looked into would be exported as empty ones"
                )
            if former is not None and former.is_whole and description.is_like(former.description):
                # All is as it was, byte by byte: there is nothing to say again.
                return await self._note_unchanged(former.description)
            contents = await self._store_description(remote, description)
            parts.faults.reach("export.described")
            # Nobody takes the export of a state for the newest one that another has taken over.
            await self._confirm()
            self._claimed.add(note.snap)
            await self._store_done(remote, contents)
            parts.faults.reach("export.done")
            done = ExportNote.of(description)
            await self._note([done if each.snap == note.snap else each for each in self._notes])
            parts.faults.reach("export.recorded")
            self._known[note.snap] = contents, description
        finally:
            with trio.CancelScope(shield=True):
                await self._try_to_forget()
        await self._prune(remote)
        log.info(
            "exported: %d files, %d of them without an object; %d objects stored",
            done.file_count,
            done.missing_count,
            self.progress.stored_count,
        )
        return done

    async def _begin(self) -> tuple[ExportNote, list[Source], set[SourceId]]:
        """Make the snapshot, and note that it is being exported.

        Returns:
            The note, the sources of the instant, and `_waiting` of these.
        """
        engine, now_ns = self._engine, self._clock()
        total = (await engine.usage()).inode_count
        self.progress = self.progress._replace(row_total=2 * total)
        number = now_ns
        while True:
            try:
                async with engine.change():
                    snapshot = await engine.create_snapshot(
                        f"export-{number}", now_ns, "being exported", LABELS
                    )
                    note = ExportNote(snapshot.snap, now_ns, is_done=False)
                    await self._put([*self._notes, note])
                    sources = await engine.list_sources()
                    waiting = await self._waiting(sources)
                    # What is written to them from now on is not of this instant; and an export has
                    # no bytes but those of objects.
                    files = await self._open_files.find()
                    parted = await self._open_files.part(files, with_bytes=False)
                break
            except AlreadyExistsError:
                number += 1
        self._open_files.begin(parted)
        self._notes.append(note)
        self._hold()
        await trio.to_thread.run_sync(engine.sync)
        self._parts.faults.reach("export.begun")
        return note, sources, waiting

    # --- parts -----------------------------------------------------------------------------------
    async def _store_parts(
        self,
        remote: RemoteStore,
        note: ExportNote,
        sources: Sequence[Source],
        former: Former | None,
    ) -> Description:
        """Store what has changed; returns the description."""
        known = {
            key: part
            for key, part in (former.sound_parts.items() if former is not None else ())
            if part.sealed.key_id == self._key_id()
        }
        found: dict[int, Part] = {}
        counts = dict.fromkeys(COUNTS, 0)
        slots = trio.CapacityLimiter(UPLOADS_MAX)
        number = 0
        failures: list[MemfsError] = []

        async def take(number: int, kind: str, row_count: int, path: Path) -> None:
            try:
                async with slots:
                    found[number] = await self._take_part(
                        remote, note.snap, number, kind, row_count, path, known
                    )
            except MemfsError as error:
                failures.append(error)
            finally:
                await trio.to_thread.run_sync(partial(path.unlink, missing_ok=True))

        async with trio.open_nursery() as nursery:
            for table in (*TABLES, *(TABLES_OF_SOURCES if sources else ())):
                after: ExportPosition | None = (0, 0)
                while after is not None and not failures:
                    # Files wait on the disk: not more than a few.
                    async with slots:
                        pass
                    temporary = self._parts.packed_store.temporary_path
                    paths = [temporary("export"), temporary("export")]
                    page = await self._reader.read_parts(table, note.snap, after, paths)
                    for told, path in zip(page["parts"], paths, strict=False):
                        number += 1
                        nursery.start_soon(take, number, told["kind"], told["row_count"], path)
                    rows = sum(part["row_count"] for part in page["parts"][:1])
                    self.progress = self.progress._replace(row_count=self.progress.row_count + rows)
                    for name in counts:
                        counts[name] += page[name]
                    after = None if page["after"] is None else (*page["after"],)
        if failures:
            raise failures[0]
        self._parts.faults.reach("export.parts")
        # Blobs may have come since the snapshot; nothing in the parts is younger than this.
        next_id = int(self._engine.reserve_blob())
        parts = tuple(found[at] for at in sorted(found))
        pools = (await self._engine.get_setting(POOLS_SETTING) or b"{}").decode()
        return Description(
            self._engine.state_id,
            note.snap,
            note.created_ns,
            next_id,
            **counts,
            parts=parts,
            pools=pools,
            stores=await self._stores(),
            sources=tuple(sources),
            indexes=self._indexes(),
            life=(await sender_of(self._engine)).number,
        )

    def _indexes(self) -> tuple[str, ...]:
        """Return what has an index that is to stay."""
        indexes = self._engine.field_indexes()
        return tuple(each.field for each in indexes if each.state is not IndexState.LEAVING)

    async def _waiting(self, sources: Sequence[Source]) -> set[SourceId]:
        """Return the sources that have directories which are listed on demand."""
        engine = self._engine
        return {
            source.source
            for source in sources
            if await engine.find_directory(source.source, b"") is not None
            or await engine.list_directories(source.source, b"", 1)
        }

    async def _stores(self) -> tuple[StoreAddress, ...]:
        """Return where the named stores are: those in use, and those that have objects yet."""
        parts, configured = self._parts, self._parts.config.stores
        found = []
        for name in sorted({*configured, *await parts.engine.list_stores()}):
            if (named := configured.get(name)) is not None:
                key = key_of(parts, FormKind.REMOTE, name)
                key_id = "" if key is None else key.id.hex()
                found.append(StoreAddress.of(name, named, key_id))
            elif known := await recall_store(parts.engine, name):
                found.append(StoreAddress(name, url_without_secrets(known)))
        return tuple(found)

    async def _take_part(
        self,
        remote: RemoteStore,
        snap: SnapshotId,
        number: int,
        kind: str,
        row_count: int,
        path: Path,
        known: Mapping[tuple[str, bytes], Part],
    ) -> Part:
        digest = await trio.to_thread.run_sync(digest_file, path)
        if (part := known.get((kind, digest))) is not None:
            return part
        key = part_key(self._engine.state_id, snap, number)
        sealed = await seal_file(self._parts, remote, self._quotas, path, key, snap, number)
        progress = self.progress
        self.progress = progress._replace(
            stored_count=progress.stored_count + 1,
            stored_bytes=progress.stored_bytes + sealed.stored_bytes,
        )
        return Part(kind, row_count, sealed)

    def _key_id(self) -> str:
        key = key_of(self._parts, FormKind.REMOTE)
        return "" if key is None else key.id.hex()

    async def _store_description(self, remote: RemoteStore, description: Description) -> Done:
        key = contents_key(description.state_id, description.snap)
        path = self._parts.packed_store.temporary_path("export")
        try:
            await trio.to_thread.run_sync(path.write_bytes, description.encode())
            sealed = await seal_file(
                self._parts, remote, self._quotas, path, key, description.snap, 0
            )
        finally:
            path.unlink(missing_ok=True)
        return Done(description.state_id, description.snap, description.created_ns, sealed)

    async def _store_done(self, remote: RemoteStore, done: Done) -> None:
        path = self._parts.packed_store.temporary_path("export")
        try:
            await trio.to_thread.run_sync(path.write_bytes, done.encode())
            await remote.put_file(done.key, path)
        finally:
            path.unlink(missing_ok=True)

    async def _note_unchanged(self, former: Description) -> ExportNote:
        [known] = [note for note in self._notes if note.snap == former.snap]
        checked = known._replace(checked_ns=self._clock())
        await self._note([checked if each is known else each for each in self._notes])
        return checked

    # --- exports of before -----------------------------------------------------------------------
    async def look(self) -> None:
        """Look whether the store still has the exports, and note which it has not.

        Raises:
            StoreError: It is not known.
        """
        remote = self._parts.remote
        if remote is not None and self._parts.source is None and self._stored:
            async with self._lock:
                await self._look(remote)

    async def _look(self, remote: RemoteStore) -> Former | None:
        """Note which exports are complete no longer; returns the newest one that can be read.

        Raises:
            StoreError: It is not known what the store has.
        """
        listed = {stat.key: stat async for stat in remote.list(root_of(self._engine.state_id))}
        lost: dict[SnapshotId, str] = {}
        found: list[Description] = []
        for note in self._stored:
            try:
                _, description = await self._recall(remote, note.snap)
            except (EncryptionKeyError, NewerFormatError) as error:
                log.info("an export before cannot be read, all is stored anew: %s", error)
            except (CorruptDataError, ObjectMissingError) as error:
                why, done = str(error), done_key(self._engine.state_id, note.snap)
                lost[note.snap] = why if done in why else f"{why}, which {done} names"
                if note.snap not in self._known:
                    continue
                found.append(self._known[note.snap][1])
            else:
                found.append(description)
        sealed = [each for description in found for each in self._objects_of(description)]
        unusable = await self._integrity.look(remote, sealed, listed)
        for description in found:
            for each in self._objects_of(description):
                if each.key in unusable:
                    lost.setdefault(description.snap, unusable[each.key])
        await self._note_lost(lost)
        self._complete_notes(found)
        if not found:
            return None
        newest = found[0]
        sound = {
            (part.kind, part.sealed.digest): part
            for part in newest.parts
            if part.sealed.key not in unusable
        }
        return Former(newest, newest.snap not in lost, sound)

    def _complete_notes(self, found: Sequence[Description]) -> None:
        """Know all of exports that an import has found by their names alone."""
        known = {description.snap: description for description in found}
        self._notes = [
            ExportNote.of(known[note.snap])
            if note.is_done and not note.created_ns and note.snap in known
            else note
            for note in self._notes
        ]

    def _objects_of(self, description: Description) -> list[Sealed]:
        done, _ = self._known[description.snap]
        return [done.contents, *(part.sealed for part in description.parts)]

    async def _recall(self, remote: RemoteStore, snap: SnapshotId) -> tuple[Done, Description]:
        """Return a complete export as the store has it; its description is read once.

        Raises:
            CorruptDataError, ObjectMissingError: It is not there as it was written.
            EncryptionKeyError, NewerFormatError, StoreError: It cannot be read.
        """
        done = await read_done(remote, self._engine.state_id, snap)
        known = self._known.get(snap)
        if known is None:
            known = self._known[snap] = done, await read_description(remote, self._parts, done)
        elif known[0] != done:
            raise CorruptDataError(f"{remote.url}/{known[0].key}: is another one than was written")
        return known

    async def _note_lost(self, lost: dict[SnapshotId, str]) -> None:
        for snap in lost.keys() - self._lost.keys():
            told = ExportId(snap, self._engine.state_id)
            log.warning("the export %s cannot be imported any longer: %s", told, lost[snap])
        if lost != self._lost:
            setting = dump_lost(lost)
            async with self._engine.change():
                await self._engine.put_setting(LOST_SETTING, setting)
            self._lost = lost

    async def _try_to_forget(self) -> None:
        """Do as `_forget_unfinished`, or leave it to the next export."""
        try:
            await self._forget_unfinished()
        except MemfsError as error:
            log.info("an unfinished export is forgotten later: %s", error)

    async def _forget_unfinished(self) -> None:
        """Let unfinished exports go, with the snapshots of all that have ended.

        Raises:
            MemfsError: It is not known that the store has not one of them as a complete one.
        """
        await self._remove_snapshots()
        remote, engine = self._parts.remote, self._engine
        unfinished = [note.snap for note in self._notes if not note.is_done]
        for snap in unfinished:
            if snap in self._claimed and remote is not None and self._parts.source is None:
                await remote.delete(done_key(engine.state_id, snap))
            self._claimed.discard(snap)
        if unfinished:
            await self._note([note for note in self._notes if note.is_done])

    async def _remove_snapshots(self) -> None:
        engine = self._engine
        gone = False
        for snapshot in await engine.list_snapshots():
            if snapshot.labels == LABELS:
                try:
                    async with engine.change():
                        await engine.delete_snapshot(snapshot.snap)
                except NotFoundError:
                    continue
                gone = True
        while gone:
            async with engine.change():
                gone = await engine.delete_snapshot_step(STEP_COUNT)
            await trio.lowlevel.checkpoint()

    async def _prune(self, remote: RemoteStore) -> None:
        """Let exports go that are beyond those that are kept, with all that nobody names."""
        count = self._config.export_keep_count
        # One that has lost an object may get it back, from versions that the bucket keeps, say.
        wanted = {note.snap for note in (*self.notes[:count], *self._stored[:count])}
        kept = [note for note in self._stored if note.snap in wanted]
        try:
            # It knows nothing of what a state exports that has taken the store over.
            await self._confirm()
            for note in self._stored:
                if note.snap not in wanted:
                    await remote.delete(done_key(self._engine.state_id, note.snap))
                    self._known.pop(note.snap, None)
            self._parts.faults.reach("export.forgotten")
            await self._note([*reversed(kept)])
            await self._note_lost({snap: why for snap, why in self._lost.items() if snap in wanted})
            for stat in (await self._find_unneeded(remote, kept)).objects:
                await remote.delete(stat.key)
        except MemfsError as error:
            log.info("exports of before are removed later: %s", error)
        self._parts.faults.reach("export.pruned")

    async def look_for_unneeded(self, *, remove: bool = False) -> Unneeded:
        """Find what lies below `meta/` and no complete export of this state needs.

        It is what killed exports have left, and parts of exports that were forgotten while the
        store did not answer. The next export that changes anything removes them as well.

        Checkpoint: always. Cancel: safe.

        Args:
            remove: And remove it; not where the store belongs to another state.

        Raises:
            CorruptDataError: What a complete export needs cannot be read, so nothing is told.
            StoreError, NotSupportedError: The store does not answer; there is no store.
        """
        remote = self._parts.remote
        if remote is None:
            raise NotSupportedError("no glacier tier is configured: set glacier.url")
        # What an export is writing is not named yet.
        async with self._lock:
            found = await self._find_unneeded(remote, self._stored)
            if remove and self._parts.source is None:
                await self._confirm()
                for stat in found.objects:
                    await remote.delete(stat.key)
        return found

    async def _find_unneeded(self, remote: RemoteStore, kept: Sequence[ExportNote]) -> Unneeded:
        named: set[str] = set()
        for note in kept:
            if note.snap in self._lost and note.snap in self._known:
                done, description = self._known[note.snap]
            else:
                done, description = await self._recall(remote, note.snap)
            named |= {done.key, done.contents.key}
            named |= {part.sealed.key for part in description.parts}
        root = root_of(self._engine.state_id)
        listed = [stat async for stat in remote.list(PREFIX)]
        unneeded = [stat for stat in listed if stat.key.startswith(root) and stat.key not in named]
        # What says that an export is complete goes before its parts.
        unneeded.sort(key=lambda stat: not parse_done_key(stat.key))
        foreign = sum(not stat.key.startswith(root) for stat in listed)
        return Unneeded(tuple(unneeded), foreign)

    async def named(self, addresses: Sequence[str]) -> set[str]:
        """Return those of some objects that complete exports of this state name.

        What this state itself has exported is referred to, or garbage that waits. So it is about
        exports of before an import that other ones were made of.

        Checkpoint: always. Cancel: safe.

        Raises:
            EncryptionKeyError, NewerFormatError, StoreError, NotSupportedError: It is not known
                what one of them names.
        """
        remote = self._parts.remote
        if remote is None:
            raise NotSupportedError("no glacier tier is configured: set glacier.url")
        async with self._lock:
            parts: dict[str, Sealed] = {}
            for note in self._stored:
                try:
                    _, description = await self._recall(remote, note.snap)
                except (CorruptDataError, ObjectMissingError) as error:
                    # It cannot be imported any more.
                    log.info("what an export names is not known: %s", error)
                    continue
                parts |= {
                    part.sealed.key: part.sealed
                    for part in description.parts
                    if part.kind == CONTENTS
                }
            named = await self._addresses.named(remote, self._quotas, parts)
        return {address for address in addresses if address in named}

    # --- the note --------------------------------------------------------------------------------
    async def _note(self, notes: list[ExportNote]) -> None:
        async with self._engine.change():
            await self._put(notes)
        # What is held may go from now on; that it may must be as durable as what it rests on.
        await trio.to_thread.run_sync(self._engine.sync)
        self._notes = notes
        self._hold()

    async def _put(self, notes: Sequence[ExportNote]) -> None:
        await self._engine.put_setting(SETTING, dump_notes(notes))
