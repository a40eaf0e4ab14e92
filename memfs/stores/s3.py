"""S3 and what speaks its protocol, through s3fs.

Invariant: a missing bucket, a refused credential or an archived object is never taken for a missing
object, because a missing object means lost data to those who ask.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar

import botocore.exceptions

from memfs.errors import (
    MemfsError,
    ObjectMissingError,
    SourceArchivedError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from memfs.stores.kept_options import KeptOptions
from memfs.stores.objects import RENEW_PAUSE_S, FsspecStore, Page, UploadCallback, unanswered
from memfs.stores.restoring import RestoreDesk, RestoreTier
from memfs.stores.s3_archive import ARCHIVE_CLASSES, COPY_BYTES_MAX, Archive
from memfs.stores.s3_bucket import CLIENT_ATTEMPTS, Bucket
from memfs.stores.s3_errors import (
    NETWORK_ERRORS,
    error_code,
    is_overload,
    is_stale,
    names_checksums,
    status_of,
)
from memfs.stores.s3_listing import Listing, source_object
from memfs.stores.s3_reading import BlockingReads
from memfs.stores.s3_uploads import Uploads
from memfs.stores.source import RangeRead, SourceObject
from memfs.stores.store import ObjectStat
from memfs.stores.sums import Sum

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import s3fs

    from memfs.stores.calls import TransferProgress
    from memfs.stores.parts import PartSlots
    from memfs.stores.source import ObjectPage
    from memfs.stores.store import ByteSource

log = logging.getLogger(__name__)

T = TypeVar("T")

SERVER_SIDE_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
"""Values of x-amz-server-side-encryption."""

FORMER_COUNT_MAX = 3
"""Clients that are kept for calls that use them still: `RENEW_PAUSE_S` apart, for half a minute."""

_KMS_KEY_PREFIX = "aws:kms:"

_MD5 = re.compile(r'"([0-9a-f]{32})"')
_EXPRESS_SUFFIX = "--x-s3"
"""End of the name of a directory bucket, whose ETags are no checksums."""

CHECKSUMS = ("when_supported", "when_required")
"""Values of botocore's `request_checksum_calculation` and `response_checksum_validation`."""


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
        self._given = options
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
        self._thread_count_max = thread_count_max
        self._fs.retries = CLIENT_ATTEMPTS
        self._checksums = checksums
        self._former_clients: list[Any] = []
        self._reads: BlockingReads | None = None
        """Made when something is read; None: not yet with the present session."""
        self._bucket = Bucket(self._fs, self._root)
        encryption = _encryption_headers(server_side_encryption)
        archive_class = storage_class if storage_class in ARCHIVE_CLASSES else None
        # Objects of archive classes could not be read back, so they go there by `archive`.
        first_class = None if archive_class else storage_class
        headers = encryption | ({"StorageClass": first_class} if first_class else {})
        self._uploads = Uploads(self._bucket, self._parts, headers)
        self._listing = Listing(self._bucket, self._url)
        self._archived = Archive(
            self._bucket,
            self._url,
            archive_class,
            encryption,
            restore_tier,
            restore_days,
            copy_bytes_max,
        )
        self._desk = RestoreDesk(self._archived, restore_tier)

    def _put(self, key: str, source: Path, callback: UploadCallback) -> None:
        self._uploads.put_file(key, source, callback)

    def _put_stream(self, key: str, source: ByteSource, callback: UploadCallback) -> None:
        self._uploads.put_stream(key, source, callback)

    def _list_uploads(self, prefix: str) -> list[ObjectStat]:
        return [
            ObjectStat(self._bucket.own(each["Key"]), 0, each["Initiated"].timestamp())
            for each in self._uploads.unfinished(prefix)
        ]

    def _abort_uploads(self, key: str) -> int:
        return self._uploads.abort(key)

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
        target = self._bucket.target(key)
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
        return ObjectStat(key, int(self._bucket.head(key)["ContentLength"]))

    def _delete(self, key: str) -> None:
        self._bucket.call("delete_object", **self._bucket.target(key))

    def _list_page(self, prefix: str, page: str) -> Page:
        more = {"ContinuationToken": page} if page else {}
        answer = self._bucket.call("list_objects_v2", **self._bucket.below(prefix), **more)
        stats = [
            ObjectStat(
                self._bucket.own(item["Key"]), int(item["Size"]), item["LastModified"].timestamp()
            )
            for item in answer.get("Contents", ())
        ]
        return stats, answer["NextContinuationToken"] if answer.get("IsTruncated") else None

    # --- as a source -----------------------------------------------------------------------------
    def _list_objects(self, page: str, prefix: str, shallow: bool) -> ObjectPage:
        return self._listing.page(page, prefix, shallow=shallow)

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
        return RangeRead(data, told.get("ContentType", ""), metadata, self._sums_of(told))

    def _sums_of(self, told: Mapping[str, Any]) -> tuple[Sum, ...]:
        """Return the checksum that the ETag of an answer is, if it may be one.

        Source: S3 API, "Object": an MD5, but for uploads in parts, and keys of KMS or of customers.
        """
        found = _MD5.fullmatch(told.get("ETag", ""))
        is_plain = told.get("ServerSideEncryption", "AES256") == "AES256"
        if not found or not is_plain or "SSECustomerAlgorithm" in told:
            return ()
        if self._bucket.name.endswith(_EXPRESS_SUFFIX):
            return ()
        return (Sum("md5", bytes.fromhex(found[1]), is_certain=False),)

    def _check_answer(self, wanted: SourceObject, answer: Mapping[str, Any]) -> None:
        """See that bytes are those of an object, whatever the store makes of conditions."""
        etag, span = answer.get("ETag"), str(answer.get("ContentRange", ""))
        total = span.rpartition("/")[2]
        if etag != wanted.etag or total != str(wanted.size):
            raise self._changed(wanted, f"{etag}, of {total or 'so many'} bytes, was sent")

    def _look(self, key: str, version: str) -> SourceObject:
        which = {"VersionId": version} if version else {}
        target = self._bucket.target(key)
        head = self._bucket.call("head_object", **target, **which)
        item = {**head, "Key": target["Key"], "Size": head["ContentLength"]}
        return source_object(self._bucket, item, head.get("VersionId"))._replace(
            content_type=head.get("ContentType", ""),
            metadata=tuple(sorted(head.get("Metadata", {}).items())),
        )

    def _archive(self, key: str, progress: TransferProgress) -> None:
        self._archived.move(key, progress)

    # --- sessions --------------------------------------------------------------------------------
    def _mapped(self, what: str, function: Callable[..., T], *arguments: object) -> T:
        checksums = self._checksums
        try:
            return super()._mapped(what, function, *arguments)
        except MemfsError as error:
            if checksums == CHECKSUMS[1] or not names_checksums(error):
                raise
            self._do_without_checksums()
        return super()._mapped(what, function, *arguments)

    def _is_refused(self, error: Exception) -> bool:
        return is_stale(error)

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

    def _renew_options(self) -> None:
        if isinstance(self._given, KeptOptions):
            self._given.renew()
            for name in ("key", "secret", "token"):
                setattr(self._fs, name, self._given.get(name))

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

    # --- errors ----------------------------------------------------------------------------------
    def _translate(self, error: Exception, what: str) -> MemfsError:
        code = error_code(error)
        cause = f"{what}: {error or type(error).__name__}"
        if is_overload(error):
            return StoreUnavailableError(f"{cause}; the store is overloaded or failing")
        if isinstance(error, NETWORK_ERRORS):
            return unanswered(error, f"{cause}; check endpoint_url and the network")
        if isinstance(error, botocore.exceptions.NoCredentialsError):
            return StoreError(
                f"{cause}; set key and secret in {self.options_place}, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment of the mount"
            )
        if code == "GlacierExpeditedRetrievalNotAvailable":
            return StoreUnavailableError(f"{cause}; try later, or lower glacier.restore_tier")
        if code == "NoSuchKey":
            return ObjectMissingError(cause)
        if code in ("NoSuchBucket", "404") or isinstance(error, FileNotFoundError):
            return self._missing(cause, bucket_known_missing=code == "NoSuchBucket")
        if status_of(error) in (401, 403):
            return StoreError(f"{cause}; check key, secret and the rights of the bucket's policy")
        return super()._translate(error, what)

    def _missing(self, cause: str, *, bucket_known_missing: bool) -> MemfsError:
        """Tell a missing bucket from a missing object: the answer to HEAD does not (no body)."""
        if not bucket_known_missing:
            try:
                self._bucket.call("head_bucket", Bucket=self._bucket.name)
            except FileNotFoundError:
                bucket_known_missing = True
            # Rights to list a bucket are not needed otherwise, so a refusal tells nothing.
            except PermissionError:
                return ObjectMissingError(cause)
            except Exception as error:
                return StoreUnavailableError(f"{cause}; and then: {error}")
        if bucket_known_missing:
            return StoreError(
                f"{cause}; bucket {self._bucket.name} does not exist: create it or correct "
                "glacier.url"
            )
        return ObjectMissingError(cause)


def _checksum_settings(checksums: str) -> dict[str, str]:
    if checksums not in CHECKSUMS:
        raise UsageError(f"glacier.checksums: no {checksums!r}; write {' or '.join(CHECKSUMS)}")
    names = ("request_checksum_calculation", "response_checksum_validation")
    return dict.fromkeys(names, checksums)


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
