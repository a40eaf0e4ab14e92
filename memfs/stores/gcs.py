"""Google Cloud Storage, through gcsfs and the JSON API.

Invariant: a missing bucket or a refused credential is never taken for a missing object, because a
missing object means lost data to those who ask.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import secrets
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import aiohttp
import gcsfs.retry
import google.auth.exceptions
import requests.exceptions
from gcsfs.core import GCSFileSystem
from gcsfs.retry import HttpError

from memfs.errors import MemfsError, ObjectMissingError, StoreError, StoreUnavailableError
from memfs.stores.disk import open_source
from memfs.stores.kept_options import joined
from memfs.stores.objects import (
    RENEW_PAUSE_S,
    FsspecStore,
    Page,
    UploadCallback,
    gathered,
    unanswered,
)
from memfs.stores.source import RangeRead, SourceObject
from memfs.stores.store import PART_BYTES, ObjectStat
from memfs.stores.sums import decoded
from memfs.stores.told import iso_ns, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from memfs.stores.parts import PartSlots
    from memfs.stores.source import ObjectPage
    from memfs.stores.store import ByteSource

_REFUSALS: tuple[type[Exception], ...] = (
    (gcsfs.retry.NonRetryableError,) if hasattr(gcsfs.retry, "NonRetryableError") else ()
)
"""What gcsfs makes of 401 since 2026.2; before, it is an `HttpError` with that code."""

NOTHING: Mapping[str, str] = MappingProxyType({})
"""Neither metadata nor a condition."""

OBJECT = "b/{}/o/{}"
_OBJECTS = "b/{}/o"
_TRANSIENT_CODES = (408, 429)
_METADATA_PREFIX = "x-goog-meta-"
_HASH_HEADER = "x-goog-hash"
_PRECONDITION_FAILED = 412
_RANGE_NOT_SATISFIABLE = 416
_NETWORK_ERRORS = (
    aiohttp.ClientError,
    google.auth.exceptions.TransportError,
    requests.exceptions.RequestException,
)


class _FileSystem(GCSFileSystem):  # type: ignore[misc]  # gcsfs has no types
    """gcsfs without its own retries, which go on for a minute: all are `stores.retry`'s.

    It is also not the variant for zonal buckets that gcsfs registers, whose first look at a bucket
    stalls for a minute where the control service cannot be reached.
    """

    _request = GCSFileSystem._request.__wrapped__


class GcsStore(FsspecStore):
    """A `RemoteStore` over a bucket of Google Cloud Storage.

    Its archive classes are read at once, so that nothing has to be restored.

    Args:
        url: `gs://bucket/prefix`.
        options: Those of gcsfs, as `token`, `project`, `endpoint_url`, `requester_pays`.
        timeout_s: As for `FsspecStore`; also of each wait for the socket.
        thread_count_max: As for `FsspecStore`.
        parts: As for `FsspecStore`.
        renew_pause_s: As for `FsspecStore`.
        storage_class: `STANDARD`, `NEARLINE`, `COLDLINE` or `ARCHIVE`; None: the bucket's default.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, object],
        timeout_s: float,
        thread_count_max: int,
        storage_class: str | None = None,
        *,
        parts: PartSlots | None = None,
        renew_pause_s: float = RENEW_PAUSE_S,
    ) -> None:
        # The client's own time-outs end the thread that the deadline abandons.
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=min(timeout_s, 10.0), sock_read=timeout_s
        )
        super().__init__(
            url,
            joined(options, {"requests_timeout": options.get("requests_timeout", timeout)}),
            timeout_s,
            thread_count_max,
            parts=parts,
            renew_pause_s=renew_pause_s,
        )
        self._bucket, _, self._prefix = self._root.partition("/")
        self._metadata = {"storageClass": storage_class} if storage_class else {}

    def _open(self, url: str, options: Mapping[str, object]) -> tuple[Any, str]:
        token = options.get("token")
        if isinstance(token, str) and token.startswith("/") and not os.path.exists(token):
            # gcsfs would take its name for a token, and ask Google about it.
            raise ValueError(f"token: there is no file {token}")
        try:
            fs = _FileSystem(use_listings_cache=False, skip_instance_cache=True, **options)
        except (KeyError, ValueError, google.auth.exceptions.GoogleAuthError) as error:
            if token is None:
                raise
            raise ValueError(f"token gives no credentials: {error}") from error
        return fs, str(fs._strip_protocol(url))

    def _is_refused(self, error: Exception) -> bool:
        if isinstance(error, google.auth.exceptions.GoogleAuthError):
            return not isinstance(error, google.auth.exceptions.TransportError)
        return isinstance(error, _REFUSALS) or _is_forbidden(error)

    def _connect_anew(self) -> None:
        # The session goes on: each request takes what it shows from here.
        self._fs.credentials = self._open(*self._settings)[0].credentials

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _ask_gcs(self, method: str, path: str, *arguments: str, **options: object) -> Any:  # noqa: ANN401  JSON
        """Make a request of the JSON API."""
        return self._wait(functools.partial(self._fs._call, method, path, *arguments, **options))

    def _put(self, key: str, source: Path, callback: UploadCallback) -> None:
        with open_source(source) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= PART_BYTES:
                stored = self._put_small(key, file.read())
                callback.relative_update(size)
            else:
                parts = iter(functools.partial(file.read, PART_BYTES), b"")
                stored, _ = self._put_parts(key, parts, callback)
        self._check_arrived(key, stored, size)

    def _put_small(
        self,
        key: str,
        data: bytes,
        metadata: Mapping[str, object] = NOTHING,
        condition: Mapping[str, str] = NOTHING,
    ) -> dict[str, Any]:
        """Upload an object by one request (uploadType=multipart of the JSON API).

        Args:
            key: That of the object.
            data: Its bytes.
            metadata: Fields of its resource.
            condition: Parameters of the request.
        """
        boundary = secrets.token_hex(16)
        resource = json.dumps({"name": self._key(key), **self._metadata, **metadata})
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{resource}\r\n"
            f"--{boundary}\r\nContent-Type: {_type_of(metadata)}\r\n\r\n"
        )
        answer: dict[str, Any] = self._ask_gcs(
            "POST",
            self._upload_url(),
            uploadType="multipart",
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
            data=io.BytesIO(head.encode() + data + f"\r\n--{boundary}--\r\n".encode()),
            json_out=True,
            **condition,
        )
        return answer

    def _put_parts(
        self,
        key: str,
        parts: Iterator[bytes],
        callback: UploadCallback,
        metadata: Mapping[str, object] = NOTHING,
        condition: Mapping[str, str] = NOTHING,
    ) -> tuple[dict[str, Any], int]:
        """Upload an object by a resumable session; one that is left ends by itself after a week.

        Args:
            key: That of the object.
            parts: Its bytes; all but the last one are of a multiple of 256 KiB.
            callback: Told of progress.
            metadata: Fields of its resource.
            condition: Parameters of the request that begins it; they hold when it ends.

        Returns:
            What the store says of it, and the bytes that were sent.
        """
        headers, _ = self._ask_gcs(
            "POST",
            self._upload_url(),
            uploadType="resumable",
            json={"name": self._key(key), **self._metadata, **metadata},
            headers={"X-Upload-Content-Type": _type_of(metadata)},
            **condition,
        )
        session = headers["Location"]
        answer, start = b"", 0
        part = next(parts, b"")
        while part:
            following = next(parts, b"")
            end = start + len(part)
            # The length is told with the last part: it may not be known before.
            total = "*" if following else str(end)
            headers, answer = self._ask_gcs(
                "PUT",
                session,
                headers={"Content-Range": f"bytes {start}-{end - 1}/{total}"},
                data=io.BytesIO(part),
            )
            # The store may keep a part of the part only (308 with Range): begun anew, whole.
            if following and headers.get("Range") != f"bytes=0-{end - 1}":
                raise StoreUnavailableError(
                    f"store {self._url}: put {key}: {headers.get('Range')} arrived, not {end} bytes"
                )
            callback.relative_update(len(part))
            part, start = following, end
        stored: dict[str, Any] = json.loads(answer)
        return stored, start

    def _check_arrived(self, key: str, stored: Mapping[str, Any], size: int) -> None:
        if int(stored["size"]) != size:
            raise StoreUnavailableError(
                f"store {self._url}: put {key}: {stored['size']} bytes of {size} arrived"
            )

    def _put_stream(self, key: str, source: ByteSource, callback: UploadCallback) -> None:
        parts = gathered(source, PART_BYTES, callback)
        first = next(parts, b"")
        if len(first) < PART_BYTES:
            stored, size = self._put_small(key, first), len(first)
        else:
            stored, size = self._put_parts(key, itertools.chain([first], parts), callback)
        self._check_arrived(key, stored, size)

    def _upload_url(self) -> str:
        return f"{self._fs._location}/upload/storage/v1/b/{self._bucket}/o"

    def _make_directories(self, path: str) -> None:
        """Nothing: names have no directories here, and a missing bucket shows by itself."""

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        try:
            _, data = self._ask_gcs(
                "GET",
                OBJECT,
                self._bucket,
                self._key(key),
                alt="media",
                headers={"Range": f"bytes={start}-{end - 1}"},
            )
        except HttpError as error:
            if error.code == _RANGE_NOT_SATISFIABLE:
                # The range begins at or beyond the end (RFC 9110 section 15.5.17).
                return b""
            raise
        return bytes(data)

    def _stat(self, key: str) -> ObjectStat:
        found = self._ask_gcs("GET", OBJECT, self._bucket, self._key(key), json_out=True)
        return ObjectStat(key, int(found["size"]))

    def _delete(self, key: str) -> None:
        try:
            self._ask_gcs("DELETE", OBJECT, self._bucket, self._key(key))
        except FileNotFoundError:
            return

    def _list_page(self, prefix: str, page: str) -> Page:
        more = {"pageToken": page} if page else {}
        answer: dict[str, Any] = self._ask_gcs(
            "GET", _OBJECTS, self._bucket, prefix=self._key(prefix), json_out=True, **more
        )
        skip = len(self._key(""))
        found = answer.get("items", ())
        stats = [
            ObjectStat(item["name"][skip:], int(item["size"]), _seconds(item["updated"]))
            for item in found
        ]
        return stats, answer.get("nextPageToken")

    # --- as a source -----------------------------------------------------------------------------
    def _list_objects(self, page: str, prefix: str, shallow: bool) -> ObjectPage:
        more = {"pageToken": page} if page else {}
        if shallow:
            more["delimiter"] = "/"
        answer: dict[str, Any] = self._ask_gcs(
            "GET", _OBJECTS, self._bucket, prefix=self._key(prefix), json_out=True, **more
        )
        found = [self._source_object(item) for item in answer.get("items", ())]
        if shallow:
            skip = len(self._key(""))
            found += [SourceObject(each[skip:], 0, "", 0) for each in answer.get("prefixes", ())]
            found.sort(key=lambda each: each.order)
        return found, answer.get("nextPageToken")

    def _source_object(self, item: Mapping[str, Any]) -> SourceObject:
        key, generation = item["name"][len(self._key("")) :], str(item["generation"])
        size, mtime_ns = size_of(item.get("size")), iso_ns(item.get("updated", ""))
        found = SourceObject(key, size, generation, mtime_ns, generation)
        return found._replace(
            content_type=item.get("contentType", ""),
            metadata=tuple(sorted(item.get("metadata", {}).items())),
        )

    def _read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        try:
            headers, data = self._ask_gcs(
                "GET",
                OBJECT,
                self._bucket,
                self._key(wanted.key),
                alt="media",
                generation=wanted.version,
                headers={"Range": f"bytes={start}-{end - 1}"},
            )
        except FileNotFoundError:
            # Replaced, or removed: the first tells what is there now.
            self._check_same(wanted, self._look(wanted.key, ""))
            raise
        except HttpError as error:
            if error.code in (_PRECONDITION_FAILED, _RANGE_NOT_SATISFIABLE):
                raise self._changed(wanted, "another one was written") from error
            raise
        told = {name.lower(): value for name, value in headers.items()}
        generation = told.get("x-goog-generation", wanted.version)
        total = told.get("content-range", "").rpartition("/")[2]
        if generation != wanted.version or (total and total != str(wanted.size)):
            raise self._changed(wanted, f"generation {generation}, of {total} bytes, was sent")
        metadata = {
            name.removeprefix(_METADATA_PREFIX): value
            for name, value in told.items()
            if name.startswith(_METADATA_PREFIX)
        }
        kind, metadata_told = told.get("content-type", ""), tuple(sorted(metadata.items()))
        # One line for each kind, or one for all of them.
        lines = [value for name, value in headers.items() if name.lower() == _HASH_HEADER]
        pairs = [each.strip().partition("=") for each in ",".join(lines).split(",")]
        sums = decoded((name, text) for name, _, text in pairs)
        return RangeRead(bytes(data), kind, metadata_told, sums)

    def _look(self, key: str, version: str) -> SourceObject:
        which = {"generation": version} if version else {}
        found = self._ask_gcs("GET", OBJECT, self._bucket, self._key(key), json_out=True, **which)
        return self._source_object(found)

    def _close(self) -> None:
        if self._fs._session is not None:
            self._fs.close_session(self._fs.loop, self._fs._session)

    def _translate(self, error: Exception, what: str) -> MemfsError:
        cause = f"{what}: {error or type(error).__name__}"
        code = int(error.code or 0) if isinstance(error, HttpError) else 0
        if code in _TRANSIENT_CODES or code >= 500:
            return StoreUnavailableError(f"{cause}; the store is overloaded or failing")
        if isinstance(error, google.auth.exceptions.GoogleAuthError) and not isinstance(
            error, google.auth.exceptions.TransportError
        ):
            return StoreError(self._without_token(cause))
        if isinstance(error, _NETWORK_ERRORS):
            return unanswered(error, f"{cause}; check endpoint_url and the network")
        if _is_forbidden(error):
            if self._settings[1].get("token") is None:
                return StoreError(self._without_token(cause))
            return StoreError(f"{cause}; check token and the rights on the bucket")
        if isinstance(error, FileNotFoundError) and not error.errno:
            return self._missing(cause)
        return super()._translate(error, what)

    def _without_token(self, cause: str) -> str:
        return (
            f"{cause}; set token in {self.options_place}, or GOOGLE_APPLICATION_CREDENTIALS in the "
            "environment of the mount, and check the rights on the bucket"
        )

    def _missing(self, cause: str) -> MemfsError:
        """Tell a missing bucket from a missing object: both are a plain 404."""
        try:
            self._ask_gcs("GET", _OBJECTS, self._bucket, maxResults=1, json_out=True)
        except FileNotFoundError:
            return StoreError(
                f"{cause}; bucket {self._bucket} does not exist: create it or correct glacier.url"
            )
        except Exception as error:
            if _is_forbidden(error):
                # Rights to list a bucket are not needed otherwise, so a refusal tells nothing.
                return ObjectMissingError(cause)
            return StoreUnavailableError(f"{cause}; and then: {error}")
        return ObjectMissingError(cause)


def _is_forbidden(error: Exception) -> bool:
    code = int(error.code or 0) if isinstance(error, HttpError) else 0
    return code in (401, 403) or (isinstance(error, OSError) and str(error).startswith("Forbidden"))


def _seconds(time: str) -> float:
    """Return a time of the JSON API (RFC 3339) in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()


def _type_of(metadata: Mapping[str, object]) -> str:
    """Return the content type that belongs beside the bytes: some servers take that one."""
    return str(metadata.get("contentType", "application/octet-stream"))
