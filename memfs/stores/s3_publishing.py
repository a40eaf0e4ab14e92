"""Publishing to S3: whole objects by one request, each on a condition.

Invariant: every PUT and DELETE has If-None-Match or If-Match (RFC 9110 section 13.1).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from memfs.errors import ObjectMissingError, ObjectTakenError, StoreError
from memfs.sizes import format_size
from memfs.stores.objects import RATE_BYTES_S_MIN
from memfs.stores.publishing import TOKEN_NAME, PublicObject
from memfs.stores.s3 import S3Store, error_code
from memfs.stores.source import SourceObject

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PUT_BYTES_MAX = 5 << 30
"""Largest object that one request stores ("Uploading objects", S3 user guide)."""

_FAILED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_MISSING = ("NoSuchKey", "404", "NotFound")


class S3PublicStore(S3Store):
    """A `PublicStore` over a bucket."""

    async def put_if(
        self,
        key: str,
        source: Path,
        former: str,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> str:
        """Store a local file as an object, where the condition holds."""
        what = f"publish {key}"
        size = await self._call(what, lambda: source.stat().st_size)
        if size > PUT_BYTES_MAX:
            raise StoreError(
                f"store {self.url}: {what}: {format_size(size)}; one request stores at most "
                f"{format_size(PUT_BYTES_MAX)}, and only one has a condition: split the file"
            )
        put = functools.partial(
            self._mapped, what, self._put_if, key, source, former, content_type, metadata
        )
        return await self._calls.run(what, put, self._timeout_s + size / RATE_BYTES_S_MIN)

    async def find(self, key: str) -> PublicObject | None:
        """Return an object as it is now; None: there is no object."""
        try:
            return await self._call(f"look at {key}", self._look_at_public, key)
        except ObjectMissingError:
            return None

    async def read(self, key: str, stored: PublicObject, start: int, end: int) -> bytes:
        """Return a range of an object of an etag."""
        return await self.read_if(SourceObject(key, stored.size, stored.etag, 0), start, end)

    async def delete_if(self, key: str, former: str) -> None:
        """Remove an object of an etag."""
        await self._call(f"remove {key}", self._delete_if, key, former)

    def _put_if(
        self, key: str, source: Path, former: str, content_type: str, metadata: Mapping[str, str]
    ) -> str:
        arguments: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": self._key(key),
            "ContentType": content_type,
            "Metadata": dict(metadata),
            **({"IfMatch": former} if former else {"IfNoneMatch": "*"}),
        }
        with source.open("rb") as body:
            try:
                answer = self._wait(functools.partial(self._send, "put_object", body, **arguments))
            except OSError as error:
                if error_code(error) in (*_FAILED, *(_MISSING if former else ())):
                    raise self._taken(key) from error
                raise
        return str(answer["ETag"])

    def _look_at_public(self, key: str) -> PublicObject:
        head = self._head(key)
        token = head.get("Metadata", {}).get(TOKEN_NAME, "")
        return PublicObject(head["ETag"], int(head["ContentLength"]), token)

    def _delete_if(self, key: str, former: str) -> None:
        try:
            self._fs.call_s3(
                "delete_object", Bucket=self._bucket, Key=self._key(key), IfMatch=former
            )
        except OSError as error:
            code = error_code(error)
            if code in _MISSING:
                return
            if code in _FAILED:
                raise self._taken(key) from error
            raise

    def _taken(self, key: str) -> ObjectTakenError:
        return ObjectTakenError(f"{self.url}/{key}: changed by someone else; it stays as it is")
