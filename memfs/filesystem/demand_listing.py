"""Demand listing: a directory of a source is listed when somebody first looks into it.

A source that was adopted so has directories that nobody has looked into yet. The first request that
must know what is in one has its objects listed, one level deep, before it is answered: all who ask
meanwhile wait for the same listing. Directories that this finds wait in turn for somebody.

Invariant: a program never sees a part of a directory as the whole of it. A listing that has not
ended is an error, and the directory is listed again from its beginning. Only an object whose size
the source does not tell has no file; it is told, and looked for again.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.bounded import BoundedDict
from memfs.defects import as_failure
from memfs.errors import NotFoundError, StaleInodeError, StoreError
from memfs.filesystem.foreign_changes import ForeignChanges, NewObject
from memfs.filesystem.object_names import names_of_key
from memfs.moves.attempt import sources_of
from memfs.stores.told import SIZE_UNKNOWN
from memfs.types import ROOT_INODE
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from memfs.filesystem.operations import Caller
    from memfs.filesystem.replies import Entry
    from memfs.filesystem.shared import Parts
    from memfs.metadata.foreign import ForeignDirectory, ForeignObject, Source
    from memfs.metadata.records import DirectoryEntry
    from memfs.stores.source import SourceObject
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

LISTING_WAIT_S = 60.0
"""A request waits so long for a listing, which goes on behind it: 60,000 objects in one directory
with answers after 1 s. Guess."""

FAILURE_S = 5.0
"""A listing that has failed is not tried again for so long: `ls -l` looks each name up. Guess."""

EMPTY_S = 30.0
"""The same of one that has found nothing, or objects of unknown size: more may come, and the
directory is not listed for good. Guess."""

ENDED_COUNT_MAX = 4096
"""Listings that are remembered for these times."""

OBJECTS_A_CHANGE = 250
"""Files made in one change of the engine, some 5 ms. Guess."""

ROWS_A_PAGE = 1000

_LAST = b"\xff" * 4096
"""Behind a slash: greater than all keys below it, which have at most so many bytes (PATH_MAX)."""


class _Ended(NamedTuple):
    """A listing that is not to be repeated yet."""

    until_s: float
    error: str
    """Why it has failed; empty: it has found nothing, or not all."""


class _Listing:
    """One that is under way."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.error = ""
        self.count = 0
        self.unknown: list[str] = []
        """Keys of objects whose size the source does not tell."""


