"""Refreshing: the tree below a source's root is brought in step with a listing of the source.

The listing and the rows of the engine are two streams in order of key, which are merged page by
page. A new key becomes a file, an object that has changed another inode. What the listing does not
have is looked at when it has ended.

Invariant: nothing is removed for a listing that did not end, nor if more than a tenth of the files
would go and nobody has confirmed that. A listing that is killed goes on from what it has made: its
next run finds the files and leaves them alone.
"""

from __future__ import annotations

import os
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from memfs.content.sources import count_rows
from memfs.errors import (
    FrozenError,
    ListingOrderError,
    MemfsError,
    NotFoundError,
    StaleInodeError,
)
from memfs.filesystem.foreign_changes import Likeness, NewObject, is_same
from memfs.filesystem.freezing import find_frozen_part
from memfs.filesystem.object_names import names_of_key
from memfs.metadata.foreign import Conflict, WhenGone
from memfs.moves.attempt import sources_of
from memfs.stores.told import SIZE_UNKNOWN
from memfs.types import ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from memfs.control.methods.adoption import AdoptReport
    from memfs.filesystem.demand_listing import DemandListing
    from memfs.metadata.foreign import ForeignDirectory, ForeignObject, Source
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import ListingQuota
    from memfs.stores.source import SourceObject

OBJECTS_A_CHANGE = 250
"""Files made in one change of the engine, some 5 ms. Guess."""

ROWS_A_PAGE = 1000
KEYS_SHOWN_MAX = 100

GONE_SHARE_MAX = 10
"""At most one of so many files is removed for a listing, unless that is confirmed."""


