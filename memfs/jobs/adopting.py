"""The answers of the control socket to `memfs adopt`: sources are added, listed again, owned.

Invariant: a source is listed by one task at a time; what a listing has made stays when it is cut
off, and the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import time
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import trio

from memfs.content.sources import FILE_SYSTEM_OPTION, STORE_OPTION, count_rows
from memfs.defects import as_failure
from memfs.errors import (
    AlreadyExistsError,
    FilesOpenError,
    InvalidValueError,
    NotADirectoryInodeError,
    NotFoundError,
    QuotaSpentError,
    StaleInodeError,
    UsageError,
)
from memfs.filesystem.foreign_changes import HEAD_OPTION
from memfs.filesystem.tree_changes import Name, Original
from memfs.jobs.file_work import run_work
from memfs.jobs.forgetting import forget_source
from memfs.jobs.paths import find_parent, find_path, split_path
from memfs.jobs.refreshing import Refresh, RefreshTally
from memfs.jobs.releasing import Releasing
from memfs.jobs.sliced_work import SLICE_S, SlicedWork
from memfs.jobs.taking import Take, Taking
from memfs.metadata.foreign import ForeignDirectory, WhenGone
from memfs.moves.attempt import sources_of
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.placement.quotas import ListingQuota
from memfs.stores.source import PAGE_COUNT
from memfs.types import InodeNo, SourceId
from memfs.urls import PLAIN_OPTIONS, url_without_secrets

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from memfs.control.methods.adoption import AdoptReport, SourceReport
    from memfs.control.methods.trees import WorkReport
    from memfs.control.server import Handler
    from memfs.filesystem.demand_listing import DemandListing
    from memfs.jobs.file_work import WorkResults
    from memfs.metadata.foreign import Source
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas

log = logging.getLogger(__name__)

WATCH_PAUSE_S = 5.0
"""Between two looks at which sources are due."""

WATCH_S_MIN = 10

TAKE_OPTION = "take"
"""Among the options of a source: what becomes of its files."""

_MODE_MAX = 0o7777
_ID_MAX = (1 << 32) - 2


class _Owning:
    """Has files stand for themselves: their bytes are fetched, and become memfs's own."""

    def __init__(self, changes: DemandListing, parts: MoveParts) -> None:
        self._changes = changes
        self._parts = parts

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Own one file."""
        engine = self._parts.engine
        inode = await engine.get_inode(ino)
        foreign = await engine.get_object(ino) if stat.S_ISREG(inode.mode) else None
        if foreign is None or foreign.generation != inode.generation:
            results.note(ino, MoveOutcome.UNNEEDED)
            return
        if inode.size:
            inode = await hydrate(self._parts, ino)
        if await self._changes.own_object(ino):
            results.note(ino, MoveOutcome.DONE, moved_bytes=inode.size)
        else:
            results.note(ino, MoveOutcome.SUPERSEDED, "it was changed meanwhile; try again")

    async def finish(self, results: WorkResults) -> None:
        """Nothing is left to do."""
        await trio.lowlevel.checkpoint()


class AdoptMethods:
    """Answers `adopt` and the other methods whose names begin so.

    Args:
        changes: Makes the changes of the tree.
        parts: Engine and sources.
        quotas: Have room for listings that nobody waits for, or not.
        slice_s: How long one call works.
    """

    def __init__(
        self,
        changes: DemandListing,
        parts: MoveParts,
        quotas: Quotas,
        *,
        slice_s: float = SLICE_S,
    ) -> None:
        self._changes = changes
        self._parts = parts
        self._quotas = quotas
        self._put_off_ns: dict[SourceId, int] = {}
        """When sources are due again that a quota holds back."""
        self._engine = parts.engine
        self._works = SlicedWork[RefreshTally](slice_s)
        self._busy: dict[SourceId, trio.Event] = {}
        """Sources that somebody has to oneself, and when that ends."""

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "adopt": self.adopt,
            "adopt_refresh": self.refresh,
            "adopt_cancel": self.cancel,
            "adopt_sources": self.sources,
            "adopt_own": self.own,
            "adopt_forget": self.forget,
            "adopt_release": self.release,
        }

    async def run(self) -> None:
        """List sources again that are watched, for ever."""
        while True:
            await trio.sleep(WATCH_PAUSE_S)
            await self.step(time.time_ns())

    async def step(self, now_ns: int) -> None:
        """List the sources again that are due, and that the quotas have room for."""
        for source in await self._engine.list_sources():
            due_ns = source.listed_ns + source.watch_s * 1_000_000_000
            due_ns = max(due_ns, self._put_off_ns.get(source.source, 0))
            if not source.watch_s or now_ns < due_ns or source.source in self._busy:
                continue
            try:
                await self._list_watched(source)
                self._put_off_ns.pop(source.source, None)
            except QuotaSpentError as error:
                self._wait_for_quota(source, now_ns, error)
            except Exception as error:
                reason = as_failure(error, f"{source.url}, which is listed again")
                log.warning("%s: cannot be listed: %s", source.url, reason)
                await self._put_off(source, now_ns)

    async def _list_watched(self, source: Source) -> None:
        looked_only = await self._is_lazy(source)
        quota: ListingQuota | None = None
        if not source.url.startswith("file:"):
            count = await self._request_count(source, looked_only=looked_only)
            quota = ListingQuota(self._quotas, count)
        sources_of(self._parts).waiting.pop(source.source, None)
        listing = self._list(source, RefreshTally(), looked_only=looked_only, quota=quota)
        try:
            async with aclosing(listing) as steps:
                async for _ in steps:
                    await trio.lowlevel.checkpoint()
        finally:
            if quota is not None:
                quota.close()

    async def _request_count(self, source: Source, *, looked_only: bool) -> int:
        """Return the requests that a listing takes by what is known: a page each, and a last one.

        Objects that are new, and looks at them, come on top.
        """
        count = await count_rows(self._engine, source.source)
        # A directory that somebody has looked into takes a request at least, as the root does.
        list_count = max(1, count.listed_count) if looked_only else 1
        return count.object_count // PAGE_COUNT + list_count + 1

    def _wait_for_quota(self, source: Source, now_ns: int, error: QuotaSpentError) -> None:
        """Have a source wait for its requests; not for ever: the quota may be raised."""
        policy = self._parts.config.policy
        pause_s = min(max(error.wait_s, policy.retry_s_min), policy.retry_s_max)
        self._put_off_ns[source.source] = now_ns + int(pause_s * 1e9)
        waiting = sources_of(self._parts).waiting
        if waiting.get(source.source) != str(error):
            waiting[source.source] = str(error)
            log.info("%s is not listed again yet: %s", source.url, error)

    async def _put_off(self, source: Source, now_ns: int) -> None:
        """Have a source that fails wait for its next turn, as one that did not."""
        for now in await self._engine.list_sources():
            if now.source == source.source and now.listed_ns:
                async with self._engine.change():
                    await self._engine.put_source(now._replace(listed_ns=now_ns))

    # --- the methods -----------------------------------------------------------------------------
    async def adopt(
        self,
        url: str,
        path: str,
        work: str,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        watch_s: int | None = None,
        deleted: str | None = None,
        store: str | None = None,
        take: str | None = None,
        options: dict[str, object] | None = None,
        lazy: bool = False,
        head: bool = False,
    ) -> AdoptReport:
        """Make files of the objects of a source, for a second; see `client.Adoption.adopt`.

        Raises:
            AlreadyExistsError: The path is the root of another source.
            InvalidValueError: An argument makes no sense, or the directory is not empty.
            NotFoundError, NotADirectoryInodeError: There is no directory above the path, or on it.
            FilesOpenError: The source is being listed.
            UsageError: The URL cannot be used.
            StoreError: The source does not answer, or refuses.
        """

        def begin(tally: RefreshTally) -> AsyncGenerator[None, None]:
            wanted = _wanted(mode, uid, gid, store, options)
            if head:
                wanted[HEAD_OPTION] = True
            if take is not None:
                wanted[TAKE_OPTION] = _take(take, url).value
            if lazy and wanted.get(TAKE_OPTION, Take.REFERENCE.value) != Take.REFERENCE.value:
                raise InvalidValueError("what is copied or moved is listed at once, and not lazily")
            when_gone = None if deleted is None else _when_gone(deleted)
            _check_watch(watch_s)
            return self._adopt(url, os.fsencode(path), wanted, watch_s, when_gone, tally, lazy=lazy)

        return await self._go_on(work, begin)

    async def refresh(
        self,
        path: str,
        work: str,
        watch_s: int | None = None,
        deleted: str | None = None,
        confirm: bool = False,
    ) -> AdoptReport:
        """List a source again, for a second; raises as `adopt`."""

        async def steps(tally: RefreshTally) -> AsyncGenerator[None, None]:
            source = await self._source_at(os.fsencode(path))
            if _taken(source) is not Take.REFERENCE:
                raise InvalidValueError(
                    f"the files of {source.url} are memfs's own: nothing is followed there"
                )
            source = await self._settle(source, watch_s, deleted)
            async with aclosing(self._list(source, tally, confirmed=confirm)) as listing:
                async for _ in listing:
                    yield

        def begin(tally: RefreshTally) -> AsyncGenerator[None, None]:
            _check_watch(watch_s)
            if deleted is not None:
                _when_gone(deleted)
            return steps(tally)

        return await self._go_on(work, begin)

    async def cancel(self, work: str) -> None:
        """End some work before its next page; nothing, if it has ended."""
        await self._works.cancel(work)

    async def sources(self) -> list[SourceReport]:
        """Return all sources, with how much of them was adopted."""
        return [await self._describe(each) for each in await self._engine.list_sources()]

    async def own(self, inos: list[int]) -> WorkReport:
        """Fetch the bytes of files, which stand for themselves from then on."""
        return await run_work(inos, _Owning(self._changes, self._parts))

    async def forget(self, path: str) -> int:
        """Give a source up; its files have to be owned, or removed, before.

        Returns:
            How many keys it has forgotten.

        Raises:
            NotFoundError: No source has that root.
            InvalidValueError: Files, or snapshots, have nothing but its objects.
        """
        source = await self._source_at(os.fsencode(path))
        count = (await count_rows(self._engine, source.source)).object_count
        async with self._alone(source):
            await forget_source(self._parts, source)
        return count

    # --- work ------------------------------------------------------------------------------------
    async def _go_on(
        self, work: str, begin: Callable[[RefreshTally], AsyncGenerator[None, None]]
    ) -> AdoptReport:
        def start() -> tuple[RefreshTally, AsyncGenerator[None, None]]:
            tally = RefreshTally()
            return tally, begin(tally)

        tally, ended = await self._works.go_on(work, start)
        if ended:
            await self._changes.wait_told()
        return tally.report(ended=ended)

    async def _adopt(
        self,
        url: str,
        path: bytes,
        wanted: dict[str, object],
        watch_s: int | None,
        deleted: WhenGone | None,
        tally: RefreshTally,
        *,
        lazy: bool,
    ) -> AsyncGenerator[None, None]:
        shown = url_without_secrets(url).rstrip("/")
        if shown != url.rstrip("/"):
            raise UsageError(
                f"{shown}: a source is stored in clear: give user and password in glacier.options"
            )
        # Before anything is made: what cannot be opened, or listed, is told at once.
        text = json.dumps(wanted, sort_keys=True)
        store = await sources_of(self._parts).open_new(shown, text)
        try:
            async with aclosing(store.list_pages(shallow=lazy)) as pages:
                async for _ in pages:
                    break
        finally:
            await store.aclose()
        self._check_apart(shown)
        root = await self._root(path)
        source = await self._find(root.ino)
        if source is None:
            if await self._engine.list_directory(root.ino, 0, 1):
                raise InvalidValueError(
                    f"{os.fsdecode(path)} is not empty: adopt into a directory of its own"
                )
            async with self._engine.change():
                source = await self._engine.add_source(
                    shown, root.ino, watch_s or 0, deleted or WhenGone.KEEP, text
                )
                if lazy:
                    first = ForeignDirectory(root.ino, source.source, b"", 0)
                    await self._engine.add_directory(first)
            self._parts.faults.reach("adopt.added")
        elif source.url != shown:
            raise AlreadyExistsError(f"{os.fsdecode(path)} is made of {source.url} already")
        else:
            source = await self._settle(source, watch_s, deleted and deleted.value)
            if TAKE_OPTION in wanted:
                source = await self._retake(source, Take(str(wanted[TAKE_OPTION])))
            if lazy and not await self._is_lazy(source):
                raise InvalidValueError(
                    f"all of {source.url} was listed already: memfs adopt --refresh follows it"
                )
        if lazy:
            tally.source = source.source
            return
        how = _taken(source)
        # What was moved is not listed any more.
        if how is Take.REFERENCE or not source.listed_ns:
            async with aclosing(self._list(source, tally)) as steps:
                async for _ in steps:
                    yield
        if how is not Take.REFERENCE:
            done, failed = tally.note_taken, tally.note_failed
            taking = Taking(self._changes, self._parts, source, how, done, failed)
            async for _ in self._turn(source, tally):
                yield
            async with self._alone(source), aclosing(taking.run()) as steps:
                async for _ in steps:
                    yield

    async def _retake(self, source: Source, how: Take) -> Source:
        """Store what is to become of files that were only referred to so far."""
        before = _taken(source)
        if before is how:
            return source
        if before is not Take.REFERENCE:
            raise InvalidValueError(f"{source.url} was adopted by --{before.value}")
        told = {**json.loads(source.options), TAKE_OPTION: how.value}
        changed = source._replace(options=json.dumps(told, sort_keys=True))
        async with self._engine.change():
            await self._engine.put_source(changed)
        return changed

    # --- release ---------------------------------------------------------------------------------
    async def release(self, path: str, work: str) -> AdoptReport:
        """Give a directory back what was adopted from it, for a second.

        Raises:
            NotFoundError: No source has that root.
            InvalidValueError: It is no directory of this machine.
        """

        async def steps(tally: RefreshTally) -> AsyncGenerator[None, None]:
            source = await self._source_at(os.fsencode(path))
            store = await sources_of(self._parts).store_of(source.source)
            top = store.local_path("")
            if top is None:
                raise InvalidValueError(
                    f"{source.url} is no directory of this machine: memfs adopt --own, and --forget"
                )
            releasing = Releasing(self._changes, self._parts, source, top, _taken(source), tally)
            async for _ in self._turn(source, tally):
                yield
            async with self._alone(source), aclosing(releasing.run()) as listing:
                async for _ in listing:
                    yield

        return await self._go_on(work, steps)

    @contextlib.asynccontextmanager
    async def _alone(self, source: Source) -> AsyncIterator[None]:
        """Have a source to oneself."""
        if source.source in self._busy:
            raise FilesOpenError(f"{source.url} is being listed already; try again later")
        ends = self._busy[source.source] = trio.Event()
        try:
            yield
        finally:
            del self._busy[source.source]
            ends.set()

    async def _turn(self, source: Source, tally: RefreshTally) -> AsyncGenerator[None, None]:
        """Wait, for a second a step, until nobody else has the source; `_alone` follows at once."""
        while (ends := self._busy.get(source.source)) is not None:
            tally.is_waiting = True
            with trio.move_on_after(SLICE_S):
                await ends.wait()
            yield
        tally.is_waiting = False

    def _check_apart(self, url: str) -> None:
        """See that a directory is not the state directory, nor holds it, nor lies in it."""
        if not url.startswith("file://"):
            return
        source = os.path.realpath(unquote(urlsplit(url).path))
        state = os.path.realpath(self._parts.raw_store.root.parent)
        if os.path.commonpath((source, state)) in (source, state):
            raise UsageError(f"{url}: the state directory of the mount, {state}, lies there")

    async def _root(self, path: bytes) -> Inode:
        """Return the directory of a path, made if it is missing."""
        if not split_path(path):
            return await self._engine.get_inode(InodeNo(1))
        name = await find_parent(self._engine, path)
        found = await self._changes.find_name(name)
        if found is None:
            return await self._make_directory(name)
        if not stat.S_ISDIR(found.mode):
            raise NotADirectoryInodeError(f"{os.fsdecode(path)} is no directory")
        return found

    async def _make_directory(self, name: Name) -> Inode:
        parent = await self._engine.get_inode(name.parent)
        now_ns = time.time_ns()
        like = parent._replace(mode=stat.S_IFDIR | 0o755, atime_ns=now_ns, mtime_ns=now_ns)
        return await self._changes.put_directory(Original(like), name, None)

    async def _find(self, root: InodeNo) -> Source | None:
        for each in await self._engine.list_sources():
            if each.root == root:
                return each
        return None

    async def _source_at(self, path: bytes) -> Source:
        inode = await find_path(self._engine, path)
        source = await self._find(inode.ino)
        if source is None:
            raise NotFoundError(
                f"{os.fsdecode(path)} is not the root of a source: memfs adopt --list"
            )
        return source

    async def _settle(self, source: Source, watch_s: int | None, deleted: str | None) -> Source:
        """Store how a source is watched from now on."""
        changed = source._replace(
            watch_s=source.watch_s if watch_s is None else watch_s,
            deleted=source.deleted if deleted is None else _when_gone(deleted),
        )
        if changed != source:
            async with self._engine.change():
                await self._engine.put_source(changed)
        return changed

    async def _is_lazy(self, source: Source) -> bool:
        """Return whether directories are listed when somebody looks into them."""
        return await self._engine.find_directory(source.source, b"") is not None

    async def _list(
        self,
        source: Source,
        tally: RefreshTally,
        *,
        confirmed: bool = False,
        looked_only: bool = False,
        quota: ListingQuota | None = None,
    ) -> AsyncGenerator[None, None]:
        async for _ in self._turn(source, tally):
            yield
        async with self._alone(source):
            like = await self._changes.likeness_of(source)
            refresh = Refresh(
                self._changes,
                self._parts,
                source,
                like,
                tally,
                confirmed=confirmed,
                looked_only=looked_only,
                quota=quota,
            )
            async with aclosing(refresh.run()) as steps:
                async for _ in steps:
                    yield

    async def _describe(self, source: Source) -> SourceReport:
        try:
            path = os.fsdecode(await self._engine.get_path(source.root))
        except StaleInodeError:
            path = ""
        count = await count_rows(self._engine, source.source)
        return {
            "source": source.source,
            "url": source.url,
            "path": path,
            "watch_s": source.watch_s,
            "deleted": source.deleted.value,
            "listed_ns": source.listed_ns,
            "object_count": count.object_count,
            "unlisted_count": count.unlisted_count,
            "problem": source.problem,
            "waits": sources_of(self._parts).waiting.get(source.source, ""),
        }


def _wanted(
    mode: int | None,
    uid: int | None,
    gid: int | None,
    store: str | None,
    options: dict[str, object] | None,
) -> dict[str, object]:
    """Return the options of a source.

    Raises:
        InvalidValueError: One makes no sense, or may be a secret.
    """
    wanted: dict[str, object] = {}
    for name, value, most in (
        ("mode", mode, _MODE_MAX),
        ("uid", uid, _ID_MAX),
        ("gid", gid, _ID_MAX),
    ):
        if value is None:
            continue
        if not 0 <= value <= most:
            raise InvalidValueError(f"{name}: {value} is not within 0 and {most}")
        wanted[name] = value
    if store is not None:
        wanted[STORE_OPTION] = store
    for name in options or {}:
        if name not in PLAIN_OPTIONS:
            raise InvalidValueError(
                f"option {name}: only {', '.join(sorted(PLAIN_OPTIONS))} are kept with a source; "
                "credentials belong into glacier.options, or into those of a store"
            )
    if options:
        wanted[FILE_SYSTEM_OPTION] = options
    return wanted


def _take(text: str, url: str) -> Take:
    try:
        how = Take(text)
    except ValueError:
        raise InvalidValueError(f"take: {text!r} is neither reference, copy nor move") from None
    if not url.startswith("file:///"):
        raise InvalidValueError(f"{url}: only a directory of this machine is taken: file:///...")
    return how


def _taken(source: Source) -> Take:
    """Return what becomes of the files of a source."""
    return Take(json.loads(source.options).get(TAKE_OPTION, Take.REFERENCE.value))


def _when_gone(text: str) -> WhenGone:
    try:
        return WhenGone(text)
    except ValueError:
        raise InvalidValueError(f"deleted: {text!r} is neither keep nor remove") from None


def _check_watch(watch_s: int | None) -> None:
    if watch_s is not None and watch_s != 0 and watch_s < WATCH_S_MIN:
        raise InvalidValueError(f"watch: {watch_s} s; at least {WATCH_S_MIN} s, or 0 for never")
