"""Exporter: puts the metadata of a mount beside its objects, by rule and by hand.

0. All exports in the store are looked at (`stored`): one that has lost an object is noted, and
   counts for nothing from then on.
1. One change makes the snapshot that is exported, has files that are open for writing go on as new
   generations, and notes that it is exported. From here on an object that becomes garbage stays:
   the export may name it (`MoveParts.held_from`).
2. The reader process writes the tables into files, part by part (`writing`); a part that the export
   before had with the same digest, and that the store still has, is not stored again.
3. The description is stored, and then what says that the export is complete (`done.json`).
4. The state notes that, and the snapshot goes.
5. Exports beyond `snapshots.export_keep_count` go: first what says that they are complete, then the
   note, then the objects that no export names any more, with what killed ones have left.

*Killed* in 1 to 3: the next mount forgets the unfinished export and its snapshot, and the exports
before are as they were. In 4: the same, unless the note was written. In 5: the next export goes on.

Invariant: an export is noted before its first object is stored, and complete before older ones go.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import AlreadyExistsError, MemfsError, NotSupportedError, StoreError
from memfs.exports.notes import ExportNote
from memfs.exports.stored import LABELS, StoredExports
from memfs.exports.writing import ExportWriter
from memfs.moves.attempt import writable_store
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from memfs.config import SnapshotsConfig
    from memfs.exports.writing import Reader
    from memfs.metadata.foreign import Source
    from memfs.moves.attempt import MoveParts
    from memfs.moves.open_files import OpenFiles
    from memfs.placement.quotas import Quotas
    from memfs.types import SourceId

log = logging.getLogger(__name__)

MOUNT_PAUSE_S = 300.0
"""A mount that begins exports so much later at the earliest: it may end soon. Guess."""

AGAIN_S = 300.0
"""Pause after an export that failed. Guess."""

LOOK_S = 86_400.0
"""So often the exports are looked at where nothing is exported by rule."""


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
        self._open_files = open_files
        self._seal_all = seal_all
        self._confirm = confirm
        self._config = config
        self._by_rule = by_rule
        self._clock = clock
        self._wanted = Signal()
        self.stored = StoredExports(parts, quotas, confirm, config.export_keep_count)
        self._writer = ExportWriter(parts, reader, quotas, self._advance)
        self.progress = ExportProgress()

    @property
    def refusal(self) -> str | None:
        """Why nothing is exported; None: it is."""
        return self._parts.source

    @property
    def interval_s(self) -> float | None:
        """So often it exports by itself; None: never."""
        if not self._by_rule or self._parts.source is not None:
            return None
        return self._config.export_s or None

    async def run(self) -> None:
        """Export when it is due, or asked for; a task of the mount."""
        begun_s = trio.current_time()
        seen = 0
        while True:
            await self.stored.try_to_forget()
            due_s = self._due_s(begun_s)
            with trio.move_on_after(min(due_s, LOOK_S)):
                await self._wanted.wait(seen)
            is_due = due_s <= LOOK_S or self._wanted.count != seen
            seen = self._wanted.count
            try:
                if is_due:
                    await self.export()
                else:
                    await self.stored.look()
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
        notes = self.stored.notes
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

    def _advance(self, *, row_count: int = 0, stored_count: int = 0, stored_bytes: int = 0) -> None:
        told = self.progress
        self.progress = told._replace(
            row_count=told.row_count + row_count,
            stored_count=told.stored_count + stored_count,
            stored_bytes=told.stored_bytes + stored_bytes,
        )

    async def export(self) -> ExportNote:
        """Export the present instant.

        Raises:
            MemfsError: It was not possible; exports before are as they were.
        """
        async with self.stored.lock:
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
        parts, remote = self._parts, writable_store(self._parts)
        await self._confirm()
        await self.stored.forget_unfinished()
        former = await self.stored.compare(remote)
        await self._seal_all()
        note, sources, waiting = await self._begin()
        try:
            description = await self._writer.write(remote, note, sources, former)
            if listed := waiting - await self._waiting(sources):
                told = next(source.url for source in sources if source.source in listed)
                raise StoreError(
                    f"{told} was listed whole while the metadata were exported: directories that "
                    "nobody had looked into would be exported as empty ones"
                )
            if former is not None and former.is_whole and description.is_like(former.description):
                # All is as it was, byte by byte: there is nothing to say again.
                return await self.stored.note_unchanged(former.description, self._clock())
            contents = await self._writer.describe(remote, description)
            parts.faults.reach("export.described")
            # Nobody takes the export of a state for the newest one that another has taken over.
            await self._confirm()
            self.stored.claim(note)
            await self._writer.finish(remote, contents)
            parts.faults.reach("export.done")
            done = await self.stored.complete(contents, description)
            parts.faults.reach("export.recorded")
        finally:
            with trio.CancelScope(shield=True):
                await self.stored.try_to_forget()
        await self.stored.prune(remote)
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
                    await self.stored.stage(note)
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
        self.stored.add(note)
        await trio.to_thread.run_sync(engine.sync)
        self._parts.faults.reach("export.begun")
        return note, sources, waiting

    async def _waiting(self, sources: Sequence[Source]) -> set[SourceId]:
        """Return the sources that have directories which are listed on demand."""
        engine = self._engine
        return {
            source.source
            for source in sources
            if await engine.find_directory(source.source, b"") is not None
            or await engine.list_directories(source.source, b"", 1)
        }
