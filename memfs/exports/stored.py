"""Exports that the store of a mount has: noted by its state, looked at in the store, and let go.

Invariant: while an export is in the store, so are all objects that it names. What becomes garbage
after the oldest one began stays until that one goes (`MoveParts.held_from`). An export goes before
what it names: first what says that it is complete, then its note, then the objects that no other
export names.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import (
    CorruptDataError,
    EncryptionKeyError,
    MemfsError,
    NewerFormatError,
    NotFoundError,
    ObjectMissingError,
)
from memfs.exports.description import (
    PREFIX,
    Description,
    Done,
    ExportId,
    Part,
    done_key,
    parse_done_key,
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
from memfs.exports.objects import read_description, read_done
from memfs.moves.attempt import configured_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from memfs.exports.description import Sealed
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas
    from memfs.stores.store import ObjectStat, RemoteStore
    from memfs.types import SnapshotId

log = logging.getLogger(__name__)

LABELS = (("memfs.export", ""),)
"""That of the snapshots that are being exported."""

CONTENTS = "contents"
"""The kind of the parts that name objects."""

STEP_COUNT = 1000
"""Inodes of a step of the removal of a snapshot: some 4 ms."""


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


class StoredExports:
    """The exports of one mount: the complete ones, and those that were begun.

    Args:
        parts: What moves work with.
        quotas: Those of the day.
        confirm: Returns once the store has shown anew that this state may change it.
        keep_count: How many are kept.
    """

    def __init__(
        self,
        parts: MoveParts,
        quotas: Quotas,
        confirm: Callable[[], Awaitable[None]],
        keep_count: int,
    ) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._quotas = quotas
        self._confirm = confirm
        self._keep_count = keep_count
        self.lock = trio.Lock()
        """Held by an export and by whatever else depends on what lies below `meta/`."""
        self._notes: list[ExportNote] = []
        self._claimed: set[SnapshotId] = set()
        """Unfinished exports that the store may have as complete ones."""
        self._lost: dict[SnapshotId, str] = {}
        self._known: dict[SnapshotId, tuple[Done, Description]] = {}
        """Those of the complete exports that were stored or read since the mount, as they were."""
        self._integrity = Integrity(parts, quotas)
        self._addresses = NamedObjects(parts)

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

    def name_of(self, note: ExportNote) -> str:
        """Return how users write an export."""
        return str(ExportId(note.snap, self._engine.state_id))

    def key_id_of(self, note: ExportNote) -> str:
        """Return the id of the key that an export is encrypted with.

        Empty: it is in clear, or it was not looked at since the mount.
        """
        known = self._known.get(note.snap)
        return "" if known is None else known[0].contents.key_id

    async def begin(self) -> None:
        """Take what earlier mounts noted; before anything in the store is removed."""
        self._notes = load_notes(await self._engine.get_setting(SETTING))
        self._claimed = {note.snap for note in self._notes if not note.is_done}
        self._lost = load_lost(await self._engine.get_setting(LOST_SETTING))
        self._hold()

    def _hold(self) -> None:
        """An object that became garbage after an export began may be named in it."""
        self._parts.held_from = min((note.snap for note in self._notes), default=None)

    async def stage(self, note: ExportNote) -> None:
        """Note an export that begins, within the change that makes its snapshot."""
        await self._put([*self._notes, note])

    def add(self, note: ExportNote) -> None:
        """Take an export that was staged, once that change is made."""
        self._notes.append(note)
        self._hold()

    def claim(self, note: ExportNote) -> None:
        """Take note that the store may have an export as a complete one from now on."""
        self._claimed.add(note.snap)

    async def complete(self, done: Done, description: Description) -> ExportNote:
        """Note that an export is complete, on stable storage."""
        note = ExportNote.of(description)
        await self._note([note if each.snap == note.snap else each for each in self._notes])
        self._known[note.snap] = done, description
        return note

    async def note_unchanged(self, former: Description, now_ns: int) -> ExportNote:
        """Note that all is still as it is in an export."""
        [known] = [note for note in self._notes if note.snap == former.snap]
        checked = known._replace(checked_ns=now_ns)
        await self._note([checked if each is known else each for each in self._notes])
        return checked

    async def look(self) -> None:
        """Look whether the store still has the exports, and note which it has not.

        Raises:
            StoreError: It is not known.
        """
        remote = self._parts.remote
        if remote is not None and self._parts.source is None and self._stored:
            async with self.lock:
                await self.compare(remote)

    async def compare(self, remote: RemoteStore) -> Former | None:
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
                log.info("an earlier export cannot be read, all is stored anew: %s", error)
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

    async def try_to_forget(self) -> None:
        """Do as `forget_unfinished`, or leave it to the next export."""
        try:
            await self.forget_unfinished()
        except MemfsError as error:
            log.info("an unfinished export is forgotten later: %s", error)

    async def forget_unfinished(self) -> None:
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

    async def prune(self, remote: RemoteStore) -> None:
        """Let exports go that are beyond those that are kept, with all that nobody names."""
        count = self._keep_count
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
            log.info("older exports are removed later: %s", error)
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
        remote = configured_store(self._parts)
        # What an export is writing is not named yet.
        async with self.lock:
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
        remote = configured_store(self._parts)
        async with self.lock:
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
