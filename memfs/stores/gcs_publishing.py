"""Publishing to Google Cloud Storage.

Invariant: every upload and every removal names the generation that it takes the place of, 0 where
there is no object ("Request preconditions" of its documentation).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from gcsfs.retry import HttpError

from memfs.stores.fsspec_publishing import FsspecPublicStore
from memfs.stores.gcs import OBJECT, GcsStore
from memfs.stores.objects import gathered
from memfs.stores.publishing import TOKEN_NAME, PublicObject, dated_metadata_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.stores.objects import UploadCallback
    from memfs.stores.publishing import PublicAttributes
    from memfs.stores.source import RangeRead, SourceObject
    from memfs.stores.store import ByteSource

_FAILED = (409, 412)


class GcsPublicStore(FsspecPublicStore, GcsStore):
    """A `PublicStore` over a bucket; the etag of an object is its generation."""

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
        metadata = {
            "contentType": attributes.content_type,
            "metadata": dated_metadata_of(attributes),
        }
        condition = {"ifGenerationMatch": former or "0"}
        parts = gathered(source, self.part_bytes, callback)
        try:
            first = next(parts, b"")
            if len(first) < self.part_bytes and not (in_parts and first):
                stored, size = self._put_small(key, first, metadata, condition), len(first)
            else:
                # A session that is left ends by itself after a week, and costs nothing.
                chained = itertools.chain([first], parts)
                stored, size = self._put_parts(key, chained, callback, metadata, condition)
        except (HttpError, OSError) as error:
            if _is_failed(error) or (former and isinstance(error, FileNotFoundError)):
                raise self._taken(key) from error
            raise
        self._check_arrived(key, stored, size)
        return str(stored["generation"])

    def _abort(self, key: str, upload: str) -> None:
        """Nothing is left for good."""

    def _look_at_public(self, key: str) -> PublicObject:
        found: dict[str, Any] = self._ask_gcs(
            "GET", OBJECT, self._bucket, self._key(key), json_out=True
        )
        token = found.get("metadata", {}).get(TOKEN_NAME, "")
        return PublicObject(str(found["generation"]), int(found["size"]), token)

    def _read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        return super()._read_if(wanted._replace(version=wanted.etag), start, end)

    def _delete_if(self, key: str, former: str) -> None:
        try:
            # Some servers know the condition for uploads alone.
            if self._look_at_public(key).etag != former:
                raise self._taken(key)
            self._ask_gcs("DELETE", OBJECT, self._bucket, self._key(key), ifGenerationMatch=former)
        except FileNotFoundError:
            return
        except (HttpError, OSError) as error:
            if not _is_failed(error):
                raise
            if self._is_there(key):
                raise self._taken(key) from error


def _is_failed(error: Exception) -> bool:
    """Return whether a condition did not hold; gcsfs has an error of files for that."""
    code = int(error.code or 0) if isinstance(error, HttpError) else 0
    return code in _FAILED or isinstance(error, FileExistsError)
