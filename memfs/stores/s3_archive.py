"""Archive classes of S3: objects go there by a copy onto themselves, and come back by a restore.

Invariant: an object that is moved stays readable until the request that moves it whole has ended.

Methods block for a request or some, in the worker threads of a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memfs.errors import StoreError
from memfs.stores.restoring import HOUR_S, ArchivedObject, RestoreState, RestoreTier
from memfs.stores.s3_errors import error_code
from memfs.stores.s3_uploads import part_bytes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.stores.calls import TransferProgress
    from memfs.stores.s3_bucket import Bucket

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


class Archive:
    """Objects of a bucket that are in an archive class, or shall be.

    Args:
        bucket: Has them.
        url: That of the store, for messages.
        storage_class: Where objects go; None: they stay in the class that they are put in.
        headers: Parameters of each copy, beside its class.
        restore_tier: How fast objects come back.
        restore_days: How long a restored copy is kept, >= 1.
        copy_bytes_max: Copied inside S3 by one request.
    """

    def __init__(
        self,
        bucket: Bucket,
        url: str,
        storage_class: str | None,
        headers: Mapping[str, str],
        restore_tier: RestoreTier,
        restore_days: int,
        copy_bytes_max: int,
    ) -> None:
        self._bucket = bucket
        self._url = url
        self._storage_class = storage_class
        self._headers = headers
        self._restore_tier = restore_tier
        self._restore_days = restore_days
        self._copy_bytes_max = copy_bytes_max

    def move(self, key: str, progress: TransferProgress) -> None:
        """Move an object into the archive class, if there is such a class and it is elsewhere.

        Raises:
            StoreError: The store has made something else of it.
        """
        if self._storage_class is None:
            return
        head = self._bucket.head(key)
        if head.get("StorageClass") == self._storage_class:
            return
        size = int(head["ContentLength"])
        target = self._bucket.target(key)
        headers = {"StorageClass": self._storage_class, **self._headers}
        if size <= self._copy_bytes_max:
            source = f"{target['Bucket']}/{target['Key']}"
            self._bucket.call("copy_object", CopySource=source, **target, **headers)
        else:
            self._copy_parts(target, headers, size, progress)
        archived = self._bucket.head(key)
        found = (archived.get("StorageClass"), int(archived["ContentLength"]))
        if found != (self._storage_class, size):
            raise StoreError(
                f"store {self._url}: archive {key}: the store made {found} of it and not "
                f"{(self._storage_class, size)}; choose a storage class that it has"
            )

    def _copy_parts(
        self,
        target: Mapping[str, str],
        headers: Mapping[str, str],
        size: int,
        progress: TransferProgress,
    ) -> None:
        """Copy a large object onto itself; readers see the old one until the last request."""
        part_bytes = part_bytes_of(size, self._copy_bytes_max)
        upload = self._bucket.call("create_multipart_upload", **target, **headers)["UploadId"]
        try:
            parts = []
            for number, start in enumerate(range(0, size, part_bytes), start=1):
                answer = self._bucket.call(
                    "upload_part_copy",
                    **target,
                    UploadId=upload,
                    PartNumber=number,
                    CopySource=f"{target['Bucket']}/{target['Key']}",
                    CopySourceRange=f"bytes={start}-{min(start + part_bytes, size) - 1}",
                )
                parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
                progress.beat()
            self._bucket.call(
                "complete_multipart_upload",
                **target,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            self._bucket.call("abort_multipart_upload", **target, UploadId=upload)
            raise

    def look(self, key: str) -> ArchivedObject:
        """Return how far an archived object is; blocks for one request."""
        head = self._bucket.head(key)
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
            self._bucket.call("restore_object", **self._bucket.target(key), RestoreRequest=request)
        except OSError as error:
            if error_code(error) != "RestoreAlreadyInProgress":
                raise


def _is_archived(head: Mapping[str, Any]) -> bool:
    return bool(head.get("ArchiveStatus")) or head.get("StorageClass") in ARCHIVE_CLASSES
