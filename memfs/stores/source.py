"""The source's contract: objects that others have written, listed in order and read on a condition.

Invariant: nothing here changes anything where the objects are; no byte is returned but of the etag,
or of the version, that the caller names.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import trio

from memfs.errors import (
    CorruptDataError,
    ListingOrderError,
    MemfsError,
    ObjectChangedError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
)
from memfs.linux.times import TIME_NS_MAX, TIME_NS_MIN, storable_ns
from memfs.stores.disk import clone_file, disk_errors, open_plain, write_all_at
from memfs.stores.parts import PART_CONCURRENCY
from memfs.stores.store import PART_BYTES
from memfs.stores.sums import Hasher, Sum, best_of, hasher_of, sum_of, update_from
from memfs.stores.told import SIZE_UNKNOWN

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from pathlib import Path

    from memfs.stores.parts import PartSlots
    from memfs.stores.retry import RepeatedCalls

log = logging.getLogger(__name__)

Looked = TypeVar("Looked")

PAGE_COUNT = 1000
"""Objects of one page, as of one request to S3."""

REQUEST_COUNT_MAX = 32
"""Range reads of a source at a time: four fetches of eight parts. Guess."""


LOOK_COUNT_MAX = 16
"""Requests for what a listing does not tell at a time. Guess."""


SIZE_MAX = (1 << 63) - 1
"""The largest of a file (off_t), and of a column."""


class Attributes(NamedTuple):
    """What a source knows of a file beside its bytes."""

    mode: int
    """Type and permission bits, as `st_mode`: a regular file, a directory or a symlink."""
    uid: int
    gid: int
    target: bytes = b""
    """That of a symlink."""


class SourceObject(NamedTuple):
    """An object as a source tells it."""

    key: str
    """Behind the URL and a slash; bytes that are no UTF-8 are surrogates (`os.fsdecode`)."""
    size: int
    """Bytes, or `told.SIZE_UNKNOWN`."""
    etag: str
    mtime_ns: int
    """When it was written, by the clock of the source; 0: that is not known."""
    version: str = ""
    """Where the source keeps versions; empty: it does not."""
    attributes: Attributes | None = None
    """None: the source has no such; else `key` ends with a slash for a directory."""
    content_type: str = ""
    """Where a look at it, or the listing, tells it."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Names and values that who wrote it has given it; likewise."""

    @property
    def order(self) -> bytes:
        """By which listings are sorted: the bytes of the key."""
        # As `os.fsencode`, which takes twice the time.
        return self.key.encode("utf-8", "surrogateescape")


class RangeRead(NamedTuple):
    """Bytes of an object, with what their answer has told beside."""

    data: bytes
    content_type: str = ""
    """Empty: it was not told."""
    metadata: tuple[tuple[str, str], ...] = ()
    """As of `SourceObject`."""
    sums: tuple[Sum, ...] = ()
    """Those of the whole object."""


ObjectPage = tuple[list[SourceObject], str | None]
"""Objects, and where the next page begins; None: this was the last."""


