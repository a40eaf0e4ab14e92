"""Publishing to Azure Blob Storage.

Invariant: every upload, every list of blocks and every removal has If-None-Match or If-Match.
"""

from __future__ import annotations

import asyncio
import functools
import io
import itertools
from typing import TYPE_CHECKING, Any

import azure.core.exceptions
from azure.core import MatchConditions
from azure.storage.blob import ContentSettings

from memfs.stores.azure import BLOCK_COUNT_MAX, AzureStore, error_code_of
from memfs.stores.fsspec_publishing import FsspecPublicStore
from memfs.stores.objects import gathered
from memfs.stores.parts import PART_CONCURRENCY
from memfs.stores.publishing import TOKEN_NAME, PublicObject, dated_metadata_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memfs.stores.objects import UploadCallback
    from memfs.stores.publishing import PublicAttributes
    from memfs.stores.store import ByteSource

_FAILED = (409, 412)
_TOKEN = TOKEN_NAME.replace("-", "_")
"""Names of metadata are those of variables in C#."""


class AzurePublicStore(FsspecPublicStore, AzureStore):
    """A `PublicStore` over a container."""

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
        blob = self._blob(key)
        told = {
            "metadata": {
                name.replace("-", "_"): value
                for name, value in dated_metadata_of(attributes).items()
            },
            "content_settings": ContentSettings(content_type=attributes.content_type),
            **_condition_of(former),
            **self._limits,
        }
        block_bytes = max(self.part_bytes, -(-source.size_max // BLOCK_COUNT_MAX))
        parts = gathered(source, block_bytes, callback)
        try:
            first = next(parts, b"")
            if len(first) < block_bytes and not in_parts:
                put = functools.partial(blob.upload_blob, io.BytesIO(first), overwrite=True, **told)
                return _etag_of(self._wait(put))
            ids = self._stage(blob, itertools.chain([first], parts), callback, attributes.token)
            # Blocks that are never committed vanish after a week.
            return _etag_of(self._wait(functools.partial(blob.commit_block_list, ids, **told)))
        except azure.core.exceptions.HttpResponseError as error:
            if error.status_code in _FAILED or error_code_of(error) == "BlobNotFound":
                raise self._taken(key) from error
            raise

    def _stage(
        self,
        blob: Any,  # noqa: ANN401  azure's classes differ by version
        parts: Iterator[bytes],
        callback: UploadCallback,
        token: str,
    ) -> list[str]:
        """Send blocks, some at a time; returns their names."""
        ids: list[str] = []

        async def stage(name: str, block: bytes) -> None:
            await blob.stage_block(name, io.BytesIO(block), length=len(block), **self._limits)
            callback.relative_update(len(block))

        async def stage_some(names: list[str], window: list[bytes]) -> None:
            pairs = zip(names, window, strict=True)
            tasks = [asyncio.ensure_future(stage(*each)) for each in pairs]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()

        with self._parts.take(PART_CONCURRENCY) as count:
            while window := list(itertools.islice(parts, count)):
                # Names of this upload alone: others may send blocks of the same blob.
                names = [f"{token[:8]}{len(ids) + at:08}" for at in range(len(window))]
                self._wait(functools.partial(stage_some, names, window))
                ids += names
                window.clear()  # not to be in memory beside the next ones
        # Nobody waits any more: the blob would come late.
        callback.relative_update(0)
        return ids

    def _abort(self, key: str, upload: str) -> None:
        """Nothing is left for good."""

    def _look_at_public(self, key: str) -> PublicObject:
        found = self._properties(key)
        token = (found.metadata or {}).get(_TOKEN, "")
        return PublicObject(found.etag.strip('"'), int(found.size), token)

    def _delete_if(self, key: str, former: str) -> None:
        blob = self._blob(key)
        delete = functools.partial(
            blob.delete_blob, delete_snapshots="include", **_condition_of(former), **self._limits
        )
        try:
            self._wait(delete)
        except azure.core.exceptions.ResourceNotFoundError as error:
            if error_code_of(error) != "BlobNotFound":
                raise
        except azure.core.exceptions.HttpResponseError as error:
            if error.status_code not in _FAILED:
                raise
            if self._is_there(key):
                raise self._taken(key) from error

    def _is_there(self, key: str) -> bool:
        try:
            self._look_at_public(key)
        except azure.core.exceptions.ResourceNotFoundError:
            return False
        return True


def _condition_of(former: str) -> dict[str, Any]:
    """Return the parameters of a request that takes the place of a blob, or of no blob."""
    if former:
        return {"etag": f'"{former}"', "match_condition": MatchConditions.IfNotModified}
    return {"match_condition": MatchConditions.IfMissing}


def _etag_of(answer: dict[str, Any]) -> str:
    return str(answer["etag"]).strip('"')
