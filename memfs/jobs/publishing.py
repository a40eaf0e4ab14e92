"""Publishing: plain objects of trees on request, and the methods of `memfs publish`.

Invariant: an object has the name of its file below the directory that is published; a file that is
not there, or has another name, is only then removed where `publish.delete` says so and nobody else
has changed the object.
"""

from __future__ import annotations

import contextlib
import logging
import stat
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from memfs.errors import (
    InvalidValueError,
    MemfsError,
    NoXattrError,
    StaleInodeError,
    UsageError,
)
from memfs.jobs.file_work import FAILED, run_work, seal_regular
from memfs.jobs.publish_claims import ALONE, Claims, note_claim, removes_deleted
from memfs.keyed_lock import KeyedLock
from memfs.moves.outcome import MoveOutcome
from memfs.moves.publish_marks import target_of
from memfs.moves.publishing import Publication, published_below
from memfs.placement.quotas import cost_of_upload
from memfs.policy.marks import parse_deleted
from memfs.stores.metered_publishing import MeteredPublicStore
from memfs.stores.remote import open_public_store, with_credentials
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from memfs.config import Config
    from memfs.control.methods.trees import PublishedReport, RemovedReport, WorkReport
    from memfs.control.server import Handler
    from memfs.jobs.file_work import WorkResults
    from memfs.metadata.engine import Engine
    from memfs.metadata.published import PublishedObject
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.publish_source import FormRead
    from memfs.placement.quotas import Quotas
    from memfs.stores.counts import StoreCounts
    from memfs.stores.metered import Meter
    from memfs.stores.publishing import PublicStore

log = logging.getLogger(__name__)

PLACES_MAX = 16
"""Places that are kept open although nobody uses them."""


@dataclass(slots=True)
class _Place:
    publication: Publication
    user_count: int = 0


class Places:
    """The places that files are published to, each opened once.

    Args:
        environment: That of the daemon, for credentials.
        open_place: Opens one.
        read_form: Reads files without a raw file; None: they are fetched first.
        meter: Counts what is spent at all of them but directories; None: nobody does.
        counts: Told of calls and failures, if there is a meter; None: nobody wants to know.
    """

    def __init__(
        self,
        parts: MoveParts,
        environment: Mapping[str, str],
        open_place: Callable[[str, Mapping[str, object], float], PublicStore] = open_public_store,
        read_form: FormRead | None = None,
        *,
        meter: Meter | None = None,
        counts: StoreCounts | None = None,
    ) -> None:
        self._meter = meter
        self._counts = counts
        self._read_form = read_form
        self._parts = parts
        self._environment = environment
        self._open_place = open_place
        self._opened: OrderedDict[str, _Place] = OrderedDict()
        """By target, the one used last at the end."""
        self._opening: KeyedLock[str] = KeyedLock()

    @contextlib.asynccontextmanager
    async def at(self, url: str) -> AsyncIterator[Publication]:
        """Have what publishes below a URL, open for the block.

        Raises:
            InvalidValueError, NotSupportedError: Nothing can be published there.
        """
        target = target_of(url)
        async with self._opening.hold(target):
            found = self._opened.get(target)
            if found is None:
                found = self._opened[target] = _Place(await self._open(target))
            found.user_count += 1
            self._opened.move_to_end(target)
        try:
            yield found.publication
        finally:
            found.user_count -= 1
            # Those that are in use stay, whatever their number: each knows what it is sending.
            with trio.CancelScope(shield=True):
                await self._close_some()

    async def fetch(self, known: PublishedObject, fd: int, advance: Callable[[int], None]) -> None:
        """Write the bytes of an object into a file; as `Publication.fetch`."""
        async with self.at(known.target) as place:
            await place.fetch(known, fd, advance)

    async def aclose(self) -> None:
        """Release connections, once uploads that were given up have removed what they left."""
        for target in [*self._opened]:
            await self._close(self._opened.pop(target).publication)

    async def _open(self, target: str) -> Publication:
        config = self._parts.config
        options, timeout_s = self._options(target)
        try:
            store = await trio.to_thread.run_sync(self._open_place, target, options, timeout_s)
        except UsageError as error:
            raise InvalidValueError(str(error)) from None
        if self._meter is not None and not target.startswith("file:"):
            store = MeteredPublicStore(store, self._meter, self._counts)
        log.info("publishing to %s%s", target, _credentials(target, config))
        return Publication(self._parts, store, target, self._read_form)

    async def _close_some(self) -> None:
        """Close the places that were used longest ago, where there are too many."""
        idle = [target for target, place in self._opened.items() if not place.user_count]
        # Taken out before the first one is closed: that takes a while.
        leaving = [self._opened.pop(target) for target in idle[: -PLACES_MAX or None]]
        for place in leaving:
            await self._close(place.publication)

    async def _close(self, place: Publication) -> None:
        try:
            await place.aclose()
        except MemfsError as error:
            log.info("%s: %s", place.target, error)

    def _options(self, target: str) -> tuple[Mapping[str, object], float]:
        """Return those of the configured store in the same bucket, if there is one."""
        config = self._parts.config
        name = _named(target, config)
        if name is None:
            return {}, config.glacier.timeout_s
        section = f"stores.{name}" if name else "glacier"
        store = with_credentials(config.store(name), section, self._environment)
        return store.options, store.timeout_s


