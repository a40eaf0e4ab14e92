"""S3 and what speaks its protocol, through s3fs.

Invariant: a missing bucket, a refused credential or an archived object is never taken for a missing
object, because a missing object means lost data to those who ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import math
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import botocore.exceptions
import botocore.parsers
from s3fs.core import _error_wrapper

# Imported for its presence: fsspec loads it by the protocol of the URL.
from memfs.errors import (
    MemfsError,
    ObjectMissingError,
    SourceArchivedError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from memfs.stores.objects import (
    RENEW_PAUSE_S,
    FsspecStore,
    Page,
    UploadCallback,
    gathered,
    unanswered,
)
from memfs.stores.parts import PART_CONCURRENCY
from memfs.stores.restoring import (
    HOUR_S,
    ArchivedObject,
    RestoreDesk,
    RestoreState,
    RestoreTier,
)
from memfs.stores.s3_bodies import NO_WISH, Part, UploadWish
from memfs.stores.s3_listing import PAGE, ListedPage, listing
from memfs.stores.s3_reading import BlockingReads
from memfs.stores.source import RangeRead, SourceObject
from memfs.stores.store import PART_BYTES, ObjectStat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import s3fs

    from memfs.stores.calls import TransferProgress
    from memfs.stores.parts import PartSlots
    from memfs.stores.source import ObjectPage
    from memfs.stores.store import ByteSource

log = logging.getLogger(__name__)

T = TypeVar("T")

PART_COUNT_MAX = 9_000
"""S3 allows 10,000 parts of an upload; beyond this count parts grow."""

COPY_BYTES_MAX = 1 << 30
"""The largest copy that S3 makes by one request is 5 GiB."""

ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Whose objects have to be restored before they are read."""

_RESTORE_S = {
    ("GLACIER", RestoreTier.EXPEDITED): HOUR_S / 12,
    ("GLACIER", RestoreTier.STANDARD): 5 * HOUR_S,
    ("GLACIER", RestoreTier.BULK): 12 * HOUR_S,
    ("DEEP_ARCHIVE", RestoreTier.STANDARD): 12 * HOUR_S,
    ("DEEP_ARCHIVE", RestoreTier.BULK): 48 * HOUR_S,
}
"""Longest typical durations, from "Archive retrieval options" of the S3 user guide."""

SERVER_SIDE_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
"""Values of x-amz-server-side-encryption."""

FORMER_COUNT_MAX = 3
"""Clients that are kept for calls that use them still: `RENEW_PAUSE_S` apart, for half a minute."""

_STALE_CODES = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestExpired",
        "TokenRefreshRequired",
        # The answer to HEAD has no body that would tell.
        "400",
        "401",
        "403",
    }
)
"""What credentials may be answered with that were renewed meanwhile, where they are kept."""

_KMS_KEY_PREFIX = "aws:kms:"

CHECKSUMS = ("when_supported", "when_required")
"""Values of botocore's `request_checksum_calculation` and `response_checksum_validation`."""

_CHECKSUM_WORDS = (
    "x-amz-sdk-checksum-algorithm",
    "x-amz-checksum-",
    "x-amz-trailer",
    "aws-chunked",
    "streaming-unsigned-payload-trailer",
)
"""What names the newer checksums in the error of a store that does not know them, in lower case."""

CLIENT_ATTEMPTS = 2
"""One retry inside the client for a reset connection; all others are `stores.retry`'s."""

_THROTTLED = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestTimeout",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "InternalError",
        "OperationAborted",
        "TooManyRequests",
        "XMinioServerNotInitialized",
    }
)
_NETWORK_ERRORS = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    # Bytes that came damaged.
    botocore.exceptions.FlexibleChecksumError,
    botocore.parsers.ResponseParserError,
)


