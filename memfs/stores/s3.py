"""S3 and what speaks its protocol, through s3fs.

Invariant: a missing bucket, a refused credential or an archived object is never taken for a missing
object, because a missing object means lost data to those who ask.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import botocore.exceptions
import botocore.parsers

# Imported for its presence: fsspec loads it by the protocol of the URL.
from memfs.errors import MemfsError, ObjectMissingError, StoreError, StoreUnavailableError
from memfs.stores.objects import PART_BYTES, FsspecStore, Page, UploadCallback
from memfs.stores.store import ObjectStat

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import s3fs

PART_COUNT_MAX = 9_000
"""S3 allows 10,000 parts of an upload; beyond this count parts grow."""

PART_CONCURRENCY = 2
"""Parts in flight of one upload; guess: bounds memory to 16 MiB an upload."""

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
    botocore.parsers.ResponseParserError,
)


class S3Store(FsspecStore):
    """A `RemoteStore` over a bucket.

    Args:
        url: `s3://bucket/prefix`.
        options: Of s3fs, as `endpoint_url`, `key`, `secret`, `token`, `profile`, `anon`; and
            `region`, which s3fs would want deeper down.
        timeout_s: As for `FsspecStore`; also of each wait for the socket.
        thread_count_max: As for `FsspecStore`.
        storage_class: Of new objects; None: the bucket's default.
        server_side_encryption: `AES256` or `aws:kms`; None: the bucket's default.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, object],
        timeout_s: float,
        thread_count_max: int,
        storage_class: str | None = None,
        server_side_encryption: str | None = None,
    ) -> None:
        # The client's own time-outs end the thread that the deadline abandons.
        settings: dict[str, Any] = {
            "config_kwargs": {
                "connect_timeout": min(timeout_s, 10.0),
                "read_timeout": timeout_s,
                "retries": {"total_max_attempts": 1},
            },
            **options,
        }
        if region := settings.pop("region", None):
            settings["client_kwargs"] = {"region_name": region, **settings.get("client_kwargs", {})}
        super().__init__(url, settings, timeout_s, thread_count_max)
        self._fs: s3fs.S3FileSystem
        self._fs.retries = CLIENT_ATTEMPTS
        self._bucket, _, self._prefix = self._root.partition("/")
        wanted = {"StorageClass": storage_class, "ServerSideEncryption": server_side_encryption}
        self._upload_headers = {name: value for name, value in wanted.items() if value}

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _put(self, key: str, source: Path, callback: UploadCallback) -> None:
        part_bytes = max(PART_BYTES, math.ceil(source.stat().st_size / PART_COUNT_MAX))
        self._fs.put_file(
            str(source),
            self._path(key),
            callback=callback,
            chunksize=part_bytes,
            max_concurrency=PART_CONCURRENCY,
            **self._upload_headers,
        )

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        try:
            return super()._get_range(key, start, end)
        except OSError as error:
            if _error_code(error) in ("InvalidRange", "416"):
                # The range begins at or beyond the end (RFC 9110 section 15.5.17).
                return b""
            raise

    def _stat(self, key: str) -> ObjectStat:
        # Not `info`: it takes a prefix with objects below for a directory of that name.
        head = self._fs.call_s3("head_object", Bucket=self._bucket, Key=self._key(key))
        return ObjectStat(key, int(head["ContentLength"]))

    def _delete(self, key: str) -> None:
        self._fs.call_s3("delete_object", Bucket=self._bucket, Key=self._key(key))

    def _list_page(self, prefix: str, page: str) -> Page:
        more = {"ContinuationToken": page} if page else {}
        answer: dict[str, Any] = self._fs.call_s3(
            "list_objects_v2", Bucket=self._bucket, Prefix=self._key(prefix), **more
        )
        skip = len(self._key(""))
        stats = [
            ObjectStat(item["Key"][skip:], int(item["Size"])) for item in answer.get("Contents", ())
        ]
        return stats, answer["NextContinuationToken"] if answer.get("IsTruncated") else None

    def _close(self) -> None:
        if self._fs._s3 is not None:
            self._fs.close_session(self._fs.loop, self._fs._s3)

    def _translate(self, error: Exception, what: str) -> MemfsError:
        response = _response(error)
        code = _error_code(error)
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        cause = f"{what}: {error or type(error).__name__}"
        if code in _THROTTLED or status == 429 or status >= 500:
            return StoreUnavailableError(f"{cause}; the store is overloaded or failing")
        if isinstance(error, _NETWORK_ERRORS):
            return StoreUnavailableError(f"{cause}; check endpoint_url and the network")
        if isinstance(error, botocore.exceptions.NoCredentialsError):
            return StoreError(f"{cause}; set key and secret in glacier.options")
        if code == "InvalidObjectState":
            return StoreError(f"{cause}; the object is archived: restore it in S3 first")
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


def _response(error: BaseException | None) -> dict[str, Any]:
    """Return the S3 answer behind an error that s3fs made of it; empty if there was none."""
    while error is not None:
        if isinstance(error, botocore.exceptions.ClientError):
            return dict(error.response)
        error = error.__cause__
    return {}


def _error_code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))
