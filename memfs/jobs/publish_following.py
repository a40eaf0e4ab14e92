"""Following: what is written below a directory with `user.memfs.publish` is published by itself.

A file is looked at when the file system says that it was sealed, renamed or removed. Everything is
looked at after a start, after a directory has got the xattr or another place, and now and then.

Invariant: a file is due until it was published as it is, or has no mark any more; what is due and
not yet done when the daemon ends is found by the look after the next start. A state that was
imported publishes nothing by itself before it has taken the store over: the former one may do it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.backoff import pause_after
from memfs.defects import as_failure
from memfs.errors import (
    InvalidValueError,
    MemfsError,
    NotSupportedError,
    NoXattrError,
    StaleInodeError,
)
from memfs.jobs.file_work import CONCURRENT_COUNT_MAX
from memfs.jobs.publish_claims import Claims, removes_deleted
from memfs.metadata.published import PublishProblem
from memfs.metadata.records import InodeFlags
from memfs.moves.outcome import MoveOutcome
from memfs.moves.publish_marks import forget_root, is_allowed, list_roots, target_of
from memfs.moves.publish_uploads import list_uploads
from memfs.moves.publishing import published_below
from memfs.placement.quotas import cost_of_upload
from memfs.policy.marks import PUBLISH_XATTR
from memfs.policy.quotas import Spent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from memfs.content.changes import Changes
    from memfs.jobs.publishing import Places
    from memfs.metadata.published import PublishedObject
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.publishing import Publication
    from memfs.placement.quotas import Quotas
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

LOOK_S = 900.0
"""Pause between two looks at everything, at the least; it finds what no notice has told. Guess."""

LOOK_SHARE = 100
"""The pause is so many times as long as the look took: at most a hundredth of a core."""

RETRY_S_MIN, RETRY_S_MAX = 5.0, 600.0
"""First and longest pause after a file could not be published. Guess."""

DUE_COUNT_MAX = 20_000
"""Files that wait to be published, some 5 MB; the next look finds the others."""

FILES_A_STEP = 256
"""Files published before what was changed meanwhile is asked for. Guess."""

ENTRIES_A_PAGE = 1000

END_S_MAX = 10.0
"""Uploads that were given up have so long to remove what they left. Guess."""


class Root(NamedTuple):
    """A directory, or a file, that has the mark itself."""

    inode: Inode
    path: bytes
    url: str
    """As its mark says."""
    target: str
    """What that means; empty: nothing can be published there."""


class _Due(NamedTuple):
    """When a file is to be published, or looked at again."""

    at_s: float
    """By trio's clock."""
    failure_count: int = 0