class DemandListing(ForeignChanges):
    """Requests that must know what is in a directory."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._listings: dict[InodeNo, _Listing] = {}
        self._ended: BoundedDict[InodeNo, _Ended] = BoundedDict(ENDED_COUNT_MAX)

    # --- requests --------------------------------------------------------------------------------
    async def lookup(
        self, parent: InodeNo, name: bytes, caller: Caller | None = None
    ) -> Entry | None:
        """LOOKUP."""
        await self.list_on_demand(parent)
        return await super().lookup(parent, name, caller)

    async def list_directory(
        self, ino: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        """READDIR, READDIRPLUS."""
        await self.list_on_demand(ino)
        return await super().list_directory(ino, after_cookie, limit)

    async def remove_directory(self, parent: InodeNo, name: bytes) -> None:
        """RMDIR; what is in the directory counts, whether anybody has looked or not."""
        await self._list_what_goes(parent, name)
        await super().remove_directory(parent, name)

    async def rename(
        self, parent: InodeNo, name: bytes, new_parent: InodeNo, new_name: bytes, flags: int
    ) -> None:
        """RENAME, RENAME2; a directory is replaced only if it is empty."""
        await self._list_what_goes(new_parent, new_name)
        await super().rename(parent, name, new_parent, new_name, flags)

    async def _list_what_goes(self, parent: InodeNo, name: bytes) -> None:
        await self.list_on_demand(parent)
        found = await self._engine.find(parent, name)
        if found is not None:
            await self.list_on_demand(found.ino)

    # --- listings --------------------------------------------------------------------------------
    async def list_on_demand(self, ino: InodeNo) -> None:
        """Have a directory listed, unless it was, or needs no listing.

        Checkpoint: if it is to be listed. Cancel: safe; the listing goes on.

        Raises:
            StoreError: The source does not answer, or not yet.
        """
        directory = await self._engine.get_directory(ino)
        if directory is None or directory.listed_ns:
            return
        now_s = trio.current_time()
        ended = self._ended.get(ino)
        if ended is not None and now_s < ended.until_s:
            if ended.error:
                raise StoreError(ended.error)
            return
        await leave()
        listing = self._listings.get(ino)
        if listing is None:
            listing = self._listings[ino] = _Listing()
            # Not the task of the request: the listing outlives a program that is killed.
            trio.lowlevel.spawn_system_task(self._list, directory, listing)
        with trio.move_on_after(LISTING_WAIT_S):
            await listing.ended.wait()
        if not listing.ended.is_set():
            raise StoreError(
                f"{os.fsdecode(directory.prefix) or '/'}: it is being listed still, "
                f"{listing.count} objects so far: try again later"
            )
        if listing.error:
            raise StoreError(listing.error)
        # Another task has made these changes, and what a program is shown other nodes see, too.
        await self._engine.commit()

    async def _list(self, directory: ForeignDirectory, listing: _Listing) -> None:
        shown = os.fsdecode(directory.prefix)
        try:
            source = await sources_of(self._move_parts).get(directory.source)
            shown = f"{source.url}/{shown}"
            async for found in self._merge(source, directory):
                listing.count += len(found)
                listing.unknown += [each.key for each in found if each.size == SIZE_UNKNOWN]
            if listing.unknown:
                count, first = len(listing.unknown), listing.unknown[0]
                what = f"{count} objects have no size that can be, as {first}"
                if count == 1:
                    what = f"1 object has no size that can be, {first}"
                log.warning("%s: %s: left out", shown, what)
                self._tell_failure(shown, what)
                # Not for good: a later answer may tell it.
                self._note_ended(directory.ino, EMPTY_S, "")
            elif listing.count:
                async with self._engine.change():
                    await self._engine.set_listed(directory.ino, time.time_ns())
                self._move_parts.faults.reach("list.ended")
            else:
                self._note_ended(directory.ino, EMPTY_S, "")
        except (StaleInodeError, NotFoundError) as error:
            # It, or its source, has gone meanwhile: the request finds out.
            log.info("%s: %s", shown, error)
        except Exception as error:
            reason = as_failure(error, f"{shown}, which is listed")
            listing.error = f"{shown}: it cannot be listed: {reason}; look again in a while"
            log.warning("%s", listing.error)
            self._tell_failure(shown, str(reason))
            self._note_ended(directory.ino, FAILURE_S, listing.error)
        finally:
            del self._listings[directory.ino]
            listing.ended.set()

    def _tell_failure(self, url: str, reason: str) -> None:
        self._move_parts.source_counts.failed_listing_count += 1
        self._move_parts.events.note("source", "", f"{url} cannot be listed: {reason}")

    def _note_ended(self, ino: InodeNo, pause_s: float, error: str) -> None:
        self._ended[ino] = _Ended(trio.current_time() + pause_s, error)

    async def _merge(
        self, source: Source, directory: ForeignDirectory
    ) -> AsyncGenerator[list[SourceObject], None]:
        """Make files and directories of what is in a directory; a page a step."""
        store = await sources_of(self._move_parts).store_of(source.source)
        like = await self.likeness_of(source)
        directories: dict[tuple[bytes, ...], InodeNo] = {}
        after = directory.prefix
        pages = store.list_pages(os.fsdecode(directory.prefix), shallow=True)
        async with aclosing(pages):
            async for page in pages:
                until = page[-1].order
                known = {each.key async for each in self.rows_in(directory, after, until)}
                gone = {key async for key in self.gone_in(directory, after, until)}
                new = [
                    each
                    for each in page
                    if each.order not in known
                    and each.order not in gone
                    and each.size != SIZE_UNKNOWN
                ]
                if like.takes_metadata:
                    new = await store.look_at_all(new)
                some = await self.new_in(source, directory, new)
                for at in range(0, len(some), OBJECTS_A_CHANGE):
                    made = await self.adopt_objects(
                        source.source,
                        directory.ino,
                        some[at : at + OBJECTS_A_CHANGE],
                        like,
                        directories,
                        directory,
                        unseen=directory.ino not in self._ended,
                    )
                    for key in made.refused:
                        log.warning("%s/%s: something else has the name", source.url, key)
                    await trio.lowlevel.checkpoint()
                self._move_parts.faults.reach("list.page")
                after = until
                yield page

    # --- what is known of one directory ----------------------------------------------------------
    async def new_in(
        self, source: Source, directory: ForeignDirectory, found: Sequence[SourceObject]
    ) -> list[NewObject]:
        """Return what is to be made of objects in a directory that are not known yet.

        One that stands for the directory itself, or for one that is there, is left out.
        """
        new: list[NewObject] = []
        at_root = directory.ino == ROOT_INODE
        for each in found:
            key = each.order[len(directory.prefix) :]
            if not key or (
                key.endswith(b"/")
                and await self._engine.find_directory(source.source, each.order) is not None
            ):
                continue
            names, is_directory, _ = names_of_key(key, at_mount_root=at_root)
            new.append(NewObject(names[-1:], each, is_directory))
        return new

    async def directories_in(
        self, directory: ForeignDirectory, after: bytes, until: bytes | None
    ) -> AsyncGenerator[ForeignDirectory, None]:
        """Yield directories in a directory that wait to be looked into, or did; as `rows_in`."""
        engine, skip = self._engine, len(directory.prefix)
        while rows := await engine.list_directories(directory.source, after, ROWS_A_PAGE):
            for row in rows:
                after = row.prefix
                if _is_behind(row.prefix, directory, until):
                    return
                slash = row.prefix.find(b"/", skip)
                if slash < len(row.prefix) - 1:
                    after = row.prefix[: slash + 1] + _LAST
                    break
                yield row

    async def rows_in(
        self, directory: ForeignDirectory, after: bytes, until: bytes | None
    ) -> AsyncGenerator[ForeignObject, None]:
        """Yield objects in a directory, without those below it, in order of key.

        Args:
            directory: Theirs.
            after: Keys behind it.
            until: The last key; None: up to the end of the directory.
        """
        engine, skip = self._engine, len(directory.prefix)
        while rows := await engine.list_objects(directory.source, after, ROWS_A_PAGE, until):
            for row in rows:
                after = row.key
                if _is_behind(row.key, directory, until):
                    return
                slash = row.key.find(b"/", skip)
                if slash >= 0:
                    # On behind all that is below the directory of that name.
                    after = row.key[: slash + 1] + _LAST
                    break
                yield row
            if _is_behind(after, directory, until):
                return

    async def gone_in(
        self, directory: ForeignDirectory, after: bytes, until: bytes | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield keys, and prefixes, of what was removed from a directory; as `rows_in`."""
        skip = len(directory.prefix)
        while keys := await self._engine.list_gone(directory.source, after, ROWS_A_PAGE):
            for key in keys:
                after = key
                if _is_behind(key, directory, until):
                    return
                if key.find(b"/", skip) in (-1, len(key) - 1):
                    yield key


def _is_behind(key: bytes, directory: ForeignDirectory, until: bytes | None) -> bool:
    return (until is not None and key > until) or not key.startswith(directory.prefix)
