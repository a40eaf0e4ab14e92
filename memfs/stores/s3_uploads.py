"""Uploads to S3: objects by one request or by parts, and uploads in parts that have not ended.

Invariant: an upload that fails here leaves no parts, unless the process is killed or the store is
away; `unfinished` finds what such ones have left. S3 keeps it, and charges for it, for ever.

Methods block, in the worker threads of a store.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, BinaryIO

from memfs.stores.disk import open_source
from memfs.stores.objects import gathered
from memfs.stores.parts import PART_CONCURRENCY
from memfs.stores.s3_bodies import NO_WISH, Part, UploadWish
from memfs.stores.store import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from memfs.stores.objects import UploadCallback
    from memfs.stores.parts import PartSlots
    from memfs.stores.s3_bucket import Bucket
    from memfs.stores.store import ByteSource

PART_COUNT_MAX = 9_000
"""S3 allows 10,000 parts of an upload; beyond this count parts grow."""


def part_bytes_of(size_max: int, part_bytes: int = PART_BYTES) -> int:
    """Return how large the parts of an upload are.

    Args:
        size_max: Bytes of the object at the most.
        part_bytes: Bytes of a part of an object that has not too many of them.
    """
    return max(part_bytes, math.ceil(size_max / PART_COUNT_MAX))


class Uploads:
    """Uploads to one bucket.

    Args:
        bucket: Where they go.
        slots: Bounds what is in memory of all transfers.
        headers: Parameters of each new object, as its storage class.
    """

    def __init__(self, bucket: Bucket, slots: PartSlots, headers: Mapping[str, str]) -> None:
        self._bucket = bucket
        self._slots = slots
        self._headers = headers

    def put_file(self, key: str, source: Path, callback: UploadCallback) -> None:
        """Upload a file."""
        size = source.stat().st_size
        part_bytes = part_bytes_of(size)
        with open_source(source) as file:
            if size > 2 * part_bytes:
                parts = iter(functools.partial(file.read, part_bytes), b"")
                self.put_parts(key, parts, callback)
                return
            self.put_whole(key, file)
        callback.relative_update(size)

    def put_stream(self, key: str, source: ByteSource, callback: UploadCallback) -> None:
        """Upload what comes from a source."""
        part_bytes = part_bytes_of(source.size_max)
        parts = gathered(source, part_bytes, callback)
        first = next(parts, b"")
        if len(first) < part_bytes:
            self.put_whole(key, Part(first))
            return
        self.put_parts(key, itertools.chain([first], parts), callback)

    def put_whole(self, key: str, body: BinaryIO | Part, wanted: UploadWish = NO_WISH) -> str:
        """Upload an object by one request; returns its etag."""
        parameters = {**self._bucket.target(key), **self._headers}
        parameters |= {**wanted.headers, **wanted.condition}
        send = functools.partial(self._bucket.send, "put_object", body, **parameters)
        return str(self._bucket.wait(send)["ETag"])

    def put_parts(
        self,
        key: str,
        parts: Iterator[bytes],
        callback: UploadCallback,
        wanted: UploadWish = NO_WISH,
    ) -> str:
        """Upload an object in parts, some at a time; returns its etag."""
        bucket, target = self._bucket, self._bucket.target(key)
        headers = {**self._headers, **wanted.headers}
        upload_id = bucket.call("create_multipart_upload", **target, **headers)["UploadId"]
        stored: list[dict[str, Any]] = []

        async def put_part(number: int, part: bytes) -> dict[str, Any]:
            body = Part(part)
            try:
                answer = await bucket.send(
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
            with self._slots.take(PART_CONCURRENCY) as count:
                while window := list(itertools.islice(parts, count)):
                    stored += bucket.wait(functools.partial(put_some, window))
                    window.clear()  # not to be in memory beside the next ones
            # Nobody waits any more: the object would come late.
            callback.relative_update(0)
            answer = bucket.call(
                "complete_multipart_upload",
                **target,
                **wanted.condition,
                UploadId=upload_id,
                MultipartUpload={"Parts": stored},
            )
            return str(answer["ETag"])
        except BaseException:
            with contextlib.suppress(Exception):
                bucket.call("abort_multipart_upload", **target, UploadId=upload_id)
            raise

    def unfinished(self, prefix: str) -> list[dict[str, Any]]:
        """Return the uploads in parts that have not ended, as S3 tells of them."""
        found: list[dict[str, Any]] = []
        place: dict[str, str] = {}
        while True:
            answer = self._bucket.call(
                "list_multipart_uploads", **self._bucket.below(prefix), **place
            )
            found += answer.get("Uploads", ())
            following = {
                "KeyMarker": answer.get("NextKeyMarker", ""),
                "UploadIdMarker": answer.get("NextUploadIdMarker", ""),
            }
            # A store that does not go on would be asked for ever.
            if not answer.get("IsTruncated") or following == place or not following["KeyMarker"]:
                return found
            place = following

    def abort(self, key: str) -> int:
        """Remove the parts of unfinished uploads of a key; returns how many uploads there were."""
        target = self._bucket.target(key)
        found = [each for each in self.unfinished(key) if each["Key"] == target["Key"]]
        for each in found:
            self._bucket.call("abort_multipart_upload", **target, UploadId=each["UploadId"])
        return len(found)
