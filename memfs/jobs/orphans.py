"""Orphans: files and objects that nothing refers to and that no garbage names.

There is nothing of the kind unless a state directory was put back from a backup, or somebody has
copied files into it: whatever moves write is named by an intent before its first byte. Since the
record may be what is lost, they are not removed: files go to `lost+found/`, where the keys of
objects are kept. Objects of exports are not files: what no complete export of this state needs, by
the exports themselves, is removed.

Invariant: names are listed before it is asked who refers to them. Numbers and keys are never used
twice, so a name that existed and that nothing refers to later is referred to by nobody ever again.
"""

from __future__ import annotations

import enum
import logging
import re
import time
from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from memfs.addresses import key_within
from memfs.errors import InvalidValueError
from memfs.metadata.records import MoveKind
from memfs.moves.attempt import configured_store
from memfs.sizes import format_duration
from memfs.stores.disk import disk_errors
from memfs.types import FormKind, Generation, InodeNo, RawId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from memfs.exports.stored import StoredExports
    from memfs.moves.attempt import MoveParts

log = logging.getLogger(__name__)

AGE_S_MIN = 3600.0
"""Younger objects are left alone, by the clocks of both sides: another state directory with the
same prefix may be writing them. Guess: no upload takes so long from its object to its form."""

SHARED_AGE_S_MIN = 24 * 3600.0
"""Likewise on a mount that nodes share: one whose place was taken may go on for a while, and store
objects of files that no table has. There is a day to save these. Guess."""

FILES_A_SLICE = 2000
NAMES_A_LOOK = 1000
"""Names that the engine is asked for at once: some milliseconds."""

SHOWN_MAX = 100

_BLOB_KEY = re.compile(r"blobs/[0-9a-f]{2}/([0-9a-f]+)-[0-9a-f]+-[0-9a-f]{16}")
_BATCH_KEY = re.compile(r"batches/[0-9a-f]{2}/[0-9a-f]{22}")
_PREFIX = re.compile(r"(blobs|batches)/[0-9a-f]{0,2}")
_PACKED = re.compile(r"packed/[0-9a-f]+/[0-9a-f]+")


class SearchPlace(enum.StrEnum):
    """Where to look."""

    RAW = "raw"
    PACKED = "packed"
    TEMPORARY = "tmp"
    REMOTE = "remote"
    UPLOADS = "uploads"
    """Unfinished ones in the store."""
    EXPORTS = "exports"
    """Objects of exports, below `meta/`."""


@dataclass(slots=True)
class Orphans:
    """What was found in one place."""

    names: list[str] = field(default_factory=list)
    """The first `SHOWN_MAX`."""
    count: int = 0
    bytes: int = 0
    taken_count: int = 0
    """Those that are in lost+found now: files moved, keys of objects noted; or gone, of unfinished
    uploads and of exports."""
    young_count: int = 0
    """Objects that nothing here refers to and that are too young, or of unknown age."""
    foreign_count: int = 0
    """Objects that another state directory has written: their numbers were never given here."""
    held_count: int = 0
    """Objects that an export of before an import names, and nothing else."""

    def add(self, name: str, size: int) -> None:
        """Note an orphan."""
        self.count += 1
        self.bytes += size
        if len(self.names) < SHOWN_MAX:
            self.names.append(name)


