"""Object stores through fsspec, whatever their protocol.

Invariant: what fsspec raises never comes out as it is: callers see the errors of the store
contract, with the store, the key, the cause and what to do.

fsspec's asynchronous file systems live on asyncio, in a thread of their own; they are used here by
their blocking methods, from worker threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno as codes
import functools
import inspect
import io
import logging
import os
import socket
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import fsspec
import fsspec.asyn
import fsspec.callbacks
import fsspec.core
import fsspec.spec
import trio
from fsspec.exceptions import FSTimeoutError

from memfs.errors import (
    MemfsError,
    ObjectChangedError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
    StoreUnreachableError,
    UsageError,
)
from memfs.stores.calls import (
    BlockingCalls,
    TransferProgress,
    TransferStoppedError,
    ended_by,
)
from memfs.stores.disk import write_all_at
from memfs.stores.kept_options import KeptOptions
from memfs.stores.parts import PART_CONCURRENCY, PartSlots
from memfs.stores.source import RangeRead, SourceObject
from memfs.stores.store import PART_BYTES, ObjectStat
from memfs.stores.told import size_of
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
    from pathlib import Path

    from memfs.stores.source import LocalFile, ObjectPage
    from memfs.stores.store import ByteSource, RemoteStore

T = TypeVar("T")

log = logging.getLogger(__name__)

Uploads = list[ObjectStat]

Page = tuple[list[ObjectStat], str | None]
"""Objects, and where the next page begins; None: this was the last."""

_MODIFIED_KEYS = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")

RATE_BYTES_S_MIN = 64 << 10
"""Slowest link that is still served: a transfer's part may take this long beyond the time-out."""

RENEW_PAUSE_S = 10.0
"""Bounds what a wrong key costs. Guess."""

SETTLE_S_MAX = 5.0
"""Uploads that were given up are waited for so long; they look after each part. Guess."""

_TRANSIENT_ERRNOS = frozenset(
    {
        codes.EAGAIN,
        codes.EBUSY,
        codes.ECONNABORTED,
        codes.ECONNREFUSED,
        codes.ECONNRESET,
        codes.EHOSTUNREACH,
        codes.EINTR,
        codes.ENETDOWN,
        codes.ENETUNREACH,
        codes.EPIPE,
        codes.EREMOTEIO,
        codes.ETIMEDOUT,
    }
)


_UNREACHABLE_ERRNOS = frozenset({codes.ECONNREFUSED, codes.EHOSTUNREACH, codes.ENETUNREACH})


class UploadCallback(fsspec.callbacks.Callback):  # type: ignore[misc]  # fsspec has no types
    """Passes an upload's progress on, and ends it when it was given up."""

    def __init__(self, progress: TransferProgress) -> None:
        super().__init__()
        self._progress = progress

    def relative_update(self, inc: int = 1) -> None:
        """Take note of bytes sent; raises `TransferStoppedError` if nobody waits any more."""
        super().relative_update(inc)
        self._progress.beat()