class LocalFile:
    """A file of this machine that is open for reading until nobody refers to it any more.

    Args:
        fd: Open at it.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class SourceBackend(Protocol):
    """A kind of store, as sources use it; each method is one request, or a few.

    Raises (every method):
        StoreUnavailableError: Not reachable, too slow, throttled. Transient.
        StoreError: Refused for good.
    """

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    @property
    def slots(self) -> PartSlots:
        """Room in memory for parts of objects."""
        ...

    async def list_objects(
        self, page: str, prefix: str = "", *, shallow: bool = False
    ) -> ObjectPage:
        """Return a page of all objects, in any order.

        Args:
            page: As the page before said; empty: the first one.
            prefix: That of their keys; empty, or with a slash at its end.
            shallow: Only those without a further slash, and for each beginning up to a slash that
                others have one without a size, whose key that beginning is.
        """
        ...

    async def read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        """Return bytes `[start, end)`, all of them, of an object as it was listed.

        Raises:
            ObjectChangedError: There is another one under the key.
            ObjectMissingError: There is no object.
        """
        ...

    async def look_at(self, key: str, version: str = "") -> SourceObject:
        """Return an object as it is now; `ObjectMissingError` if it is missing.

        Args:
            key: Its key.
            version: One of its versions; empty: the present one.
        """
        ...

    def local_path(self, key: str) -> Path | None:
        """Return where an object is a file of this machine; None: it is not."""
        ...

    async def open_if(self, wanted: SourceObject) -> LocalFile | None:
        """Open an object as it was listed, if it is a file of this machine; raises as `read_if`."""
        ...

    async def aclose(self) -> None:
        """Release connections; idempotent."""
        ...


class _Summing:
    """The checksum of a file whose parts come in any order, taken along from its beginning.

    A checksum after the last part would hold the file up for 1.5 s a GiB of MD5.

    Args:
        fd: The file.
        size: Its bytes.
        name: What messages call it.
    """

    def __init__(self, fd: int, size: int, name: str) -> None:
        self._fd = fd
        self._size = size
        self._name = name
        self._there: set[int] = set()
        """Beginnings of the parts that are written, and not in the checksum yet."""
        self._at = 0
        self._told: Sum | None = None
        self._hasher: Hasher | None = None
        self._is_busy = False

    async def note(self, start: int, told: Sum | None) -> None:
        """A part is written; returns once it is in the checksum, unless others see to that.

        Args:
            start: Where it begins.
            told: The checksum of the whole as it came with the part.
        """
        self._there.add(start)
        if self._told is None and told is not None:
            self._told, self._hasher = told, hasher_of(told.kind)
        if self._hasher is None or self._is_busy:
            return
        self._is_busy = True
        try:
            while self._at in self._there:
                end = min(self._at + PART_BYTES, self._size)
                await trio.to_thread.run_sync(self._add, self._hasher, end)
                self._there.discard(self._at)
                self._at = end
        finally:
            self._is_busy = False

    def _add(self, hasher: Hasher, end: int) -> None:
        with disk_errors(self._name):
            update_from(hasher, self._fd, self._at, end)

    def sums(self) -> tuple[Sum, bytes] | None:
        """Return the checksum as it was told and as it is, once all parts are noted."""
        if self._told is None or self._hasher is None:
            return None
        assert self._at == self._size, (self._at, self._size)
        return self._told, self._hasher.digest()


class SourceStore:
    """A source behind retries and limits; the one way to foreign objects.

    Args:
        backend: Makes the requests.
        calls: Repeats them.
    """

    def __init__(self, backend: SourceBackend, calls: RepeatedCalls) -> None:
        self._backend = backend
        self._calls = calls
        self._is_ordered = True
        """False once a listing was not in order."""
        self._requests = trio.CapacityLimiter(REQUEST_COUNT_MAX)
        self._etags_are_sums = False
        """True once the bytes of an object had the checksum that its ETag looks like."""
        self.on_told: Callable[[SourceObject], object] = _forget
        """Told an object with its content type, or metadata, once some of its bytes were read."""

    @property
    def url(self) -> str:
        """Without secrets."""
        return self._backend.url

    @property
    def slots(self) -> PartSlots:
        """Room in memory for parts of objects."""
        return self._backend.slots

    async def list_pages(
        self, prefix: str = "", *, shallow: bool = False
    ) -> AsyncGenerator[list[SourceObject], None]:
        """Yield all objects in order of key, up to 1000 at a time; no error: these were all.

        One whose size is unknown, also to a look at it, is among them. A prefix that is missing has
        no objects, as long as the source itself is there.

        It always begins with the first one: where a source that lists in another order would go on
        from is not known. All objects of such a source are held in memory, to be sorted.

        Args:
            prefix: As `SourceBackend.list_objects`.
            shallow: Likewise.

        Raises:
            ListingOrderError: That was seen behind the first page; what was yielded does not count.
            StoreError: As `SourceBackend`.
        """
        last, begun = b"", False
        following: str | None = ""
        waiting: list[SourceObject] = []
        while following is not None:
            found, following = await self._list(following, prefix, shallow=shallow)
            if self._is_ordered and not _in_order(last, found):
                self._is_ordered = False
                if begun:
                    raise ListingOrderError(
                        f"{self.url}: does not list in order: it is listed again, as a whole"
                    )
            if self._is_ordered:
                last = found[-1].order if found else last
                for at in range(0, len(found), PAGE_COUNT):
                    begun = True
                    yield found[at : at + PAGE_COUNT]
            else:
                waiting += found
        waiting.sort(key=lambda each: each.order)
        for at in range(0, len(waiting), PAGE_COUNT):
            yield waiting[at : at + PAGE_COUNT]

    async def _list(self, page: str, prefix: str, *, shallow: bool) -> ObjectPage:
        async def call() -> ObjectPage:
            try:
                return await self._backend.list_objects(page, prefix, shallow=shallow)
            except ObjectMissingError:
                # One answer may be wrong, as that to a read.
                return await self._backend.list_objects(page, prefix, shallow=shallow)

        what = f"list {prefix}".rstrip()
        try:
            found, following = await self._calls.bounded(what, call)
        except ObjectMissingError as error:
            if not prefix or not await self._has_root():
                raise ObjectMissingError(
                    f"{self.url}: the source itself is not there: correct its URL, or bring it "
                    f"back ({error})"
                ) from error
            return [], None
        return await self._sized([_storable(each) for each in found]), following

    async def _has_root(self) -> bool:
        """Return whether the source is there, whatever has become of a directory of it."""
        look = partial(self._backend.list_objects, "", "", shallow=True)
        try:
            await self._calls.bounded("list", look)
        except ObjectMissingError:
            return False
        return True

    async def _sized(self, found: list[SourceObject]) -> list[SourceObject]:
        """Return objects with the sizes that looks at them tell; those that are gone are left out.

        Raises:
            StoreUnavailableError: The source does not answer.
        """
        if all(each.size != SIZE_UNKNOWN for each in found):
            return found

        async def look(each: SourceObject) -> SourceObject | None:
            try:
                return await self.look_at(each.key, each.version)
            except ObjectMissingError:
                return None
            except StoreUnavailableError:
                raise
            except StoreError as error:
                log.info("%s/%s: %s", self.url, each.key, error)
                return each

        unknown = [number for number, each in enumerate(found) if each.size == SIZE_UNKNOWN]
        looked = await _each_of([found[number] for number in unknown], look)
        told = dict(zip(unknown, looked, strict=True))
        now = (told.get(number, each) for number, each in enumerate(found))
        return [each for each in now if each is not None]

    async def read(self, wanted: SourceObject, start: int, end: int) -> bytes:
        """Return bytes `[start, end)` of an object, within its size; as `SourceBackend.read_if`.

        Raises:
            CorruptDataError: These are all of its bytes, and have another checksum than the source
                tells, twice.
        """
        assert 0 <= start <= end <= wanted.size, (wanted, start, end)
        if start == end:
            return b""
        before: list[bytes] = []
        while True:
            read = await self._read(wanted, start, end)
            best = best_of(read.sums) if end - start == wanted.size else None
            if best is None:
                return read.data
            found = await trio.to_thread.run_sync(sum_of, best.kind, read.data)
            if self._fits(wanted, best, found, before):
                return read.data
            before.append(found)

    def _fits(self, wanted: SourceObject, told: Sum, found: bytes, before: list[bytes]) -> bool:
        """Return whether the bytes of an object are to be taken; False: they are to be read again.

        Args:
            wanted: The object.
            told: Its checksum as the source tells it.
            found: That of the bytes.
            before: Those of the bytes that were not taken before.

        Raises:
            CorruptDataError: They are not to be taken.
        """
        if found == told.digest:
            self._etags_are_sums |= not told.is_certain
            return True
        url = f"{self.url}/{wanted.key}"
        if not before:
            log.info("%s: its bytes have another %s than is told: read again", url, told.kind)
            return False
        if not told.is_certain and not self._etags_are_sums and found in before:
            # The same bytes twice, and not one ETag that is a checksum: it is something else here.
            log.info("%s: its ETag is not taken for a checksum", url)
            return True
        raise CorruptDataError(
            f"{url}: its bytes were read twice and have not the {told.kind} checksum that the "
            f"source tells, {told.digest.hex()}: the object is damaged there, or on its way: write "
            "it anew there, or look at the network"
        )

    async def _read(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        """Return as `read` what the source sends, whatever its checksum."""

        async def call() -> RangeRead:
            async with self._requests:
                try:
                    return await self._backend.read_if(wanted, start, end)
                except (ObjectChangedError, ObjectMissingError):
                    # One answer may be wrong: a replica lags, a proxy remembers or sends its page.
                    return await self._backend.read_if(wanted, start, end)

        read = await self._calls.bounded(f"get {wanted.key}", call)
        if read.content_type or read.metadata:
            told = wanted._replace(content_type=read.content_type, metadata=read.metadata)
            self.on_told(told)
        return read

    async def fetch(
        self, wanted: SourceObject, fd: int, on_progress: Callable[[int], None]
    ) -> None:
        """Write all bytes of an object into an empty file, some parts at a time; raises as `read`.

        Args:
            wanted: As it was listed.
            fd: Readable and writable.
            on_progress: Told the bytes that are there.
        """
        if (path := self._backend.local_path(wanted.key)) is not None:
            await self._copy(wanted, path, fd, on_progress)
            return

        before: list[bytes] = []
        while (sums := await self._fetch_parts(wanted, fd, on_progress)) is not None:
            told, found = sums
            if self._fits(wanted, told, found, before):
                return
            before.append(found)

    async def _fetch_parts(
        self, wanted: SourceObject, fd: int, on_progress: Callable[[int], None]
    ) -> tuple[Sum, bytes] | None:
        """Write all bytes of an object into a file.

        Returns:
            Its checksum as it was told, and that of the bytes; None: it was not told.
        """
        summing = _Summing(fd, wanted.size, f"{self.url}/{wanted.key}")
        starts = iter(range(0, wanted.size, PART_BYTES))
        failures: list[MemfsError] = []
        done_bytes = 0

        async def fetch_parts() -> None:
            nonlocal done_bytes
            for start in starts:
                end = min(start + PART_BYTES, wanted.size)
                try:
                    read = await self._read(wanted, start, end)
                    # Not to be abandoned: the number of the file would be another file's soon.
                    await trio.to_thread.run_sync(write_all_at, fd, read.data, start)
                    told = best_of(read.sums)
                    del read  # not to be in memory beside the next one
                    await summing.note(start, told)
                except MemfsError as error:
                    failures.append(error)
                if failures:
                    return
                done_bytes += end - start
                on_progress(done_bytes)

        with self.slots.take(PART_CONCURRENCY) as count:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(fetch_parts)
        if failures:
            raise failures[0]
        return summing.sums()

    async def _copy(
        self, wanted: SourceObject, path: Path, fd: int, on_progress: Callable[[int], None]
    ) -> None:
        """Make a file equal to one of this machine: they share blocks where the disk can."""

        def copy() -> None:
            with disk_errors(str(path)):
                source = open_plain(path)
                try:
                    clone_file(source, fd, on_progress)
                finally:
                    os.close(source)

        await self._check(wanted)
        await trio.to_thread.run_sync(copy)
        await self._check(wanted)
        on_progress(wanted.size)

    async def _check(self, wanted: SourceObject) -> None:
        found = await self.look_at(wanted.key)
        if (found.etag, found.size) != (wanted.etag, wanted.size):
            raise ObjectChangedError(f"{self.url}/{wanted.key}: it was changed")

    def local_path(self, key: str) -> Path | None:
        """Return where an object is a file of this machine; None: it is not."""
        return self._backend.local_path(key)

    async def open_local(self, wanted: SourceObject) -> LocalFile | None:
        """Open an object as `SourceBackend.open_if`."""
        return await self._calls.bounded(
            f"open {wanted.key}", lambda: self._backend.open_if(wanted)
        )

    async def look_at_all(self, found: Sequence[SourceObject]) -> list[SourceObject]:
        """Return objects of a listing with what a look at each tells beside, some at a time.

        One that has changed since, or is gone, is as it was listed, as is what stands for a
        directory.

        Raises:
            StoreError: As `SourceBackend`.
        """

        async def look(each: SourceObject) -> SourceObject:
            if each.key.endswith("/") or each.content_type or each.size == SIZE_UNKNOWN:
                return each
            try:
                now = await self.look_at(each.key, each.version)
            except ObjectMissingError:
                return each
            if (now.etag, now.size) != (each.etag, each.size):
                return each
            return each._replace(content_type=now.content_type, metadata=now.metadata)

        return await _each_of(found, look)

    async def look_at(self, key: str, version: str = "") -> SourceObject:
        """Return an object as it is now, or a version of it; as `SourceBackend.look_at`."""
        told = await self._calls.bounded(
            f"look at {key}", lambda: self._backend.look_at(key, version)
        )
        if _storable(told).size == SIZE_UNKNOWN:
            raise StoreError(
                f"{self.url}: {told.key}: a size of {told.size} bytes is told, which cannot be: "
                "correct the object, or what tells of it"
            )
        return _storable(told)

    async def aclose(self) -> None:
        """Release connections; idempotent."""
        await self._backend.aclose()


def _forget(_told: SourceObject) -> None:
    """Nobody wants to know."""


def _storable(told: SourceObject) -> SourceObject:
    """Return an object with numbers that can be stored, whatever the source tells."""
    if not 0 <= told.size <= SIZE_MAX:
        told = told._replace(size=SIZE_UNKNOWN)
    if TIME_NS_MIN <= told.mtime_ns <= TIME_NS_MAX:
        return told
    return told._replace(mtime_ns=storable_ns(told.mtime_ns))


async def _each_of(
    found: Sequence[SourceObject], look: Callable[[SourceObject], Awaitable[Looked]]
) -> list[Looked]:
    """Return what looks at objects return, some at a time; raises what one of them raises."""
    looked: dict[int, Looked] = {}
    numbers = iter(range(len(found)))
    failures: list[MemfsError] = []

    async def look_on() -> None:
        for number in numbers:
            if failures:
                return
            try:
                looked[number] = await look(found[number])
            except MemfsError as error:
                failures.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(min(LOOK_COUNT_MAX, len(found))):
            nursery.start_soon(look_on)
    if failures:
        raise failures[0]
    return [looked[number] for number in range(len(found))]


def _in_order(last: bytes, found: list[SourceObject]) -> bool:
    for each in found:
        if each.order <= last:
            return False
        last = each.order
    return True