@dataclass(slots=True)
class RefreshTally:
    """What was done so far."""

    source: int = 0
    listed_count: int = 0
    """Objects."""
    listed_bytes: int = 0
    made_count: int = 0
    directory_count: int = 0
    replaced_count: int = 0
    removed_count: int = 0
    gone_count: int = 0
    """Files whose object is gone, and which stay."""
    conflict_count: int = 0
    """Files that were written here, and whose object was changed or removed there."""
    odd_count: int = 0
    odd: list[str] = field(default_factory=list)
    """The first keys that are no names, each with what became of it."""
    refused_count: int = 0
    refused: list[str] = field(default_factory=list)
    """The first keys whose name something of memfs's own has."""
    taken_count: int = 0
    """Files that are memfs's own now, or are back in their directory."""
    taken_bytes: int = 0
    failed_count: int = 0
    failures: list[str] = field(default_factory=list)
    """The first files that could not be taken, or given back, and keys of unknown size."""
    problem: str = ""
    is_waiting: bool = False
    """Somebody else lists the source: nothing was done yet."""

    def note_taken(self, size: int) -> None:
        """Note a file that was taken, or given back."""
        self.taken_count += 1
        self.taken_bytes += size

    def note_failed(self, key: str, reason: str) -> None:
        """Note one that could not be."""
        self.failed_count += 1
        if len(self.failures) < KEYS_SHOWN_MAX:
            self.failures.append(f"{_shown(key)}: {_shown(reason)}")

    def note_odd(self, key: str, path: bytes) -> None:
        """Note a key whose file has another name."""
        self.odd_count += 1
        if len(self.odd) < KEYS_SHOWN_MAX:
            self.odd.append(f"{_shown(key)}: {_shown(path.decode('utf-8', 'backslashreplace'))}")

    def note_refused(self, key: str) -> None:
        """Note a key without a file."""
        self.refused_count += 1
        if len(self.refused) < KEYS_SHOWN_MAX:
            self.refused.append(_shown(key))

    def report(self, *, ended: bool) -> AdoptReport:
        """Return it for the control socket."""
        return {
            "ended": ended,
            "source": self.source,
            "listed_count": self.listed_count,
            "listed_bytes": self.listed_bytes,
            "made_count": self.made_count,
            "directory_count": self.directory_count,
            "replaced_count": self.replaced_count,
            "removed_count": self.removed_count,
            "gone_count": self.gone_count,
            "conflict_count": self.conflict_count,
            "odd_count": self.odd_count,
            "odd": self.odd,
            "refused_count": self.refused_count,
            "refused": self.refused,
            "taken_count": self.taken_count,
            "taken_bytes": self.taken_bytes,
            "failed_count": self.failed_count,
            "failures": self.failures,
            "problem": self.problem,
            "waiting": self.is_waiting,
        }


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class Refresh:
    """One listing of one source.

    Args:
        changes: Makes the changes.
        parts: Engine, sources, fault points.
        source: As it was when this began.
        like: What new files look like.
        tally: Filled while it runs.
        confirmed: Files may be removed however many they are.
        looked_only: Only directories are listed that somebody has looked into; else all of the
            source is, and nothing of it waits for that any more.
        quota: Has room for its requests; None: it is not held back, since somebody waits for it.
    """

    def __init__(
        self,
        changes: DemandListing,
        parts: MoveParts,
        source: Source,
        like: Likeness,
        tally: RefreshTally,
        *,
        confirmed: bool = False,
        looked_only: bool = False,
        quota: ListingQuota | None = None,
    ) -> None:
        self._changes = changes
        self._parts = parts
        self._engine = parts.engine
        self._source = source
        self._like = like
        self._tally = tally
        self._confirmed = confirmed
        self._looked_only = looked_only
        self._quota = quota
        self._directories: dict[tuple[bytes, ...], InodeNo] = {}
        self._missing: list[ForeignObject] = []
        self._returned: list[bytes] = []
        """Keys that were removed here, and are not listed any more."""
        self._vanished: list[ForeignDirectory] = []
        """Directories that nothing is listed below any more."""

    async def run(self) -> AsyncGenerator[None, None]:
        """Do it, a page a step.

        Raises:
            StoreError: The source does not answer, or has refused; nothing was removed.
            QuotaSpentError: It takes more requests than there is room for; likewise.
            NotFoundError: The source, or its root, was removed meanwhile.
        """
        self._tally.source = self._source.source
        try:
            if path := await find_frozen_part(self._engine, self._source.root):
                raise FrozenError(f"{path} is frozen: what has changed is taken once it is thawed")
            for attempt in range(2):
                self._missing.clear()
                self._returned.clear()
                self._vanished.clear()
                self._directories.clear()
                try:
                    merge = self._merge_looked_at() if self._looked_only else self._merge()
                    async with aclosing(merge) as steps:
                        async for _ in steps:
                            yield
                    break
                except ListingOrderError:
                    if attempt:
                        raise
                    self._tally.listed_count = self._tally.listed_bytes = 0
            self._parts.faults.reach("adopt.listed")
            async with aclosing(self._look_at_missing()) as steps:
                async for _ in steps:
                    yield
        except MemfsError as error:
            await self._note_end(f"the listing has not ended, and nothing was removed: {error}")
            self._parts.source_counts.failed_listing_count += 1
            self._parts.events.note("source", "", f"{self._source.url} cannot be listed: {error}")
            raise
        if not self._looked_only:
            async with self._engine.change():
                await self._engine.forget_directories(self._source.source)
        await self._note_end(self._tally.problem, has_ended=True)
        self._parts.faults.reach("adopt.ended")

    async def _note_end(self, problem: str, *, has_ended: bool = False) -> None:
        self._tally.problem = problem
        try:
            now = await self._present()
        except NotFoundError:
            return
        changed = now._replace(problem=problem)
        if has_ended:
            changed = changed._replace(listed_ns=time.time_ns())
            sources_of(self._parts).waiting.pop(now.source, None)
        async with self._engine.change():
            await self._engine.put_source(changed)

    async def _present(self) -> Source:
        for each in await self._engine.list_sources():
            if each.source == self._source.source:
                return each
        raise NotFoundError(f"the source {self._source.url} was removed")

    def _take_requests(self, count: int) -> None:
        if self._quota is not None:
            self._quota.take(count)

    # --- the merge -------------------------------------------------------------------------------
    async def _merge(self) -> AsyncGenerator[None, None]:
        assert self._parts.sources is not None
        store = await self._parts.sources.store_of(self._source.source)
        after = b""
        self._take_requests(1)
        async with aclosing(store.list_pages()) as pages:
            async for page in pages:
                until = page[-1].order
                known = {each.key: each async for each in self._rows(after, until)}
                gone = {key async for key in self._gone(after, until)}
                await self._merge_page(page, known, gone)
                self._parts.faults.reach("adopt.page")
                after = until
                yield
                self._take_requests(1)
        # Behind the last key that is listed.
        async for each in self._rows(after, None):
            self._note_missing(each)
        async for key in self._gone(after, None):
            self._returned.append(key)

    async def _merge_looked_at(self) -> AsyncGenerator[None, None]:
        """Merge what is in directories that somebody has looked into, one after the other."""
        after: bytes | None = None
        while True:
            if after is None:
                first = await self._engine.find_directory(self._source.source, b"")
                rows, after = [first] if first is not None else [], b""
            elif rows := await self._engine.list_directories(
                self._source.source, after, ROWS_A_PAGE
            ):
                after = rows[-1].prefix
            else:
                return
            for row in rows:
                if row.listed_ns and await self._changes.find_inode(row.ino) is not None:
                    async with aclosing(self._merge_directory(row)) as steps:
                        async for _ in steps:
                            yield

    async def _merge_directory(self, directory: ForeignDirectory) -> AsyncGenerator[None, None]:
        assert self._parts.sources is not None
        changes = self._changes
        store = await self._parts.sources.store_of(self._source.source)
        # Names are looked up in each directory by themselves.
        self._directories.clear()
        after, listed_ns = directory.prefix, time.time_ns()
        self._take_requests(1)
        pages = store.list_pages(os.fsdecode(directory.prefix), shallow=True)
        async with aclosing(pages):
            async for page in pages:
                until = page[-1].order
                known = {each.key: each async for each in changes.rows_in(directory, after, until)}
                gone = {key async for key in changes.gone_in(directory, after, until)}
                listed = {each.order for each in page}
                async for below in changes.directories_in(directory, after, until):
                    if below.prefix not in listed:
                        self._vanished.append(below)
                await self._merge_page(page, known, gone, directory)
                self._parts.faults.reach("adopt.page")
                after = until
                yield
                self._take_requests(1)
        async for each in changes.rows_in(directory, after, None):
            self._note_missing(each)
        async for key in changes.gone_in(directory, after, None):
            self._returned.append(key)
        async for below in changes.directories_in(directory, after, None):
            self._vanished.append(below)
        async with self._engine.change():
            await self._engine.set_listed(directory.ino, listed_ns)
        yield

    async def _merge_page(
        self,
        page: Sequence[SourceObject],
        known: dict[bytes, ForeignObject],
        gone: set[bytes],
        directory: ForeignDirectory | None = None,
    ) -> None:
        """Merge a page of all objects, or of those in one directory."""
        new: list[SourceObject] = []
        for found in page:
            # A directory of a directory is no object, nor is a beginning of keys.
            self._tally.listed_count += not found.key.endswith("/") or (
                found.attributes is None and directory is None
            )
            self._tally.listed_bytes += max(found.size, 0)
            key = found.order
            row = known.pop(key, None)
            if found.size == SIZE_UNKNOWN:
                # Its file stays as it is; the next listing may tell more.
                gone.discard(key)
                self._tally.note_failed(found.key, "its source tells no size that can be")
            elif row is not None:
                await self._compare(row, found)
            elif key in gone:
                gone.discard(key)
            elif key:
                new.append(found)
        for row in known.values():
            self._note_missing(row)
        self._returned += gone
        for at in range(0, len(new), OBJECTS_A_CHANGE):
            await self._adopt(new[at : at + OBJECTS_A_CHANGE], directory)
            # Requests of programs come first.
            await trio.lowlevel.checkpoint()

    async def _rows(self, after: bytes, until: bytes | None) -> AsyncGenerator[ForeignObject, None]:
        source = self._source.source
        while rows := await self._engine.list_objects(source, after, ROWS_A_PAGE, until):
            for row in rows:
                yield row
            if len(rows) < ROWS_A_PAGE:
                return
            after = rows[-1].key

    async def _gone(self, after: bytes, until: bytes | None) -> AsyncGenerator[bytes, None]:
        while keys := await self._engine.list_gone(self._source.source, after, ROWS_A_PAGE):
            for key in keys:
                if until is not None and key > until:
                    return
                yield key
            after = keys[-1]

    async def _compare(self, row: ForeignObject, found: SourceObject) -> None:
        if is_same(row, found):
            if row.conflict in (Conflict.CHANGED, Conflict.GONE):
                await self._changes.note_conflict(row, Conflict.NONE)
            return
        if await self._changes.replace_object(row, found):
            self._tally.replaced_count += 1
        else:
            self._tally.conflict_count += 1

    async def _adopt(
        self, page: Sequence[SourceObject], directory: ForeignDirectory | None
    ) -> None:
        source = self._source
        if self._like.takes_metadata:
            store = await sources_of(self._parts).store_of(source.source)
            self._take_requests(len(page))
            page = await store.look_at_all(page)
        root, at_root = source.root, source.root == ROOT_INODE
        objects: list[NewObject] = []
        if directory is not None:
            root = directory.ino
            objects = await self._changes.new_in(source, directory, page)
        for found in page:
            names, is_directory, is_odd = names_of_key(found.order, at_mount_root=at_root)
            if directory is None:
                objects.append(NewObject(names, found, is_directory))
            if is_odd:
                self._tally.note_odd(found.key, b"/".join(names))
        for attempt in range(2):
            try:
                made = await self._changes.adopt_objects(
                    source.source, root, objects, self._like, self._directories, directory
                )
                break
            except (NotFoundError, StaleInodeError):
                # A directory that was found before has been removed meanwhile.
                self._directories.clear()
                if attempt:
                    raise
        self._tally.made_count += made.file_count
        self._tally.directory_count += made.directory_count
        for key in made.renamed:
            self._tally.note_odd(key, key.encode("utf-8", "surrogateescape") + b".~object")
        for key in made.refused:
            self._tally.note_refused(key)

    # --- what is not listed ----------------------------------------------------------------------
    def _note_missing(self, row: ForeignObject) -> None:
        self._missing.append(row)

    async def _look_at_missing(self) -> AsyncGenerator[None, None]:
        """Remove, or mark, files whose object is gone; the listing has ended."""
        engine, source = self._engine, await self._present()
        if self._returned:
            async with engine.change():
                await engine.clear_gone(source.source, self._returned)
        total = (await count_rows(engine, source.source)).object_count
        removes = source.deleted is WhenGone.REMOVE
        if (
            removes
            and not self._confirmed
            and len(self._missing) * GONE_SHARE_MAX > max(total, GONE_SHARE_MAX)
        ):
            self._tally.problem = (
                f"{len(self._missing)} of {total} objects are gone, more than a tenth: nothing was "
                "removed; look at the source, then run memfs adopt --refresh --confirm"
            )
            removes = False
        for row in self._missing:
            if removes and await self._changes.remove_object(row, source.root):
                self._tally.removed_count += 1
            elif row.generation and await self._stands(row):
                await self._changes.note_conflict(row, Conflict.GONE)
                self._tally.gone_count += 1
            else:
                await self._changes.note_conflict(row, Conflict.GONE)
                self._tally.conflict_count += 1
            yield
        for directory in self._vanished if removes else ():
            if await self._changes.find_inode(directory.ino) is not None:
                await self._changes.remove_directory_of(directory, source.root)
            yield

    async def _stands(self, row: ForeignObject) -> bool:
        try:
            inode = await self._engine.get_inode(row.ino)
        except StaleInodeError:
            return False
        return inode.generation == row.generation