class FsspecStore:
    """A `RemoteStore` over any fsspec file system that reads ranges.

    Subclasses know one protocol better; they replace the blocking methods that begin with `_`.

    Attributes:
        options_place: Where its options are written, for messages.

    Args:
        url: Where objects lie: protocol, bucket or host, prefix.
        options: For the fsspec file system.
        timeout_s: Deadline of a request; longest pause within a transfer, besides slow links.
        thread_count_max: Blocking calls at a time.
        parts: Bounds what is in memory of all transfers; None: nothing but `PART_CONCURRENCY` does.
        renew_pause_s: Credentials that are refused are not read again sooner.

    Raises:
        UsageError: Protocol unknown, or its package not installed.
    """

    options_place: ClassVar[str] = "glacier.options"

    def __init__(
        self,
        url: str,
        options: Mapping[str, object],
        timeout_s: float,
        thread_count_max: int,
        *,
        parts: PartSlots | None = None,
        renew_pause_s: float = RENEW_PAUSE_S,
    ) -> None:
        self._renew_pause_s = renew_pause_s
        self._url = url_without_secrets(url)
        self._settings = url, options
        self._reconnecting = threading.Lock()
        self._session_number = 0
        self._renew_again_s = float("-inf")
        try:
            self._fs, root = self._open(url, options)
        except (ImportError, ValueError, TypeError) as error:
            raise UsageError(self._unusable(error)) from error
        self._root = root.rstrip("/")
        self._timeout_s = timeout_s
        self._top_seen = False
        self._calls = BlockingCalls(self._url, timeout_s, thread_count_max)
        self._parts = parts or PartSlots(thread_count_max * PART_CONCURRENCY * PART_BYTES, 1)

    @property
    def url(self) -> str:
        """The configured URL without user, password and query."""
        return self._url

    @property
    def slots(self) -> PartSlots:
        """Room in memory for parts of its objects."""
        return self._parts

    def of(self, address: str) -> RemoteStore:
        """Itself."""
        return self

    async def put_file(self, key: str, source: Path) -> None:
        """Upload a file, in parts where it is large."""

        def put(progress: TransferProgress) -> None:
            self._put(key, source, UploadCallback(progress))

        size = await self._call(f"put {key}", os.path.getsize, source)
        await self._transfer(f"put {key}", put, min(size, PART_BYTES), writes=key)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """Upload an object in parts, as its bytes come."""

        def put(progress: TransferProgress) -> None:
            with contextlib.closing(source):
                self._put_stream(key, source, UploadCallback(progress))

        what = f"put {key}"
        await self._transfer(what, self._once(what, put), PART_BYTES, writes=key)

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """Return unfinished uploads, where the store keeps them for ever."""
        return await self._call(f"list uploads {prefix}", self._list_uploads, prefix)

    async def abort_uploads(self, key: str) -> int:
        """Remove the parts of unfinished uploads, where the store keeps them for ever."""
        return await self._call(f"abort {key}", self._abort_uploads, key)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """Return bytes `[start, end)` by one ranged request."""
        return await self._call(f"get {key}", self._get_range, key, start, end)

    async def get_file(self, key: str, target: Path) -> None:
        """Download an object by ranges, several at a time; `target` is removed on failure.

        Its size is settled first: parts of an object that is replaced meanwhile do not fit.
        """
        size = (await self.stat(key)).size
        fd = await trio.to_thread.run_sync(self._mapped, f"get {key}", _create, target)
        failures: list[MemfsError] = []
        try:
            starts = iter(range(0, size, PART_BYTES))
            with self._parts.take(PART_CONCURRENCY) as count:
                async with trio.open_nursery() as nursery:
                    for _ in range(count):
                        nursery.start_soon(self._get_parts, key, size, fd, starts, failures)
            if failures:
                raise failures[0]
        except BaseException:
            os.unlink(target)
            raise
        finally:
            os.close(fd)

    async def _get_parts(
        self, key: str, size: int, fd: int, starts: Iterator[int], failures: list[MemfsError]
    ) -> None:
        """Fetch parts into a file as long as some are left and no part has failed."""
        what = f"get {key}"
        stall_s = self._timeout_s + PART_BYTES / RATE_BYTES_S_MIN
        for start in starts:
            end = min(start + PART_BYTES, size)
            get = functools.partial(self._mapped, what, self._get_range, key, start, end)
            try:
                part = await self._calls.run(what, get, stall_s)
                if len(part) != end - start:
                    raise StoreUnavailableError(
                        f"store {self._url}: {what}: changed while it was read"
                    )
                # Not to be abandoned: the number of the file would be another file's soon.
                await trio.to_thread.run_sync(self._mapped, what, write_all_at, fd, part, start)
                del part  # not to be in memory beside the next one
            except MemfsError as error:
                failures.append(error)
            if failures:
                return

    async def stat(self, key: str) -> ObjectStat:
        """Return an object's size."""
        return await self._call(f"stat {key}", self._stat, key)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        what = f"delete {key}"
        await self._calls.run(what, lambda: self._mapped(what, self._delete, key), writes=key)

    async def archive(self, key: str) -> None:
        """Move an object into its final storage class, where that is not read from at once."""
        await self._transfer(
            f"archive {key}", lambda beat: self._archive(key, beat), PART_BYTES, writes=key
        )

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield the objects, a page a request."""
        page: str | None = ""
        while page is not None:
            found, page = await self._call(f"list {prefix}", self._list_page, prefix, page)
            for stat in found:
                yield stat

    # --- as a source -----------------------------------------------------------------------------
    async def list_objects(
        self, page: str, prefix: str = "", *, shallow: bool = False
    ) -> ObjectPage:
        """Return a page of objects, as `source.SourceBackend` says; so do the next two."""
        return await self._call("list", self._list_objects, page, prefix, shallow)

    async def read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        """Return a range of an object as it was listed."""
        what = f"get {wanted.key}"
        stall_s = self._timeout_s + (end - start) / RATE_BYTES_S_MIN
        read = functools.partial(self._mapped, what, self._read_if, wanted, start, end)
        found = await self._calls.run(what, read, stall_s)
        if len(found.data) != end - start:
            raise StoreUnavailableError(
                f"store {self._url}: {what}: {len(found.data)} bytes came, and not {end - start}"
            )
        return found

    def local_path(self, _key: str) -> Path | None:
        """No object of it is taken for a local file."""
        return None

    async def open_if(self, _wanted: SourceObject) -> LocalFile | None:
        """No object of it is taken for a local file."""
        return None

    async def look_at(self, key: str, version: str = "") -> SourceObject:
        """Return an object as it is now, or as a version of it is."""
        return await self._call(f"look at {key}", self._look, key, version)

    async def aclose(self) -> None:
        """Close the sessions, once uploads that were given up have removed what they left."""
        await self._calls.wait_for_threads(SETTLE_S_MAX)
        await self._call("close", self._close)

    def _unusable(self, error: Exception) -> str:
        """Return what a user is told of a URL, or of options, that cannot be opened."""
        return (
            f"glacier.url {self._url}: {error}; install the fsspec package of that protocol, or "
            "correct glacier.url and glacier.options"
        )

    def _open(self, url: str, options: Mapping[str, object]) -> tuple[Any, str]:
        """Return the file system of a URL, and the path of the URL in it."""
        # Cached listings would hide what other nodes and lifecycle rules do; a cached instance
        # would share its sessions with all that use fsspec in this process.
        fs, root = fsspec.core.url_to_fs(
            url, use_listings_cache=False, skip_instance_cache=True, **options
        )
        return fs, str(root)

    def _wait(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run one coroutine of an asynchronous file system in its thread, and wait for it."""
        return run_in_loop(self._fs, function)

    def _call_fs(self, name: str, *arguments: object, **options: object) -> Any:  # noqa: ANN401  as fsspec
        """Return what a method of the file system returns; an asynchronous one goes by `_wait`."""
        method = getattr(self._fs, name)
        # `fsspec.asyn.mirror_sync_methods` makes it of a coroutine function.
        wrapped = getattr(method, "__wrapped__", None)
        if inspect.ismethod(wrapped) and inspect.iscoroutinefunction(wrapped):
            return self._wait(functools.partial(wrapped, *arguments, **options))
        return method(*arguments, **options)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _put(self, key: str, source: Path, callback: UploadCallback) -> None:
        path = self._path(key)
        self._make_directories(path)
        self._call_fs("put_file", str(source), path, callback=callback)

    def _put_stream(self, key: str, source: ByteSource, callback: UploadCallback) -> None:
        path = self._path(key)
        self._make_directories(path)
        file = self._fs.open(path, "wb", block_size=PART_BYTES)
        try:
            while data := source.read():
                file.write(data)
                callback.relative_update(len(data))
        except BaseException:
            # Where it cannot be thrown away, closing makes an object of what has come so far.
            for undo in (file.discard, file.close, lambda: self._call_fs("rm_file", path)):
                with contextlib.suppress(Exception):
                    undo()
            raise
        file.close()

    def _make_directories(self, path: str) -> None:
        """Make the directories of an object; what holds them all is its owner's to make.

        Raises:
            StoreError: It is missing: a bucket or directory that is mistyped is not made.
        """
        # The prefix of a bucket is no directory; a path is one from the root on.
        top = self._root if self._root.startswith("/") else self._root.partition("/")[0]
        if not self._top_seen and top and not self._call_fs("exists", top):
            raise StoreError(
                f"store {self._url}: {top} does not exist: create it or correct glacier.url"
            )
        self._top_seen = True
        self._call_fs("makedirs", path.rpartition("/")[0], exist_ok=True)

    def _list_uploads(self, _prefix: str) -> Uploads:
        """None in general: what is unfinished vanishes by itself."""
        return []

    def _abort_uploads(self, _key: str) -> int:
        """Nothing in general: what is unfinished vanishes by itself."""
        return 0

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        return bytes(self._call_fs("cat_file", self._path(key), start=start, end=end))

    def _stat(self, key: str) -> ObjectStat:
        details: dict[str, Any] = self._call_fs("info", self._path(key))
        if details["type"] != "file":
            raise FileNotFoundError(codes.ENOENT, "not an object")
        return ObjectStat(key, int(details["size"]))

    def _delete(self, key: str) -> None:
        try:
            self._call_fs("rm_file", self._path(key))
        except FileNotFoundError:
            return

    def _archive(self, key: str, progress: TransferProgress) -> None:
        """Nothing in general: objects are where they belong when they are put."""

    def _list_page(self, prefix: str, _page: str) -> Page:
        """Return one page of objects; `page` is empty for the first."""
        # fsspec lists directories, not prefixes, and only as a whole.
        top = self._path(prefix).rpartition("/")[0]
        found: dict[str, dict[str, Any]] = self._call_fs("find", top, detail=True)
        skip = len(self._fs._strip_protocol(self._root)) + 1
        stats = (
            ObjectStat(path[skip:], int(item["size"]), _modified_s(item))
            for path, item in found.items()
        )
        return [stat for stat in stats if stat.key.startswith(prefix)], None

    def _list_objects(self, _page: str, prefix: str, shallow: bool) -> ObjectPage:
        # fsspec lists all at once, and in no order.
        top = f"{self._root}/{prefix}".rstrip("/")
        skip = len(self._fs._strip_protocol(self._root)) + 1
        if shallow:
            objects = [
                SourceObject(f"{item['name'][skip:]}/", 0, "", 0)
                if item["type"] == "directory"
                else _source_object(item["name"][skip:], item)
                for item in self._call_fs("ls", top, detail=True)
            ]
        else:
            found = self._find(top)
            objects = [_source_object(path[skip:], item) for path, item in found.items()]
        return sorted(objects, key=_order_of), None

    def _find(self, top: str) -> dict[str, dict[str, Any]]:
        """Return all files below a directory, with what is told of each, by path.

        fsspec's own search takes a directory that cannot be listed for an empty one; those of
        protocols that have a better one do not.
        """
        kind = type(self._fs)
        is_general = getattr(kind, "_find", None) is fsspec.asyn.AsyncFileSystem._find or (
            not self._fs.async_impl and kind.find is fsspec.spec.AbstractFileSystem.find
        )
        if not is_general:
            told: dict[str, dict[str, Any]] = self._call_fs("find", top, detail=True)
            return told
        found: dict[str, dict[str, Any]] = {}
        waiting = [top]
        while waiting:
            above = waiting.pop()
            for item in self._call_fs("ls", above, detail=True):
                path = item["name"].rstrip("/")
                if item["type"] != "directory":
                    found[path] = item
                elif path != above:
                    waiting.append(path)
        return found

    def _read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        """Return a range; the object is looked at afterwards, where no request has a condition."""
        data = self._get_range(wanted.key, start, end)
        self._check_same(wanted, self._look(wanted.key, wanted.version))
        return RangeRead(data)

    def _check_same(self, wanted: SourceObject, found: SourceObject) -> None:
        if (found.etag, found.size) != (wanted.etag, wanted.size):
            raise self._changed(wanted, f"it is {found.etag}, of {found.size} bytes")

    def _changed(self, wanted: SourceObject, how: str) -> ObjectChangedError:
        """Return the error for an object that is not the one that was listed."""
        return ObjectChangedError(
            f"store {self._url}: {wanted.key} is not {wanted.etag} of {wanted.size} bytes any "
            f"more: {how}"
        )

    def _look(self, key: str, _version: str) -> SourceObject:
        details: dict[str, Any] = self._call_fs("info", self._path(key))
        if details["type"] != "file":
            raise FileNotFoundError(codes.ENOENT, "not an object")
        return _source_object(key, details)

    def _close(self) -> None:
        """Release what the file system keeps open; nothing in general."""

    async def _transfer(
        self,
        what: str,
        function: Callable[[TransferProgress], None],
        part_bytes: int,
        writes: str | None = None,
    ) -> None:
        """Run a transfer that may stand still for as long as a part takes on the slowest link."""
        stall_s = self._timeout_s + part_bytes / RATE_BYTES_S_MIN
        await self._calls.transfer(
            what, lambda progress: self._mapped(what, function, progress), stall_s, writes
        )

    async def _call(self, what: str, function: Callable[..., T], *arguments: object) -> T:
        return await self._calls.run(what, lambda: self._mapped(what, function, *arguments))

    def _mapped(self, what: str, function: Callable[..., T], *arguments: object) -> T:
        """Return what a function returns; once more with the credentials as they are now."""
        session_number = self._session_number
        try:
            return self._translated(what, function, *arguments)
        except MemfsError as error:
            refused = isinstance(error.__cause__, Exception) and self._is_refused(error.__cause__)
            if not refused or not self._renew_session(session_number):
                raise
        return self._translated(what, function, *arguments)

    def _once(
        self, what: str, function: Callable[[TransferProgress], T]
    ) -> Callable[[TransferProgress], T]:
        """Return a function for `_mapped` that sends bytes which come once.

        The second call, with credentials that were read again, says why the first one has failed.
        """
        failure: Exception | None = None

        def call(progress: TransferProgress) -> T:
            nonlocal failure
            if failure is not None:
                told = self._translate(failure, f"store {self._url}: {what}")
                raise StoreUnavailableError(
                    f"{told}. The credentials were read again: it begins anew with them"
                ) from failure
            try:
                return function(progress)
            except Exception as error:
                failure = error
                raise

        return call

    def _is_refused(self, _error: Exception) -> bool:
        """Return whether a request may go well with the credentials as they are kept now."""
        return False

    def _renew_session(self, session_number: int) -> bool:
        """Read the credentials anew, wherever they come from; False if that was done just now.

        Args:
            session_number: That of the session that was refused.
        """
        with self._reconnecting:
            if session_number != self._session_number:
                return True
            if time.monotonic() < self._renew_again_s:
                return False
            self._renew_again_s = time.monotonic() + self._renew_pause_s
            log.info("store %s refuses the credentials: they are read again", self._url)
            try:
                self._renew_options()
                self._connect_anew()
            except Exception as error:
                # What is kept there now is of no use: a later call looks again.
                log.info("store %s: the credentials cannot be read: %s", self._url, error)
                return False
            self._session_number += 1
            return True

    def _renew_options(self) -> None:
        """Read the options anew that are kept in a file of their own.

        Raises:
            UsageError: They cannot be read.
        """
        options = self._settings[1]
        if isinstance(options, KeptOptions):
            options.renew()

    def _connect_anew(self) -> None:
        """Make a session with the credentials as they are kept now; nothing in general."""

    def _translated(self, what: str, function: Callable[..., T], *arguments: object) -> T:
        try:
            return function(*arguments)
        except (MemfsError, TransferStoppedError):
            raise
        # Adapters raise whatever their libraries do; all of it is the store's failure here.
        except Exception as error:
            raise self._translate(error, f"store {self._url}: {what}") from error

    def _translate(self, error: Exception, what: str) -> MemfsError:
        """Return the contract's error for what a file system raised."""
        cause = f"{what}: {error or type(error).__name__}"
        if isinstance(error, FileNotFoundError):
            return ObjectMissingError(cause)
        if isinstance(error, PermissionError):
            return StoreError(f"{cause}; check the credentials and their rights")
        if isinstance(error, TimeoutError | ConnectionError | FSTimeoutError) or (
            isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS
        ):
            return unanswered(error, f"{cause}; check the store and the network")
        return StoreError(f"{cause} ({type(error).__name__}); check glacier.url and its options")