class S3Store(FsspecStore):
    """A `RemoteStore` over a bucket.

    Args:
        url: `s3://bucket/prefix`.
        options: Those of s3fs, as `endpoint_url`, `key`, `secret`, `token`, `profile`, `anon`; and
            `region`, which s3fs would want deeper down.
        timeout_s: As for `FsspecStore`; also of each wait for the socket.
        thread_count_max: As for `FsspecStore`.
        parts: As for `FsspecStore`.
        renew_pause_s: As for `FsspecStore`.
        copy_bytes_max: Copied inside S3 by one request.
        storage_class: That of new objects; None: the bucket's default.
        server_side_encryption: `AES256`, `aws:kms`, or `aws:kms:` and the id or ARN of a key;
            None: the bucket's default.
        restore_tier: How fast archived objects come back.
        restore_days: How long a restored copy is kept, >= 1.
        checksums: One of `CHECKSUMS`.

    Raises:
        UsageError: As `FsspecStore`; or a value is not one of those.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, object],
        timeout_s: float,
        thread_count_max: int,
        storage_class: str | None = None,
        server_side_encryption: str | None = None,
        restore_tier: RestoreTier = RestoreTier.STANDARD,
        restore_days: int = 3,
        checksums: str = CHECKSUMS[0],
        *,
        parts: PartSlots | None = None,
        renew_pause_s: float = RENEW_PAUSE_S,
        copy_bytes_max: int = COPY_BYTES_MAX,
    ) -> None:
        settings: dict[str, Any] = dict(options)
        settings["config_kwargs"] = {
            # The client's own time-outs end the thread that the deadline abandons.
            "connect_timeout": min(timeout_s, 10.0),
            "read_timeout": timeout_s,
            "retries": {"total_max_attempts": 1},
            **_checksum_settings(checksums),
            **settings.get("config_kwargs", {}),
        }
        if region := settings.pop("region", None):
            settings["client_kwargs"] = {"region_name": region, **settings.get("client_kwargs", {})}
        super().__init__(
            url, settings, timeout_s, thread_count_max, parts=parts, renew_pause_s=renew_pause_s
        )
        self._fs: s3fs.S3FileSystem
        self._copy_bytes_max = copy_bytes_max
        self._thread_count_max = thread_count_max
        self._fs.retries = CLIENT_ATTEMPTS
        self._checksums = checksums
        self._former_clients: list[Any] = []
        self._reads: BlockingReads | None = None
        """Made when something is read; None: not yet with the present session."""
        self._versioned: bool | None = None
        self._bucket, _, self._prefix = self._root.partition("/")
        self._archive_class = storage_class if storage_class in ARCHIVE_CLASSES else None
        self._encryption = _encryption_headers(server_side_encryption)
        # Objects of archive classes could not be read back, so they go there by `archive`.
        first_class = None if self._archive_class else storage_class
        self._upload_headers = self._encryption | (
            {"StorageClass": first_class} if first_class else {}
        )
        self._restore_tier = restore_tier
        self._restore_days = restore_days
        self._desk = RestoreDesk(self, restore_tier)

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _put(self, key: str, source: Path, callback: UploadCallback) -> None:
        size = source.stat().st_size
        part_bytes = max(PART_BYTES, math.ceil(size / PART_COUNT_MAX))
        with source.open("rb") as file:
            if size > 2 * part_bytes:
                parts = iter(functools.partial(file.read, part_bytes), b"")
                self._put_parts(key, parts, callback)
                return
            self._put_whole(key, file)
        callback.relative_update(size)

    def _put_whole(self, key: str, body: BinaryIO | Part, wanted: UploadWish = NO_WISH) -> str:
        """Upload an object by one request; returns its etag."""
        arguments = {"Bucket": self._bucket, "Key": self._key(key)}
        arguments |= {**self._upload_headers, **wanted.headers, **wanted.condition}
        answer = self._wait(functools.partial(self._send, "put_object", body, **arguments))
        return str(answer["ETag"])

    async def _send(self, name: str, body: BinaryIO | Part, **arguments: object) -> dict[str, Any]:
        """Make a request with a body, of which a small piece at a time is copied.

        Bytes are handed over as a file: the transport copies what the socket does not take at
        once, all of a part as a rule. Each attempt sends it from its beginning, where the client's
        own retry would go on behind what it has read.
        """
        await self._fs.set_session()
        method = getattr(await self._fs.get_s3(self._bucket), name)

        async def attempt(**arguments: object) -> dict[str, Any]:
            body.seek(0)
            answer: dict[str, Any] = await method(Body=body, **arguments)
            return answer

        arguments = self._fs._get_s3_method_kwargs(method, **arguments)
        result: dict[str, Any] = await _error_wrapper(
            attempt, kwargs=arguments, retries=CLIENT_ATTEMPTS
        )
        return result

    def _put_stream(self, key: str, source: ByteSource, callback: UploadCallback) -> None:
        part_bytes = max(PART_BYTES, math.ceil(source.size_max / PART_COUNT_MAX))
        parts = gathered(source, part_bytes, callback)
        first = next(parts, b"")
        if len(first) < part_bytes:
            self._put_whole(key, Part(first))
            return
        self._put_parts(key, itertools.chain([first], parts), callback)

    def _put_parts(
        self,
        key: str,
        parts: Iterator[bytes],
        callback: UploadCallback,
        wanted: UploadWish = NO_WISH,
    ) -> str:
        """Upload an object in parts, some at a time; one that does not end leaves nothing.

        An upload that is left alone stays in the bucket, and is paid for, for ever.

        Returns:
            The etag.
        """
        target = {"Bucket": self._bucket, "Key": self._key(key)}
        headers = {**self._upload_headers, **wanted.headers}
        upload = self._fs.call_s3("create_multipart_upload", **target, **headers)
        upload_id = upload["UploadId"]
        stored: list[dict[str, Any]] = []

        async def put_part(number: int, part: bytes) -> dict[str, Any]:
            body = Part(part)
            try:
                answer = await self._send(
                    "upload_part", body, **target, UploadId=upload_id, PartNumber=number
                )
            finally:
                body.release()
            callback.relative_update(len(part))
            return {"PartNumber": number, "ETag": answer["ETag"]}

        async def put_some(window: list[bytes]) -> list[dict[str, Any]]:
            numbers = range(len(stored) + 1, len(stored) + 1 + len(window))
            tasks = [asyncio.ensure_future(each) for each in map(put_part, numbers, window)]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

        try:
            wanted.on_begun(upload_id)
            with self._parts.take(PART_CONCURRENCY) as count:
                while window := list(itertools.islice(parts, count)):
                    stored += self._wait(functools.partial(put_some, window))
                    window.clear()  # not to be in memory beside the next ones
            # Nobody waits any more: the object would come late.
            callback.relative_update(0)
            answer: dict[str, Any] = self._fs.call_s3(
                "complete_multipart_upload",
                **target,
                **wanted.condition,
                UploadId=upload_id,
                MultipartUpload={"Parts": stored},
            )
            return str(answer["ETag"])
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.call_s3("abort_multipart_upload", **target, UploadId=upload_id)
            raise

    def _uploads(self, prefix: str) -> list[dict[str, Any]]:
        which = {"Bucket": self._bucket, "Prefix": self._key(prefix)}
        found: list[dict[str, Any]] = []
        place: dict[str, str] = {}
        while True:
            answer: dict[str, Any] = self._fs.call_s3("list_multipart_uploads", **which, **place)
            found += answer.get("Uploads", ())
            following = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }
            # A store that does not go on would be asked for ever.
            if not answer.get("IsTruncated") or following == place or not following["KeyMarker"]:
                return found
            place = following

    def _list_uploads(self, prefix: str) -> list[ObjectStat]:
        skip = len(self._key(""))
        return [
            ObjectStat(each["Key"][skip:], 0, each["Initiated"].timestamp())
            for each in self._uploads(prefix)
        ]

    def _abort_uploads(self, key: str) -> int:
        target = {"Bucket": self._bucket, "Key": self._key(key)}
        found = [each for each in self._uploads(key) if each["Key"] == target["Key"]]
        for each in found:
            self._fs.call_s3("abort_multipart_upload", **target, UploadId=each["UploadId"])
        return len(found)

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        try:
            return self._fetch(key, start, end)
        except OSError as error:
            code = error_code(error)
            if code in ("InvalidRange", "416"):
                # The range begins at or beyond the end (RFC 9110 section 15.5.17).
                return b""
            if code == "InvalidObjectState":
                refusal = self._desk.refuse(key, f"store {self._url}: get {key}")
                if refusal is None:
                    return self._fetch(key, start, end)
                raise refusal from error
            raise

    def _fetch(
        self,
        key: str,
        start: int,
        end: int,
        condition: Mapping[str, str] | None = None,
        check: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> bytes:
        """Return a range of an object; see `BlockingReads.get`."""
        target = {"Bucket": self._bucket, "Key": self._key(key)}
        wanted = {**target, "Range": f"bytes={start}-{end - 1}", **(condition or {})}
        return self._blocking_reads().get(wanted, end - start, check)

    def _blocking_reads(self) -> BlockingReads:
        reads = self._reads
        if reads is None:
            with self._reconnecting:
                if (reads := self._reads) is None:
                    self._fs.connect()
                    reads = BlockingReads(self._fs, self._thread_count_max, CLIENT_ATTEMPTS)
                    self._reads = reads
        return reads

    def _stat(self, key: str) -> ObjectStat:
        # Not `info`: it takes a prefix with objects below for a directory of that name.
        return ObjectStat(key, int(self._head(key)["ContentLength"]))

    def _head(self, key: str) -> dict[str, Any]:
        head: dict[str, Any] = self._fs.call_s3(
            "head_object", Bucket=self._bucket, Key=self._key(key)
        )
        return head

    def _delete(self, key: str) -> None:
        self._fs.call_s3("delete_object", Bucket=self._bucket, Key=self._key(key))

    def _list_page(self, prefix: str, page: str) -> Page:
        more = {"ContinuationToken": page} if page else {}
        answer: dict[str, Any] = self._fs.call_s3(
            "list_objects_v2", Bucket=self._bucket, Prefix=self._key(prefix), **more
        )
        skip = len(self._key(""))
        stats = [
            ObjectStat(item["Key"][skip:], int(item["Size"]), item["LastModified"].timestamp())
            for item in answer.get("Contents", ())
        ]
        return stats, answer["NextContinuationToken"] if answer.get("IsTruncated") else None

    # --- as a source -----------------------------------------------------------------------------
    def _list_objects(self, page: str, prefix: str, shallow: bool) -> ObjectPage:
        if self._versioned is None:
            self._versioned = self._keeps_versions()
        which = {"Bucket": self._bucket, "Prefix": self._key(prefix)}
        if shallow:
            which["Delimiter"] = "/"
        if self._versioned:
            return self._list_versions(page, which)
        if page:
            which["ContinuationToken"] = page
        listed = self._wait(functools.partial(self._list_objects_now, which))
        skip = len(self._key(""))
        found = [
            SourceObject(key[skip:], size, etag, mtime_ns)
            for key, size, etag, mtime_ns in listed.objects
        ]
        if shallow:
            found += [SourceObject(prefix[skip:], 0, "", 0) for prefix in listed.prefixes]
            found.sort(key=lambda each: each.order)
        return found, listed.following

    async def _list_objects_now(self, which: dict[str, str]) -> ListedPage:
        with listing(await self._fs.get_s3(self._bucket)):
            answer: dict[str, Any] = await self._fs._call_s3("list_objects_v2", **which)
        page = answer.get(PAGE)
        if not isinstance(page, ListedPage):
            raise StoreError(
                f"store {self._url}: list: the answer is no listing of objects: is endpoint_url "
                "that of an S3 server?"
            )
        return page

    def _with_prefixes(
        self, found: list[SourceObject], answer: Mapping[str, Any]
    ) -> list[SourceObject]:
        """Return the objects of an answer, and what stands for those behind a further slash."""
        skip = len(self._key(""))
        found += [
            SourceObject(item["Prefix"][skip:], 0, "", 0)
            for item in answer.get("CommonPrefixes", ())
        ]
        return sorted(found, key=lambda each: each.order)

    def _list_versions(self, page: str, which: dict[str, str]) -> ObjectPage:
        """Return a page with the version of each object: former ones cost requests too."""
        if page:
            which |= zip(("KeyMarker", "VersionIdMarker"), json.loads(page), strict=True)
        answer: dict[str, Any] = self._fs.call_s3("list_object_versions", **which)
        found = [
            self._source_object(item, item.get("VersionId"))
            for item in answer.get("Versions", ())
            if item.get("IsLatest")
        ]
        if "Delimiter" in which:
            found = self._with_prefixes(found, answer)
        if not answer.get("IsTruncated"):
            return found, None
        # Behind a prefix there is no version to go on from.
        marker = answer.get("NextVersionIdMarker", "")
        return found, json.dumps([answer["NextKeyMarker"], marker])

    def _keeps_versions(self) -> bool:
        try:
            answer = self._fs.call_s3("get_bucket_versioning", Bucket=self._bucket)
        except (OSError, botocore.exceptions.BotoCoreError) as error:
            # Its own right, which many who may read have not; or a store without versions.
            log.debug("store %s: does not tell whether it keeps versions: %s", self._url, error)
            return False
        return bool(answer.get("Status") == "Enabled")

    def _source_object(self, item: Mapping[str, Any], version: str | None = None) -> SourceObject:
        return SourceObject(
            item["Key"][len(self._key("")) :],
            int(item["Size"]),
            item["ETag"],
            int(item["LastModified"].timestamp() * 1_000_000_000),
            "" if version in (None, "null") else str(version),
        )

    def _read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        told: dict[str, Any] = {}

        def check(answer: Mapping[str, Any]) -> None:
            self._check_answer(wanted, answer)
            told.update(answer)

        condition = {"IfMatch": wanted.etag}
        if wanted.version:
            condition = {"VersionId": wanted.version}
        try:
            data = self._fetch(wanted.key, start, end, condition, check)
        except OSError as error:
            code = error_code(error)
            if code in ("PreconditionFailed", "412"):
                raise self._changed(wanted, "another one was written") from error
            if code in ("InvalidRange", "416"):
                raise self._changed(wanted, "it ends before that") from error
            if code == "NoSuchVersion":
                raise self._changed(wanted, "that version was removed") from error
            if code == "InvalidObjectState":
                raise SourceArchivedError(
                    f"store {self._url}: get {wanted.key}: it is archived; have it restored there"
                ) from error
            raise
        metadata = tuple(sorted(told.get("Metadata", {}).items()))
        return RangeRead(data, told.get("ContentType", ""), metadata)

    def _check_answer(self, wanted: SourceObject, answer: Mapping[str, Any]) -> None:
        """See that bytes are those of an object, whatever the store makes of conditions."""
        etag, span = answer.get("ETag"), str(answer.get("ContentRange", ""))
        total = span.rpartition("/")[2]
        if etag != wanted.etag or total != str(wanted.size):
            raise self._changed(wanted, f"{etag}, of {total or 'so many'} bytes, was sent")

    def _look(self, key: str, version: str) -> SourceObject:
        which = {"VersionId": version} if version else {}
        head: dict[str, Any] = self._fs.call_s3(
            "head_object", Bucket=self._bucket, Key=self._key(key), **which
        )
        item = {**head, "Key": self._key(key), "Size": head["ContentLength"]}
        return self._source_object(item, head.get("VersionId"))._replace(
            content_type=head.get("ContentType", ""),
            metadata=tuple(sorted(head.get("Metadata", {}).items())),
        )

    # --- archive classes -------------------------------------------------------------------------
    def _archive(self, key: str, progress: TransferProgress) -> None:
        if self._archive_class is None:
            return
        head = self._head(key)
        if head.get("StorageClass") == self._archive_class:
            return
        size = int(head["ContentLength"])
        target: dict[str, Any] = {"Bucket": self._bucket, "Key": self._key(key)}
        headers = {"StorageClass": self._archive_class, **self._encryption}
        if size <= self._copy_bytes_max:
            self._fs.call_s3("copy_object", CopySource=self._path(key), **target, **headers)
        else:
            self._copy_parts(target, headers, size, progress)
        archived = self._head(key)
        found = (archived.get("StorageClass"), int(archived["ContentLength"]))
        if found != (self._archive_class, size):
            raise StoreError(
                f"store {self._url}: archive {key}: the store made {found} of it and not "
                f"{(self._archive_class, size)}; choose a storage class that it has"
            )

    def _copy_parts(
        self,
        target: Mapping[str, Any],
        headers: Mapping[str, Any],
        size: int,
        progress: TransferProgress,
    ) -> None:
        """Copy a large object onto itself; readers see the old one until the last request."""
        part_bytes = max(self._copy_bytes_max, math.ceil(size / PART_COUNT_MAX))
        upload = self._fs.call_s3("create_multipart_upload", **target, **headers)["UploadId"]
        try:
            parts = []
            for number, start in enumerate(range(0, size, part_bytes), start=1):
                answer = self._fs.call_s3(
                    "upload_part_copy",
                    **target,
                    UploadId=upload,
                    PartNumber=number,
                    CopySource=f"{target['Bucket']}/{target['Key']}",
                    CopySourceRange=f"bytes={start}-{min(start + part_bytes, size) - 1}",
                )
                parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
                progress.beat()
            self._fs.call_s3(
                "complete_multipart_upload",
                **target,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            self._fs.call_s3("abort_multipart_upload", **target, UploadId=upload)
            raise

    def look(self, key: str) -> ArchivedObject:
        """Return how far an archived object is; blocks for one request."""
        head = self._head(key)
        storage_class = str(head.get("ArchiveStatus") or head.get("StorageClass", "STANDARD"))
        restore = str(head.get("Restore", ""))
        if 'ongoing-request="true"' in restore:
            state = RestoreState.ONGOING
        elif restore or not _is_archived(head):
            state = RestoreState.READABLE
        else:
            state = RestoreState.ARCHIVED
        depth = "DEEP_ARCHIVE" if "DEEP" in storage_class else "GLACIER"
        # Deep archives have no expedited restore.
        duration_s = _RESTORE_S.get((depth, self._restore_tier), 12 * HOUR_S)
        return ArchivedObject(state, storage_class, duration_s)

    def request_restore(self, key: str, found: ArchivedObject) -> None:
        """Have an object restored; blocks for one request."""
        tier = self._restore_tier
        if tier is RestoreTier.EXPEDITED and "DEEP" in found.storage_class:
            tier = RestoreTier.STANDARD
        request: dict[str, Any] = {"GlacierJobParameters": {"Tier": tier.capitalize()}}
        if found.storage_class in ARCHIVE_CLASSES:
            # With S3 Intelligent-Tiering the object itself comes back, for good.
            request["Days"] = self._restore_days
        try:
            self._fs.call_s3(
                "restore_object",
                Bucket=self._bucket,
                Key=self._key(key),
                RestoreRequest=request,
            )
        except OSError as error:
            if error_code(error) != "RestoreAlreadyInProgress":
                raise

    def _mapped(self, what: str, function: Callable[..., T], *arguments: object) -> T:
        checksums = self._checksums
        try:
            return super()._mapped(what, function, *arguments)
        except MemfsError as error:
            told = str(error).lower()
            if checksums == CHECKSUMS[1] or not any(word in told for word in _CHECKSUM_WORDS):
                raise
            self._do_without_checksums()
        return super()._mapped(what, function, *arguments)

    def _is_refused(self, error: Exception) -> bool:
        return _is_stale(error)

    def _do_without_checksums(self) -> None:
        """Send the newer checksum headers only where S3 demands one, from now on."""
        with self._reconnecting:
            if self._checksums == CHECKSUMS[1]:
                return
            log.info(
                "store %s refuses checksum headers and gets them only where they are required; "
                'glacier.checksums = "when_required" says so from the start',
                self._url,
            )
            self._fs.config_kwargs.update(_checksum_settings(CHECKSUMS[1]))
            self._connect_anew()
            self._checksums = CHECKSUMS[1]

    def _connect_anew(self) -> None:
        # Others are using it: it is closed with the store, or when nobody can be using it.
        self._former_clients.append(self._fs._s3)
        if len(self._former_clients) > FORMER_COUNT_MAX:
            self._close_client(self._former_clients.pop(0))
        # s3fs would keep each client until it ends itself, with 12 MB of descriptions of services.
        self._fs.asynchronous = True
        try:
            # Files, credential processes and instance roles are read when a session is made.
            self._fs.connect(refresh=True)
        finally:
            self._fs.asynchronous = False
        self._reads = None

    def _close_client(self, client: Any) -> None:  # noqa: ANN401  botocore makes its class
        if client is not None:
            self._fs.close_session(self._fs.loop, client)

    def _close(self) -> None:
        for client in (*self._former_clients, self._fs._s3):
            self._close_client(client)
        self._former_clients.clear()
        if self._reads is not None:
            self._reads.close()

    def _translate(self, error: Exception, what: str) -> MemfsError:
        response = _response(error)
        code = error_code(error)
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        cause = f"{what}: {error or type(error).__name__}"
        if code in _THROTTLED or status == 429 or status >= 500:
            return StoreUnavailableError(f"{cause}; the store is overloaded or failing")
        if isinstance(error, _NETWORK_ERRORS):
            return unanswered(error, f"{cause}; check endpoint_url and the network")
        if isinstance(error, botocore.exceptions.NoCredentialsError):
            return StoreError(f"{cause}; set key and secret in glacier.options")
        if code == "GlacierExpeditedRetrievalNotAvailable":
            return StoreUnavailableError(f"{cause}; try later, or lower glacier.restore_tier")
        if code == "NoSuchKey":
            return ObjectMissingError(cause)
        if code in ("NoSuchBucket", "404") or isinstance(error, FileNotFoundError):
            return self._missing(cause, bucket_known_missing=code == "NoSuchBucket")
        if status in (401, 403):
            return StoreError(f"{cause}; check key, secret and the rights of the bucket's policy")
        return super()._translate(error, what)

    def _missing(self, cause: str, *, bucket_known_missing: bool) -> MemfsError:
        """Tell a missing bucket from a missing object: the answer to HEAD does not (no body)."""
        if not bucket_known_missing:
            try:
                self._fs.call_s3("head_bucket", Bucket=self._bucket)
            except FileNotFoundError:
                bucket_known_missing = True
            # Rights to list a bucket are not needed otherwise, so a refusal tells nothing.
            except PermissionError:
                return ObjectMissingError(cause)
            except Exception as error:
                return StoreUnavailableError(f"{cause}; and then: {error}")
        if bucket_known_missing:
            return StoreError(
                f"{cause}; bucket {self._bucket} does not exist: create it or correct glacier.url"
            )
        return ObjectMissingError(cause)


def _checksum_settings(checksums: str) -> dict[str, str]:
    if checksums not in CHECKSUMS:
        raise UsageError(f"glacier.checksums: no {checksums!r}; write {' or '.join(CHECKSUMS)}")
    names = ("request_checksum_calculation", "response_checksum_validation")
    return dict.fromkeys(names, checksums)


def _is_stale(error: BaseException | None) -> bool:
    """Return whether a request may go well with the credentials as they are kept now."""
    found = error
    while found is not None:
        if isinstance(found, botocore.exceptions.NoCredentialsError):
            return True
        found = found.__cause__
    return error is not None and error_code(error) in _STALE_CODES


def _is_archived(head: Mapping[str, Any]) -> bool:
    return bool(head.get("ArchiveStatus")) or head.get("StorageClass") in ARCHIVE_CLASSES


def _encryption_headers(wanted: str | None) -> dict[str, str]:
    """Return the parameters of an upload that ask for encryption by the store."""
    if wanted is None:
        return {}
    key_id = wanted.removeprefix(_KMS_KEY_PREFIX)
    if wanted not in SERVER_SIDE_ENCRYPTIONS and key_id in ("", wanted):
        raise UsageError(
            f"glacier.server_side_encryption: no {wanted!r}; "
            f"write {', '.join(SERVER_SIDE_ENCRYPTIONS)} or {_KMS_KEY_PREFIX}KEY-ID"
        )
    if wanted in SERVER_SIDE_ENCRYPTIONS:
        return {"ServerSideEncryption": wanted}
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_id}


def _response(error: BaseException | None) -> dict[str, Any]:
    """Return the S3 answer behind an error that s3fs made of it; empty if there was no answer."""
    while error is not None:
        if isinstance(error, botocore.exceptions.ClientError):
            return dict(error.response)
        error = error.__cause__
    return {}


def error_code(error: BaseException) -> str:
    """Return the code that S3 gave, wherever in the chain of causes; empty: there is no code."""
    return str(_response(error).get("Error", {}).get("Code", ""))