class OrphanSearch:
    """Finds orphans, and puts them away on request, beside all that programs do.

    Args:
        exports: None: there are no exports.
        clock: Seconds since the epoch; tests give their own.
        age_s: Objects that are younger are left alone.
    """

    def __init__(
        self,
        parts: MoveParts,
        exports: StoredExports | None = None,
        clock: Callable[[], float] = time.time,
        age_s: float = AGE_S_MIN,
    ) -> None:
        self._parts = parts
        self._age_s = age_s
        self._exports = exports
        self._clock = clock
        # Raw files of this process stand ready for long before an inode has them.
        self._raw_end = parts.engine.unrecorded_raw_range()[1]

    async def look(self, place: SearchPlace, prefix: str = "", *, take: bool = False) -> Orphans:
        """Look at one place.

        Args:
            place: Where.
            prefix: That of the keys in one store, in memfs's layout: `blobs/` or `batches/` and up
                to two digits; in front of it the name of the store and a colon, if it has one
                (`memfs.addresses`). For uploads that name and the colon alone.
            take: Put what is found into lost+found; never what is young or foreign.

        Raises:
            InvalidValueError: The prefix is not one of memfs's.
            NotSupportedError: There is no object store.
            StoreError: The store cannot be listed, or is not configured.
        """
        match place:
            case SearchPlace.RAW:
                return await self._look_at_raw(take)
            case SearchPlace.PACKED:
                return await self._look_at_packed(take)
            case SearchPlace.TEMPORARY:
                return await self._look_at_temporary(take)
            case SearchPlace.REMOTE:
                return await self._look_at_remote(prefix, take)
            case SearchPlace.UPLOADS:
                return await self._look_at_uploads(prefix, take)
            case SearchPlace.EXPORTS:
                return await self._look_at_exports(take)

    async def _look_at_raw(self, take: bool) -> Orphans:
        parts, engine = self._parts, self._parts.engine
        listed = await trio.to_thread.run_sync(
            lambda: array("Q", parts.raw_store.list_range(RawId(0), self._raw_end))
        )
        referenced = bytearray(len(listed))

        def mark(raws: Iterable[int]) -> None:
            for raw in raws:
                index = bisect_left(listed, raw)
                if index < len(listed) and listed[index] == raw:
                    referenced[index] = 1

        after = InodeNo(0)
        while inodes := await engine.list_files(after, FILES_A_SLICE):
            mark(inode.raw for inode in inodes)
            after = inodes[-1].ino
            await trio.lowlevel.checkpoint()
        kept_after = (InodeNo(0), Generation(0))
        while kept := await engine.list_kept(kept_after, FILES_A_SLICE):
            mark(each.raw for each in kept)
            kept_after = (kept[-1].ino, kept[-1].generation)
        # Afterwards: what an inode lost meanwhile is garbage by now, and not removed before that
        # is durable.
        garbage = await engine.list_garbage(2**31)
        mark(int(item.location) for item in garbage if item.kind == FormKind.RAW)
        intents = await engine.list_intents()
        mark(int(each.location) for each in intents if each.kind == MoveKind.HYDRATE)
        raws = [RawId(raw) for raw, kept in zip(listed, referenced, strict=True) if not kept]
        return await self._finish_local([parts.raw_store.path(raw) for raw in raws], take)

    async def _look_at_packed(self, take: bool) -> Orphans:
        store = self._parts.packed_store
        names = await trio.to_thread.run_sync(lambda: [*store.iterate()])
        ours = [name for name in names if _PACKED.fullmatch(name)]
        found = await self._find_unreferenced(FormKind.PACKED, ours)
        return await self._finish_local([store.path(name) for name in found], take)

    async def _look_at_temporary(self, take: bool) -> Orphans:
        paths = await trio.to_thread.run_sync(self._parts.packed_store.foreign_temporary)
        return await self._finish_local(paths, take)

    async def _look_at_remote(self, prefix: str, take: bool) -> Orphans:
        parts, remote = self._parts, configured_store(self._parts)
        if not _PREFIX.fullmatch(key_within(prefix)):
            raise InvalidValueError(f"prefix: {prefix!r} is not one of memfs's keys")
        before_s = self._clock() - self._age_s
        sizes: dict[str, int] = {}
        young: set[str] = set()
        async for stat in remote.list(prefix):
            key = key_within(stat.key)
            if not (_BLOB_KEY.fullmatch(key) or _BATCH_KEY.fullmatch(key)):
                continue
            sizes[stat.key] = stat.size
            if stat.modified_s is None or stat.modified_s > before_s:
                young.add(stat.key)
        # After the listing: no blob of this state directory has a higher number in it.
        blob_end = int(parts.engine.reserve_blob())
        orphans = Orphans()
        old = []
        for key in await self._find_unreferenced(FormKind.REMOTE, [*sizes]):
            blob = _BLOB_KEY.fullmatch(key_within(key))
            if blob is not None and int(blob[1], 16) >= blob_end:
                orphans.foreign_count += 1
            elif key in young:
                orphans.young_count += 1
            else:
                old.append(key)
        named = await self._named(old)
        orphans.held_count = len(named)
        due = [key for key in old if key not in named]
        for key in due:
            orphans.add(key, sizes[key])
        if take and due:
            await self._sync()
            await trio.to_thread.run_sync(
                parts.lost_found.note_objects, [(key, sizes[key]) for key in due]
            )
            orphans.taken_count += len(due)
        return orphans

    async def _look_at_uploads(self, store: str, take: bool) -> Orphans:
        """Find uploads that no move is making; what is taken of them is gone: no file has it."""
        parts, remote = self._parts, configured_store(self._parts)
        if key_within(store):
            raise InvalidValueError(f"prefix: {store!r} is not that of a store alone")
        listed = await remote.list_uploads(store)
        # After the listing: an upload that began before is named by its intent until it ends.
        uploading = {each.location for each in await parts.engine.list_intents()}
        blob_end = int(parts.engine.reserve_blob())
        now_s = self._clock()
        orphans = Orphans()
        for stat in listed:
            key = key_within(stat.key)
            blob = _BLOB_KEY.fullmatch(key)
            if stat.key in uploading or not (blob or _BATCH_KEY.fullmatch(key)):
                continue
            age_s = 0.0 if stat.modified_s is None else now_s - stat.modified_s
            if blob is not None and int(blob[1], 16) >= blob_end:
                orphans.foreign_count += 1
            elif age_s < self._age_s:
                orphans.young_count += 1
            else:
                orphans.add(f"unfinished upload of {stat.key}, {format_duration(age_s)} old", 0)
                if take:
                    orphans.taken_count += bool(await remote.abort_uploads(stat.key))
        return orphans

    async def _look_at_exports(self, take: bool) -> Orphans:
        """Find objects that no complete export needs; what is taken of them is gone."""
        orphans = Orphans()
        if self._exports is None:
            return orphans
        found = await self._exports.look_for_unneeded(remove=take)
        for stat in found.objects:
            orphans.add(stat.key, stat.size)
        orphans.foreign_count = found.foreign_count
        if take and self._parts.source is None:
            orphans.taken_count = len(found.objects)
        return orphans

    async def _named(self, addresses: Sequence[str]) -> set[str]:
        """Return those of some objects that exports name; they are read only if there are some."""
        if self._exports is None or not addresses:
            return set()
        return await self._exports.named(addresses)

    async def find_removable(self, addresses: Sequence[str]) -> list[str]:
        """Return those of some objects that neither this state nor an export of it refers to.

        Raises:
            MemfsError: It is not known what an export names.
        """
        found = await self._find_unreferenced(FormKind.REMOTE, addresses)
        named = await self._named(found)
        return [address for address in found if address not in named]

    async def _find_unreferenced(self, kind: FormKind, names: Sequence[str]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(names), NAMES_A_LOOK):
            part = names[start : start + NAMES_A_LOOK]
            found += await self._parts.engine.find_unreferenced(kind, part)
            await trio.lowlevel.checkpoint()
        return found

    async def _finish_local(self, paths: Sequence[Path], take: bool) -> Orphans:
        if take and paths:
            await self._sync()
        return await trio.to_thread.run_sync(self._finish_files, paths, take)

    def _finish_files(self, paths: Sequence[Path], take: bool) -> Orphans:
        orphans = Orphans()
        for path in paths:
            with disk_errors(str(path)):
                try:
                    size = path.stat().st_blocks * 512
                except FileNotFoundError:
                    # Garbage by the time that it was listed, and removed since.
                    continue
                orphans.add(str(path), size)
        if take:
            orphans.taken_count = self._parts.lost_found.take(paths)
        return orphans

    async def _sync(self) -> None:
        """After power loss the engine must not be older than what is removed now."""
        parts = self._parts
        await parts.file_syncs.sync()