def run_in_loop(fs: Any, function: Callable[[], Coroutine[Any, Any, T]]) -> T:  # noqa: ANN401
    """Run one coroutine of an asynchronous file system of fsspec in its thread, and wait for it.

    It is cancelled when nobody waits for the call any more that this thread is in.

    Raises:
        TransferStoppedError: It was.
    """
    loop = fs.loop
    future = asyncio.run_coroutine_threadsafe(function(), loop)

    def end(after_s: float) -> None:
        loop.call_soon_threadsafe(loop.call_later, after_s, future.cancel)

    try:
        with ended_by(end):
            return future.result()
    except concurrent.futures.CancelledError:
        raise TransferStoppedError("the request was given up") from None
    finally:
        future.cancel()


def gathered(source: ByteSource, size: int, callback: UploadCallback) -> Iterator[bytes]:
    """Yield parts of a size of what comes from a source; the last one is the rest, if any."""
    gathering = io.BytesIO()

    def take() -> bytes:
        # Its buffer itself, to which nothing here refers while the caller has it.
        nonlocal gathering
        part, gathering = gathering.getvalue(), io.BytesIO()
        return part

    while data := source.read():
        # A sign of life: making a part may take a while.
        callback.relative_update(0)
        view = memoryview(data)
        while view:
            missing = size - gathering.tell()
            gathering.write(view[:missing])
            view = view[missing:]
            if gathering.tell() == size:
                yield take()
    if gathering.tell():
        yield take()


