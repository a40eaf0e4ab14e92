"""Publishing to S3: each object by one request, or by parts, on a condition.

Invariant: every PUT, completion and DELETE has If-None-Match or If-Match (RFC 9110 section 13.1).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from memfs.stores.fsspec_publishing import FsspecPublicStore
from memfs.stores.objects import gathered
from memfs.stores.publishing import TOKEN_NAME, PublicObject, metadata_of
from memfs.stores.s3 import S3Store
from memfs.stores.s3_bodies import Part, UploadWish
from memfs.stores.s3_errors import error_code
from memfs.stores.s3_uploads import part_bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.stores.objects import UploadCallback
    from memfs.stores.publishing import PublicAttributes
    from memfs.stores.store import ByteSource

_FAILED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_MISSING = ("NoSuchKey", "404", "NotFound")


class S3PublicStore(FsspecPublicStore, S3Store):
    """A `PublicStore` over a bucket."""

    is_conditional = True
    is_replaced_whole = True

    def _put_public(
        self,
        key: str,
        source: ByteSource,
        former: str,
        attributes: PublicAttributes,
        callback: UploadCallback,
        on_begun: Callable[[str], object],
        in_parts: bool,
    ) -> str:
        part_bytes = part_bytes_of(source.size_max, self.part_bytes)
        headers = {"ContentType": attributes.content_type, "Metadata": metadata_of(attributes)}
        condition = {"IfMatch": former} if former else {"IfNoneMatch": "*"}
        wanted = UploadWish(headers, condition, on_begun)
        parts = gathered(source, part_bytes, callback)
        try:
            first = next(parts, b"")
            if len(first) < part_bytes and not in_parts:
                return self._uploads.put_whole(key, Part(first), wanted)
            return self._uploads.put_parts(key, itertools.chain([first], parts), callback, wanted)
        except OSError as error:
            if error_code(error) in (*_FAILED, *(_MISSING if former else ())):
                raise self._taken(key) from error
            raise

    def _abort(self, key: str, upload: str) -> None:
        target = self._bucket.target(key)
        try:
            self._bucket.call("abort_multipart_upload", **target, UploadId=upload)
        except OSError as error:
            if error_code(error) not in ("NoSuchUpload", *_MISSING):
                raise

    def _look_at_public(self, key: str) -> PublicObject:
        head = self._bucket.head(key)
        token = head.get("Metadata", {}).get(TOKEN_NAME, "")
        return PublicObject(head["ETag"], int(head["ContentLength"]), token)

    def _delete_if(self, key: str, former: str) -> None:
        try:
            self._bucket.call("delete_object", **self._bucket.target(key), IfMatch=former)
        except OSError as error:
            code = error_code(error)
            if code in _MISSING or (code in _FAILED and not self._is_there(key)):
                return
            if code in _FAILED:
                raise self._taken(key) from error
            raise