def _named(target: str, config: Config) -> str | None:
    """Return the name of a configured store in the bucket of a target; None: there is no such."""
    bucket = urlsplit(target)[:2]
    for name in ("", *config.stores):
        if urlsplit(config.store(name).url or "")[:2] == bucket:
            return name
    return None


def _credentials(target: str, config: Config) -> str:
    """Return whose credentials a place is opened with, for the log."""
    if target.startswith("file:"):
        return ""
    name = _named(target, config)
    if name is None:
        return ", with the credentials of the environment"
    return f", with those of [{f'stores.{name}' if name else 'glacier'}]"


class PublishWork:
    """Publishes files below a directory, or one file; a `FileWork`.

    Args:
        root: The directory, or the file.
        unconditional: As of `Publication.publish`.
        claims: Have files that are published elsewhere; None: their objects are replaced.
    """

    def __init__(
        self,
        parts: MoveParts,
        quotas: Quotas,
        place: Publication,
        root: Inode,
        *,
        unconditional: bool,
        claims: Claims | None,
    ) -> None:
        self._claims = claims
        self._unconditional = unconditional
        self._parts = parts
        self._quotas = quotas
        self._place = place
        self._root = root

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Publish a file, if that was not done since it was changed."""
        inode = await seal_regular(self._parts, ino, results)
        if inode is None:
            return
        key = await key_of(self._parts.engine, self._root, ino)
        if problem := await self._taken_by(key, ino):
            results.note(ino, FAILED, problem)
            return
        with self._quotas.reserved(cost_of_upload(inode.size, copied=False)):
            result, problem = await self._place.publish(ino, key, unconditional=self._unconditional)
        if problem:
            results.note(ino, FAILED, problem)
        elif result.outcome == MoveOutcome.BUSY:
            results.note(ino, result.outcome, "a program has it open for writing")
        elif result.outcome == MoveOutcome.SUPERSEDED:
            results.note(ino, result.outcome, "it was changed meanwhile")
        else:
            results.note(ino, result.outcome, moved_bytes=result.moved_bytes)

    async def _taken_by(self, key: str, ino: InodeNo) -> str:
        """Return which other file an object belongs to, as a sentence; empty: no other one."""
        if self._claims is None:
            return ""
        url = self._place.url_of(key)
        known = await self._parts.engine.get_published(url)
        rival = await self._claims.rival_of(known, url, ino, self._root.ino)
        return rival and (
            f"{url}: {rival} is published there: publish to another URL, or rename one of the "
            "files; memfs publish --replace puts this one there"
        )

    async def finish(self, results: WorkResults) -> None:
        """Nothing is left to do."""
        await trio.lowlevel.checkpoint()


async def key_of(engine: Engine, root: Inode, ino: InodeNo) -> str:
    """Return the key of a file: its path below the directory, or its name.

    Raises:
        StaleInodeError: It is not below the directory any more.
        InvalidValueError: Its name is no UTF-8.
    """
    path = await engine.get_path(ino)
    if root.ino == ino:
        rest = path.rpartition(b"/")[2]
    else:
        above = (await engine.get_path(root.ino)).rstrip(b"/") + b"/"
        if not path.startswith(above):
            raise StaleInodeError(f"inode {ino} has left the directory that is published")
        rest = path.removeprefix(above)
    try:
        return rest.decode()
    except UnicodeDecodeError:
        raise InvalidValueError(f"{rest!r}: only names in UTF-8 are published") from None


class PublishMethods:
    """Answers `publish`, `publish_part`, `publish_removed` and `published`."""

    def __init__(
        self,
        parts: MoveParts,
        quotas: Quotas,
        places: Places,
    ) -> None:
        self._parts = parts
        self._quotas = quotas
        self._places = places

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "publish": self.publish,
            "publish_part": self.publish_part,
            "publish_removed": self.publish_removed,
            "published": self.published,
        }

    async def publish(
        self,
        inos: list[int],
        root: int,
        url: str,
        unconditional: bool = False,
        replaces: bool = False,
    ) -> WorkReport:
        """Publish files.

        Args:
            inos: The files.
            root: The directory that they are below, or the only one of them.
            url: Where to.
            unconditional: Also where the place knows no conditions; so it is if the configuration
                says so.
            replaces: Also where the object is of a file of another directory, which lives still.
        """
        directory = await self._parts.engine.get_inode(InodeNo(root))
        allowed = unconditional or self._parts.config.publish.unconditional
        async with self._places.at(url) as place:
            await note_claim(self._parts.engine, place.target, _claimant(directory))
            claims = None if replaces else await Claims.look(self._parts, (place.target,))
            work = PublishWork(
                self._parts, self._quotas, place, directory, unconditional=allowed, claims=claims
            )
            return await run_work(inos, work)

    async def publish_part(self, url: str, key: str, path: str, unconditional: bool = False) -> str:
        """Publish a part of a manifest; returns why it is not, if it is not.

        Args:
            url: Where to.
            key: Behind the URL.
            path: A local file; empty: the part is removed instead.
            unconditional: As of `publish`.
        """
        allowed = unconditional or self._parts.config.publish.unconditional
        async with self._places.at(url) as place:
            if path:
                return (await place.publish_part(key, Path(path), unconditional=allowed)).problem
            known = await self._parts.engine.get_published(place.url_of(key))
            return "" if known is None else await place.remove(known)

    async def publish_removed(self, root: int, url: str, deleted: str = "") -> RemovedReport:
        """Remove objects whose files are gone, if that is wanted.

        Args:
            root: The directory, or the file.
            url: Where to.
            deleted: `keep` or `remove`; empty: as `user.memfs.publish_deleted` of the directory,
                or else the configuration, says.

        Returns:
            `removed_count`, `left_count` of those that stay, and `problems` of the first ones.
        """
        directory = await self._parts.engine.get_inode(InodeNo(root))
        async with self._places.at(url) as place:
            if deleted:
                removes = parse_deleted(deleted)
            else:
                removes = await removes_deleted(self._parts, directory.ino)
            await note_claim(self._parts.engine, place.target, _claimant(directory), deleted)
            return await self._remove_gone(place, directory, removes=removes)

    async def published(self, url: str, after: str = "", limit: int = 1000) -> PublishedReport:
        """Return what was published below a URL, in order of key.

        Args:
            after: Key that the page before has ended with.
        """
        target = target_of(url)
        behind = f"{target}/{after}" if after else ""
        found = await self._parts.engine.list_published(target, behind, min(max(limit, 1), 1000))
        return {"objects": [await self._describe(target, each) for each in found]}

    async def _describe(self, target: str, known: PublishedObject) -> dict[str, object]:
        """Return what is told of an object: its own, and what its file has beside the bytes."""
        engine = self._parts.engine
        told: dict[str, object] = {
            "key": known.url.removeprefix(f"{target}/"),
            "size": known.size,
            "mtime_ns": known.mtime_ns,
            "etag": known.etag,
            "digest": known.digest.hex(),
            "current": bool(known.generation),
            "problem": known.problem,
            "of_manifest": not known.ino,
        }
        try:
            inode = await engine.get_inode(known.ino)
            xattrs = {
                _text(name.removeprefix(b"user.")): _text(await engine.get_xattr(known.ino, name))
                for name in await engine.list_xattrs(known.ino)
                if name.startswith(b"user.") and not name.startswith(b"user.memfs.")
            }
        except (StaleInodeError, NoXattrError):
            return told | {"mode": None, "uid": None, "gid": None, "xattrs": {}}
        mode = stat.S_IMODE(inode.mode)
        return told | {"mode": mode, "uid": inode.uid, "gid": inode.gid, "xattrs": xattrs}

    async def _remove_gone(
        self, place: Publication, root: Inode, *, removes: bool
    ) -> RemovedReport:
        claims = await Claims.look(self._parts, (place.target,))
        removed_count, problems = 0, []
        left_count = 0
        async for known in published_below(self._parts, place.target):
            # A file that is published alone speaks of its former names only.
            is_others = not stat.S_ISDIR(root.mode) and known.ino != root.ino
            if not known.ino or is_others or await claims.has_file(known):
                continue
            if not removes:
                left_count += 1
            elif keeper := await claims.keeper_of(known, root):
                left_count += 1
                problems.append(
                    f"{known.url}: {keeper} is published there too, and keeps objects without a "
                    "file: publish it with --deleted remove as well"
                )
            elif problem := await place.remove(known):
                left_count += 1
                problems.append(f"{known.url}: {problem}")
            else:
                removed_count += 1
        return {
            "removed_count": removed_count,
            "left_count": left_count,
            "problems": problems[:100],
        }


def _claimant(root: Inode) -> InodeNo:
    """Return whose claim it is that something was published."""
    return root.ino if stat.S_ISDIR(root.mode) else ALONE


def _text(content: bytes) -> str:
    """Return bytes as text, as the catalogue has them."""
    return content.decode("utf-8", "backslashreplace")