def unanswered(error: BaseException, message: str) -> StoreUnavailableError:
    """Return the contract's error for a request that was not answered.

    Args:
        error: Its causes tell whether anybody listens there.
        message: For users.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, socket.gaierror) or (
            isinstance(found, OSError) and found.errno in _UNREACHABLE_ERRNOS
        ):
            return StoreUnreachableError(message)
        found = found.__cause__ or found.__context__
    return StoreUnavailableError(message)


def _modified_s(item: Mapping[str, Any]) -> float | None:
    """Return when an object was written, under whichever name a file system tells it."""
    told = next((item[name] for name in _MODIFIED_KEYS if item.get(name) is not None), None)
    if isinstance(told, datetime):
        return told.timestamp()
    return float(told) if isinstance(told, int | float) else None


_ETAG_KEYS = ("etag", "ETag", "e_tag", "checksum", "md5", "sha256")


def _source_object(key: str, item: Mapping[str, Any]) -> SourceObject:
    """Return an object with an etag, of what a file system tells of it."""
    size, modified_s = size_of(item.get("size")), _modified_s(item) or 0.0
    told = next((item[name] for name in _ETAG_KEYS if item.get(name)), None)
    # An inode's change of time or place counts where the file system is a local one.
    etag = str(told or "-".join(str(item.get(name, "")) for name in ("ino", "size", "mtime")))
    if told is None and not item.get("mtime"):
        etag = f"{size}-{modified_s!r}"
    return SourceObject(key, size, etag, int(modified_s * 1_000_000_000))


def _order_of(found: SourceObject) -> bytes:
    return found.order


def _create(target: Path) -> int:
    return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