class Following:
    """Publishes what `user.memfs.publish` says.

    Args:
        changes: Where the file system tells of files.
        list_on_demand: Has a directory of a bucket listed that nobody has looked into.
        clock: Wall clock, nanoseconds.
    """

    def __init__(
        self,
        parts: MoveParts,
        quotas: Quotas,
        places: Places,
        changes: Changes,
        list_on_demand: Callable[[InodeNo], Awaitable[None]],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._parts = parts
        self._quotas = quotas
        self._places = places
        self._changes = changes
        self._list_on_demand = list_on_demand
        self._clock = clock
        self._due: dict[InodeNo, _Due] = {}
        self._look_at_s = float("-inf")
        self._is_cut = False
        """There was more than could be taken, since the last look began."""
        self._is_unlisted = False
        """The last look has met a directory that could not be listed."""

    async def run(self) -> None:
        """Follow until cancelled; then what was under way at the places is ended."""
        try:
            while True:
                await self.step()
                with trio.move_on_at(self._next_s()):
                    await self._changes.wait()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_S_MAX):
                await self._places.aclose()

    async def step(self) -> None:
        """Publish what is due now."""
        if self._parts.source is not None:
            # It holds for the whole life of a mount.
            if await list_roots(self._parts.engine):
                log.info("nothing is published by itself: %s", self._parts.source)
            self._changes.look_at_all = False
            self._look_at_s = float("inf")
            return
        if self._changes.look_at_all or trio.current_time() >= self._look_at_s:
            self._changes.look_at_all = False
            begun_s = trio.current_time()
            await self._guarded(self.look)
            took_s = trio.current_time() - begun_s
            pause_s = RETRY_S_MAX if self._is_unlisted else LOOK_S
            self._look_at_s = trio.current_time() + max(pause_s, LOOK_SHARE * took_s)
        now_s = trio.current_time()
        self._take_changes(now_s)
        waiting = [ino for ino, due in self._due.items() if due.at_s <= now_s][:FILES_A_STEP]
        if waiting:
            await self._guarded(lambda: self._publish_all(waiting))
        if self._is_cut and len(self._due) < DUE_COUNT_MAX // 2:
            self._look_at_s = trio.current_time()

    def _take_changes(self, now_s: float) -> None:
        """Have files that were changed published; a look finds those that are too many."""
        due = self._due
        for ino in self._changes.take():
            if len(due) < DUE_COUNT_MAX or ino in due:
                due[ino] = _Due(now_s)
            else:
                self._is_cut = True

    async def look(self) -> None:
        """Find what is due below all directories with the mark, and what is gone there."""
        engine = self._parts.engine
        # From now on: what is written while this looks must not be missed.
        self._changes.followed = True
        self._is_cut = self._is_unlisted = False
        await self._end_uploads()
        roots = await self._roots()
        claims = await Claims.look(self._parts, {each.target for each in roots if each.target})
        self._changes.followed = bool(roots)
        if not roots:
            self._parts.unpublished.clear()
        now_s = trio.current_time()
        for root in roots:
            if not root.target:
                continue
            async with self._places.at(root.url) as place:
                async with contextlib.aclosing(self._walk(root)) as files:
                    async for inode, key in files:
                        known = await engine.get_published(place.url_of(key))
                        if known is not None and not _is_due(known, inode):
                            continue
                        if len(self._due) >= DUE_COUNT_MAX:
                            self._is_cut = True
                            break
                        self._due.setdefault(inode.ino, _Due(now_s))
                async for known in published_below(self._parts, place.target):
                    if known.ino:
                        await self._remove_if_gone(place, known, roots, claims)

    async def _end_uploads(self) -> None:
        """End what was being sent when a daemon ended, wherever that was."""
        for target in {each.target for each in await list_uploads(self._parts.engine)}:
            try:
                async with self._places.at(target) as place:
                    await place.end_uploads()
            except MemfsError as error:
                log.info("%s: an unfinished upload is not removed yet: %s", target, error)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            log.info("publishing: %s", as_failure(error, "following what is published"))

    def _next_s(self) -> float:
        return min([self._look_at_s, *(due.at_s for due in self._due.values())])

    async def _roots(self) -> list[Root]:
        """Return what has the mark, and forget what has lost it."""
        engine, found = self._parts.engine, []
        for ino in await list_roots(engine):
            try:
                url = (await engine.get_xattr(ino, PUBLISH_XATTR)).decode()
                inode, path = await engine.get_inode(ino), await engine.get_path(ino)
                found.append(Root(inode, path, url, self._target_of(path, url)))
            except (StaleInodeError, NoXattrError):
                await forget_root(engine, ino)
        return found

    def _target_of(self, path: bytes, url: str) -> str:
        try:
            target = target_of(url)
            if not is_allowed(target, self._parts.config):
                raise NotSupportedError(f"{target}: not below any of publish.targets")
        except MemfsError as error:
            log.info("%s is not published: %s", os.fsdecode(path), error)
            return ""
        return target

    async def _publish_all(self, inos: list[InodeNo]) -> None:
        roots = await self._roots()
        claims = await Claims.look(self._parts, {each.target for each in roots if each.target})
        waiting = iter(inos)

        async def publish_some() -> None:
            for ino in waiting:
                await self._publish_one(ino, roots, claims)

        async with trio.open_nursery() as nursery:
            for _ in range(min(CONCURRENT_COUNT_MAX, len(inos))):
                nursery.start_soon(publish_some)

    async def _publish_one(self, ino: InodeNo, roots: list[Root], claims: Claims) -> None:
        """Publish a file wherever it is to be; remove it where it is not any more."""
        due = self._due.pop(ino)
        self._parts.unpublished.pop(ino, None)
        try:
            wait_s = await self._publish_file(ino, roots, claims)
            await self._remove_former(ino, roots, claims)
        except Exception as error:
            failure = as_failure(error, f"publishing inode {ino}")
            log.info("inode %d is not published: %s", ino, failure)
            self._parts.unpublished[ino] = str(failure)
            count = due.failure_count + 1
            pause_s = pause_after(count, RETRY_S_MIN, RETRY_S_MAX)
            self._due.setdefault(ino, _Due(trio.current_time() + pause_s, count))
            return
        if wait_s:
            self._due.setdefault(ino, _Due(trio.current_time() + wait_s, due.failure_count))

    async def _publish_file(self, ino: InodeNo, roots: list[Root], claims: Claims) -> float:
        """Publish a file at all places; returns how long it must be left alone before that."""
        engine = self._parts.engine
        try:
            inode = await engine.get_inode(ino)
            mark = await engine.effective_xattr(ino, PUBLISH_XATTR)
            path = await engine.get_path(ino)
        except StaleInodeError:
            return 0.0
        if mark is None or not inode.nlink or not stat.S_ISREG(inode.mode):
            return 0.0
        if inode.flags & InodeFlags.UNSEALED:
            # Its seal is told.
            return 0.0
        url = mark.decode()
        for root in roots:
            key = _key_below(root, path)
            if root.url != url or not root.target or key is None:
                continue
            object_url = f"{root.target}/{key}"
            known = await engine.get_published(object_url)
            if known is not None and not _is_due(known, inode):
                continue
            if rival := await claims.rival_of(known, object_url, ino, root.inode.ino):
                log.info("%s: %s is published there", object_url, rival)
                continue
            if wait_s := self._quiet_s(inode):
                return wait_s
            unconditional = self._parts.config.publish.unconditional
            with self._quotas.reserved(cost_of_upload(inode.size, copied=False)):
                async with self._places.at(root.url) as place:
                    result, problem = await place.publish(ino, key, unconditional=unconditional)
            if problem:
                log.info("%s is not published: %s", object_url, problem)
                self._parts.unpublished[ino] = f"{object_url}: {problem}"
            elif result.outcome in (MoveOutcome.BUSY, MoveOutcome.SUPERSEDED):
                return RETRY_S_MIN
        return 0.0

    def _quiet_s(self, inode: Inode) -> float:
        """Return how long a file is to be left alone still, as it was changed just now."""
        quiet_s = self._parts.config.publish.quiet_s
        # Not the time of its bytes, which programs set as they like.
        since_s = (self._clock() - inode.ctime_ns) / 1e9
        return min(max(0.0, quiet_s - since_s), quiet_s)

    async def _remove_former(self, ino: InodeNo, roots: list[Root], claims: Claims) -> None:
        """Remove objects by names that a file has lost, where that is wanted."""
        for known in await self._parts.engine.list_published_of(ino):
            try:
                async with self._places.at(known.target) as place:
                    await self._remove_if_gone(place, known, roots, claims)
            except InvalidValueError as error:
                log.info("%s: %s", known.url, error)

    async def _remove_if_gone(
        self, place: Publication, known: PublishedObject, roots: list[Root], claims: Claims
    ) -> None:
        # What nobody follows any more stays as it is.
        below = [each.inode for each in roots if each.target == place.target]
        if not below or not is_allowed(place.target, self._parts.config):
            return
        if not await removes_deleted(self._parts, below[0].ino) or await claims.has_file(known):
            return
        if keeper := await claims.keeper_of(known, below[0]):
            log.info("%s: %s is published there too, and keeps it", known.url, keeper)
            return
        if problem := await place.remove(known):
            log.info("%s stays although its file is gone: %s", known.url, problem)

    async def _list(self, directory: InodeNo) -> bool:
        """Have a directory of a bucket listed, if nobody has looked into it; False: it fails."""
        try:
            listed = await self._parts.engine.get_directory(directory)
            if listed is not None and not listed.listed_ns:
                self._quotas.check({Spent.REQUESTS: 1})
            await self._list_on_demand(directory)
        except MemfsError as error:
            self._is_unlisted = True
            log.info("what is in a directory cannot be published yet: %s", error)
            return False
        return True

    async def _walk(self, root: Root) -> AsyncGenerator[tuple[Inode, str], None]:
        """Yield the files below a directory for which its mark holds, with their keys."""
        engine = self._parts.engine
        if stat.S_ISREG(root.inode.mode):
            if (key := _key_below(root, root.path)) is not None:
                yield root.inode, key
            return
        waiting = [(root.inode.ino, "")]
        is_answering = True
        while waiting:
            directory, above = waiting.pop()
            cookie = 0
            # Not a second time where a bucket does not answer: there may be a million of them.
            is_answering = is_answering and await self._list(directory)
            while entries := await engine.list_directory(directory, cookie, ENTRIES_A_PAGE):
                await trio.lowlevel.checkpoint()
                for entry in entries:
                    inode = entry.inode
                    try:
                        key = above + entry.name.decode()
                    except UnicodeDecodeError:
                        continue
                    if not stat.S_ISREG(inode.mode) and not stat.S_ISDIR(inode.mode):
                        continue
                    mark = await engine.effective_xattr(inode.ino, PUBLISH_XATTR)
                    if mark is None or mark.decode() != root.url:
                        continue
                    if stat.S_ISDIR(inode.mode):
                        waiting.append((inode.ino, f"{key}/"))
                    else:
                        yield inode, key
                cookie = entries[-1].cookie


def _key_below(root: Root, path: bytes) -> str | None:
    """Return the key of a file by its path; None: it is not below a root, or its name no UTF-8."""
    try:
        if path == root.path:
            return path.rpartition(b"/")[2].decode()
        above = root.path.rstrip(b"/") + b"/"
        return path.removeprefix(above).decode() if path.startswith(above) else None
    except UnicodeDecodeError:
        return None


def _is_due(known: PublishedObject, inode: Inode) -> bool:
    """Return whether a file is to be published again."""
    if (known.ino, known.generation) == (inode.ino, inode.generation):
        return False
    # It waits for people, unless the file has changed since.
    return not (known.problem == PublishProblem.TAKEN and known.mtime_ns == inode.mtime_ns)
