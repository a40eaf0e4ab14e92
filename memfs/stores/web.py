"""Web servers as sources: files below a URL, found by the links of the pages that list them.

Invariant: only 404 and 410 tell that a file is missing. A header that makes no sense is a value
that is not known.
"""

from __future__ import annotations

import contextlib
import errno as codes
import json
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from memfs.errors import MemfsError, StoreError, StoreUnavailableError
from memfs.stores.objects import RENEW_PAUSE_S, FsspecStore, unanswered
from memfs.stores.source import RangeRead, SourceObject
from memfs.stores.sums import Sum, decoded
from memfs.stores.told import SIZE_UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.stores.parts import PartSlots
    from memfs.stores.source import ObjectPage

_PIECE_BYTES = 256 << 10
_KEY_BYTES_MAX = 3000
"""Longer ones are of directories that link to themselves; a path has 4096 (PATH_MAX)."""

_OK, _PART = 200, 206
_MISSING = (404, 410)
_REFUSED = (401, 403, 407)
_CHANGED = (412, 416)
_BUSY = (408, 425, 429)
_RANGE = re.compile(r"bytes (?:\*|(\d+)-\d+)/(\d+)")
_SIZE = re.compile(r"\d{1,19}")


class _Answer(NamedTuple):
    """An answer with its headers, whose names are in lower case."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class WebStore(FsspecStore):
    """A source over HTTP; it lists as fsspec's file system of that protocol does.

    An object is read on the condition of its ETag, where the server tells a strong one; else the
    answer is compared with what was listed.

    Args:
        url: `https://host/path`.
        options: Those of fsspec's `HTTPFileSystem`, as `headers`, `client_kwargs`.
        timeout_s: As for `FsspecStore`; also of each wait for the socket.
        thread_count_max: As for `FsspecStore`.
        parts: As for `FsspecStore`.
        renew_pause_s: As for `FsspecStore`.
    """

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
        # The client's own time-outs end the thread that the deadline abandons.
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=min(timeout_s, 10.0), sock_read=timeout_s
        )
        settings: dict[str, Any] = dict(options)
        settings["client_kwargs"] = {"timeout": timeout, **settings.get("client_kwargs", {})}
        super().__init__(
            url, settings, timeout_s, thread_count_max, parts=parts, renew_pause_s=renew_pause_s
        )

    # --- as a source -----------------------------------------------------------------------------
    def _list_objects(self, page: str, prefix: str, shallow: bool) -> ObjectPage:
        """Return the files of one directory; the page that follows begins with the next one."""
        if page:
            directory, *behind = json.loads(page)
            waiting = [*self._names_below(directory), *behind]
        else:
            waiting = self._names_in(prefix)
        found: list[SourceObject] = []
        while waiting and (shallow or not waiting[0].endswith("/")):
            name = waiting.pop(0)
            found.append(SourceObject(name, 0 if name.endswith("/") else SIZE_UNKNOWN, "", 0))
        return found, json.dumps(waiting) if waiting else None

    def _names_below(self, directory: str) -> list[str]:
        """Return as `_names_in`; a directory that is linked to and is not there is empty."""
        with contextlib.suppress(FileNotFoundError):
            try:
                return self._names_in(directory)
            except FileNotFoundError:
                # One answer may be wrong.
                return self._names_in(directory)
        return []

    def _names_in(self, directory: str) -> list[str]:
        """Return the names that the page of a directory links to, in order; raises as fsspec."""
        top = f"{self._root}/{directory}"
        names = set()
        for url in self._call_fs("ls", top, detail=False):
            rest = url.removeprefix(top)
            # Links elsewhere, and those by which pages are sorted.
            if rest == url or "?" in rest or "#" in rest:
                continue
            name, slash, _ = rest.lstrip("/").partition("/")
            if name not in ("", ".", "..") and len(directory) + len(name) < _KEY_BYTES_MAX:
                names.add(f"{directory}{name}{slash}")
        return sorted(names, key=str.encode)

    def _look(self, key: str, _version: str) -> SourceObject:
        found = self._head(key)
        if found is None or found.size == SIZE_UNKNOWN:
            # The answer to a range tells the size of all.
            answer = self._ask("GET", key, {"Range": "bytes=0-0"}, 0, 1)
            if answer.status != 416:
                self._check_status(answer, key)
            found = _object(key, answer)
        if found.size == SIZE_UNKNOWN:
            raise StoreError(
                f"store {self._url}: {key}: the server tells no size that makes sense: have it "
                "send Content-Length"
            )
        return found

    def _head(self, key: str) -> SourceObject | None:
        """Return what the answer to HEAD tells; None: it tells nothing."""
        try:
            answer = self._ask("HEAD", key, {}, 0, 0)
        except aiohttp.ClientResponseError:
            # It has a header that cannot be taken apart.
            return None
        if answer.status in (405, 501):
            return None
        self._check_status(answer, key)
        return _object(key, answer)

    def _read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if wanted.etag.startswith('"'):
            headers["If-Match"] = wanted.etag
        answer = self._ask("GET", wanted.key, headers, start, end)
        if answer.status in _CHANGED:
            raise self._changed(wanted, "another one was written")
        self._check_status(answer, wanted.key)
        found = _object(wanted.key, answer)
        if found.size == SIZE_UNKNOWN:
            found = _object(wanted.key, answer, wanted.size)
        self._check_same(wanted, found)
        return RangeRead(answer.data, found.content_type, (), _sums_of(answer))

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        answer = self._ask("GET", key, {"Range": f"bytes={start}-{end - 1}"}, start, end)
        if answer.status in _CHANGED:
            # The range begins at or beyond the end (RFC 9110 section 15.5.17).
            return b""
        self._check_status(answer, key)
        return answer.data

    def _ask(
        self, method: str, key: str, headers: Mapping[str, str], start: int, end: int
    ) -> _Answer:
        """Make a request; returns bytes `[start, end)` of the object, if they come."""
        url = self._fs.encode_url(self._path(key))
        given = dict(self._fs.kwargs)
        # Compressed bytes would be others, and their number another one.
        wanted = {**given.pop("headers", {}), "Accept-Encoding": "identity", **headers}

        async def ask() -> _Answer:
            session = await self._fs.set_session()
            async with session.request(
                method, url, headers=wanted, allow_redirects=True, **given
            ) as answer:
                told = {name.lower(): value for name, value in answer.headers.items()}
                # A server that knows no ranges sends the object from its beginning.
                at, data = 0 if answer.status == _OK else start, bytearray()
                if answer.status in (_OK, _PART):
                    async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                        data += piece[max(0, start - at) :]
                        at += len(piece)
                        if at >= end:
                            break
                    del data[end - start :]
                return _Answer(answer.status, told, bytes(data))

        return self._wait(ask)

    def _check_status(self, answer: _Answer, key: str) -> None:
        if answer.status not in (_OK, _PART):
            raise self._error_of(answer.status, f"store {self._url}: {key}")

    def _error_of(self, status: int, what: str) -> Exception:
        cause = f"{what}: the server answers {status}"
        if status in _MISSING:
            return FileNotFoundError(codes.ENOENT, cause)
        if status in _REFUSED:
            return StoreError(f"{cause}; check the credentials in the options, as `headers`")
        if status in _BUSY or status >= 500:
            return StoreUnavailableError(f"{cause}; it is overloaded or failing")
        return StoreError(f"{cause}; check the URL")

    def _translate(self, error: Exception, what: str) -> MemfsError:
        if isinstance(error, aiohttp.ClientResponseError):
            told = self._error_of(error.status, what)
            if isinstance(told, MemfsError):
                return told
        if isinstance(error, aiohttp.ClientError):
            return unanswered(error, f"{what}: {error or type(error).__name__}; check the network")
        return super()._translate(error, what)

    def _close(self) -> None:
        if self._fs._session is not None:
            self._fs.close_session(self._fs.loop, self._fs._session)


def _object(key: str, answer: _Answer, size: int = SIZE_UNKNOWN) -> SourceObject:
    """Return an object as an answer tells it.

    Args:
        key: Its key.
        answer: Tells it.
        size: Where the answer does not tell that.
    """
    headers = answer.headers
    length = headers.get("content-length", "")
    if found := _RANGE.fullmatch(headers.get("content-range", "")):
        size = int(found[2])
    elif answer.status == _OK and _SIZE.fullmatch(length) and _is_plain(headers):
        size = int(length)
    changed = headers.get("last-modified", "")
    etag = headers.get("etag") or f"{size}-{changed}"
    return SourceObject(
        key, size, etag, http_date_ns(changed), content_type=headers.get("content-type", "")
    )


def http_date_ns(told: str) -> int:
    """Return a date (RFC 9110, section 5.6.7) in nanoseconds since the epoch; 0: no sense."""
    try:
        return int(parsedate_to_datetime(told).timestamp()) * 1_000_000_000
    except (ValueError, TypeError, OverflowError):
        return 0


def _is_plain(headers: Mapping[str, str]) -> bool:
    return headers.get("content-encoding", "identity") in ("identity", "")


def _sums_of(answer: _Answer) -> tuple[Sum, ...]:
    """Return the checksums of the whole object (RFC 9530, RFC 3230, RFC 1864)."""
    headers = answer.headers
    found = [("md5", headers.get("content-md5", ""))] if answer.status == _OK else []
    for each in headers.get("repr-digest", headers.get("digest", "")).split(","):
        name, _, told = each.strip().partition("=")
        found.append((name.lower().replace("-", ""), told.strip(":")))
    return decoded(found)
