"""Azure Blob Storage, through adlfs, which connects, and the client that it connects with.

Invariant: a missing container, a refused credential or an archived blob is never taken for a
missing blob, because a missing blob means lost data to those who ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# Imported for its presence: fsspec loads it by the protocol of the URL.
import adlfs  # noqa: F401
import azure.core.exceptions
from azure.core import MatchConditions
from azure.storage.blob import StandardBlobTier
from azure.storage.blob.aio import BlobPrefix

from memfs.encryption.secret_files import read_secret_file
from memfs.errors import (
    MemfsError,
    ObjectMissingError,
    SourceArchivedError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from memfs.stores.disk import open_source
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
from memfs.stores.source import RangeRead, SourceObject
from memfs.stores.store import PART_BYTES, ObjectStat
from memfs.stores.sums import Sum
from memfs.stores.told import size_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memfs.stores.calls import TransferProgress
    from memfs.stores.parts import PartSlots
    from memfs.stores.source import ObjectPage
    from memfs.stores.store import ByteSource

WHOLE_BYTES_MAX = 1 << 20
"""Blobs up to this size are put by one request; larger ones by blocks, several at a time."""

BLOCK_COUNT_MAX = 45_000
"""A blob has 50,000 blocks at most; beyond this count blocks grow."""

FORMER_COUNT_MAX = 3
"""Clients that are kept for calls that use them still: `RENEW_PAUSE_S` apart, for half a minute."""

_SECRETS = frozenset({"account_key", "client_secret", "connection_string", "sas_token"})
_OF_FSSPEC = frozenset({"use_listings_cache", "listings_expiry_time", "max_paths"})
_LIST_PAGE_COUNT = 1000
_PRECONDITION_FAILED = 412
_RESTORED_TIER = StandardBlobTier.HOT
"""A blob that is rehydrated changes its tier for good; a cooler one would charge each read."""

_PRIORITIES = {
    RestoreTier.BULK: "Standard",
    RestoreTier.STANDARD: "Standard",
    RestoreTier.EXPEDITED: "High",
}
_DURATIONS_S = {"Standard": 15 * HOUR_S, "High": HOUR_S}
"""Azure documentation, "Blob rehydration from the archive tier": High holds below 10 GB."""

_THROTTLED = frozenset({"ServerBusy", "OperationTimedOut", "InternalError", "AccountBeingCreated"})


class _Client(NamedTuple):
    """A client of the service, with what it shows; adlfs and azure have no types for these."""

    service: Any
    credential: Any
    """None: the client has a key."""
    sync_credential: Any


class _Closed:
    """Stands for a client that was closed, without what it had in memory."""

    async def close(self) -> None:
        """Nothing is open."""


class AzureStore(FsspecStore):
    """A `RemoteStore` over a container.

    Args:
        url: `abfs://container/prefix`, `az://container/prefix`.
        options: Those of adlfs, as `account_name`, `account_key`, `sas_token`, `connection_string`.
            A secret may be `file:/path`, which is read anew when the store refuses it.
        timeout_s: As for `FsspecStore`; also of each wait for the socket.
        thread_count_max: As for `FsspecStore`.
        parts: As for `FsspecStore`.
        renew_pause_s: As for `FsspecStore`.
        storage_class: Access tier of new blobs: `Hot`, `Cool`, `Cold`, `Archive`; None: the
            account's default.
        restore_tier: How fast archived blobs come back.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, object],
        timeout_s: float,
        thread_count_max: int,
        storage_class: str | None = None,
        restore_tier: RestoreTier = RestoreTier.STANDARD,
        *,
        parts: PartSlots | None = None,
        renew_pause_s: float = RENEW_PAUSE_S,
    ) -> None:
        self._former: list[_Client] = []
        super().__init__(
            url, options, timeout_s, thread_count_max, parts=parts, renew_pause_s=renew_pause_s
        )
        self._container, _, self._prefix = self._root.partition("/")
        tier = _parse_tier(storage_class) if storage_class else None
        self._archives = tier is StandardBlobTier.ARCHIVE
        self._tier = None if self._archives else tier
        self._priority = _PRIORITIES[restore_tier]
        self._desk = RestoreDesk(self, restore_tier)
        # The client's own time-outs end the thread that the deadline abandons; its own retries
        # would begin with 15 s and hide what `stores.retry` should know.
        self._limits: dict[str, Any] = {
            "connection_timeout": min(timeout_s, 10.0),
            "read_timeout": timeout_s,
            "retry_total": 0,
        }

    def _open(self, url: str, options: Mapping[str, object]) -> tuple[Any, str]:
        return super()._open(url, {name: _read(name, value) for name, value in options.items()})

    def _is_refused(self, error: Exception) -> bool:
        return _is_forbidden(error)

    def _connect_anew(self) -> None:
        # Not by another file system: adlfs keeps each one up to the end of the process.
        fs, options = self._fs, self._settings[1]
        secrets = {name: _read(name, options[name]) for name in _SECRETS & options.keys()}
        former = _Client(fs.service_client, fs.credential, fs.sync_credential)
        for name, value in secrets.items():
            setattr(fs, name, value)
        if fs.credential is not None and "credential" not in options:
            fs.credential, fs.sync_credential = self._make_credential()
        fs.do_connect()
        # Others are using the former one: it is closed with the store, or when nobody can be.
        self._former.append(former)
        if len(self._former) > FORMER_COUNT_MAX:
            self._close_client(self._former.pop(0))

    def _make_credential(self) -> tuple[Any, Any]:
        """Return a credential as adlfs makes it, and its twin without a loop."""
        fs = self._fs
        if fs.client_id is not None:
            made: tuple[Any, Any] = fs._get_credential_from_service_principal()
        else:
            given = {key: value for key, value in fs.kwargs.items() if key not in _OF_FSSPEC}
            made = fs._get_default_azure_credential(**given)
        return made

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _blob(self, key: str) -> Any:  # noqa: ANN401  azure's classes differ by version
        return self._fs.service_client.get_blob_client(self._container, self._key(key))

    def _put(self, key: str, source: Path, callback: UploadCallback) -> None:
        blob = self._blob(key)
        tier = {"standard_blob_tier": self._tier} if self._tier else {}
        with open_source(source) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= WHOLE_BYTES_MAX:
                data = io.BytesIO(file.read())
                self._wait(lambda: blob.upload_blob(data, overwrite=True, **tier, **self._limits))
                callback.relative_update(size)
                return
            block_bytes = max(PART_BYTES, -(-size // BLOCK_COUNT_MAX))
            ids = [f"{number:08}" for number in range(-(-size // block_bytes))]
            waiting = iter(ids)

            async def put_blocks() -> None:
                # Taking an id and reading its bytes do not suspend: blocks stay in order.
                for block_id in waiting:
                    block = file.read(block_bytes)
                    await blob.stage_block(
                        block_id, io.BytesIO(block), length=len(block), **self._limits
                    )
                    callback.relative_update(len(block))

            async def put_all() -> None:
                tasks = [asyncio.ensure_future(put_blocks()) for _ in range(count)]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
                # Blocks that are never committed vanish after a week.
                await blob.commit_block_list(ids, **tier, **self._limits)

            with self._parts.take(PART_CONCURRENCY) as count:
                self._wait(put_all)

    def _put_stream(self, key: str, source: ByteSource, callback: UploadCallback) -> None:
        blob = self._blob(key)
        tier = {"standard_blob_tier": self._tier} if self._tier else {}
        block_bytes = max(PART_BYTES, -(-source.size_max // BLOCK_COUNT_MAX))
        ids: list[str] = []
        for block in gathered(source, block_bytes, callback):
            ids.append(f"{len(ids):08}")
            stage = functools.partial(
                blob.stage_block, ids[-1], io.BytesIO(block), length=len(block), **self._limits
            )
            self._wait(stage)
            callback.relative_update(len(block))
        # Blocks that are never committed vanish after a week.
        self._wait(functools.partial(blob.commit_block_list, ids, **tier, **self._limits))

    def _make_directories(self, path: str) -> None:
        """Nothing: names have no directories here, and a missing bucket shows by itself."""

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        blob = self._blob(key)

        async def get() -> bytes:
            with _closed_if_cancelled() as watched:
                stream = await blob.download_blob(
                    offset=start, length=end - start, max_concurrency=1, **watched, **self._limits
                )
                return bytes(await stream.readall())

        try:
            return self._wait(get)
        except azure.core.exceptions.HttpResponseError as error:
            if error_code_of(error) == "InvalidRange":
                # The range begins at or beyond the end (RFC 9110 section 15.5.17).
                return b""
            if error_code_of(error) == "BlobArchived":
                refusal = self._desk.refuse(key, f"store {self._url}: get {key}")
                if refusal is None:
                    return self._wait(get)
                raise refusal from error
            raise

    def _stat(self, key: str) -> ObjectStat:
        return ObjectStat(key, int(self._properties(key).size))

    def _properties(self, key: str) -> Any:  # noqa: ANN401  as `_blob`
        blob = self._blob(key)
        return self._wait(lambda: blob.get_blob_properties(**self._limits))

    def _delete(self, key: str) -> None:
        blob = self._blob(key)
        try:
            self._wait(lambda: blob.delete_blob(delete_snapshots="include", **self._limits))
        except azure.core.exceptions.ResourceNotFoundError as error:
            if error_code_of(error) != "BlobNotFound":
                raise

    def _list_page(self, prefix: str, page: str) -> Page:
        container = self._fs.service_client.get_container_client(self._container)
        skip = len(self._key(""))

        async def list_page() -> Page:
            pages = container.list_blobs(
                name_starts_with=self._key(prefix) or None,
                results_per_page=_LIST_PAGE_COUNT,
                **self._limits,
            ).by_page(page or None)
            found = [
                ObjectStat(item.name[skip:], int(item.size), item.last_modified.timestamp())
                async for item in await anext(pages)
            ]
            return found, pages.continuation_token or None

        return self._wait(list_page)

    # --- as a source -----------------------------------------------------------------------------
    def _list_objects(self, page: str, prefix: str, shallow: bool) -> ObjectPage:
        container = self._fs.service_client.get_container_client(self._container)

        async def list_page() -> ObjectPage:
            pages = (container.walk_blobs if shallow else container.list_blobs)(
                name_starts_with=self._key(prefix) or None,
                results_per_page=_LIST_PAGE_COUNT,
                **self._limits,
            ).by_page(page or None)
            found = [self._source_object(item) async for item in await anext(pages)]
            if shallow:
                found.sort(key=lambda each: each.order)
            return found, pages.continuation_token or None

        return self._wait(list_page)

    def _source_object(self, item: Any) -> SourceObject:  # noqa: ANN401  as `_blob`
        if isinstance(item, BlobPrefix):
            return SourceObject(item.name[len(self._key("")) :], 0, "", 0)
        return SourceObject(
            item.name[len(self._key("")) :],
            size_of(item.size),
            item.etag.strip('"'),
            int(item.last_modified.timestamp() * 1_000_000_000) if item.last_modified else 0,
        )

    def _read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        blob = self._blob(wanted.key)

        async def get() -> RangeRead:
            with _closed_if_cancelled() as watched:
                stream = await blob.download_blob(
                    offset=start,
                    length=end - start,
                    max_concurrency=1,
                    etag=f'"{wanted.etag}"',
                    match_condition=MatchConditions.IfNotModified,
                    **watched,
                    **self._limits,
                )
                found = stream.properties
                if (found.etag.strip('"'), int(found.size)) == (wanted.etag, end - start):
                    kind = found.content_settings.content_type or ""
                    metadata = tuple(sorted((found.metadata or {}).items()))
                    told = found.content_settings.content_md5
                    sums = (Sum("md5", bytes(told)),) if told else ()
                    return RangeRead(bytes(await stream.readall()), kind, metadata, sums)
            raise self._changed(wanted, f"{found.etag} was sent")

        try:
            return self._wait(get)
        except azure.core.exceptions.HttpResponseError as error:
            if error.status_code == _PRECONDITION_FAILED or error_code_of(error) == "InvalidRange":
                # Some services tell so of a blob that is not there.
                self._properties(wanted.key)
                raise self._changed(wanted, "another one was written") from error
            if error_code_of(error) == "BlobArchived":
                raise SourceArchivedError(
                    f"store {self._url}: get {wanted.key}: it is archived; have it restored there"
                ) from error
            raise

    def _look(self, key: str, _version: str) -> SourceObject:
        found = self._properties(key)
        found.name = self._key(key)
        return self._source_object(found)._replace(
            content_type=found.content_settings.content_type or "",
            metadata=tuple(sorted((found.metadata or {}).items())),
        )

    # --- archive tier ----------------------------------------------------------------------------
    def _archive(self, key: str, progress: TransferProgress) -> None:
        if self._archives:
            self._set_tier(key, StandardBlobTier.ARCHIVE)

    def look(self, key: str) -> ArchivedObject:
        """Return how far an archived blob is; blocks for one request."""
        properties = self._properties(key)
        state = RestoreState.READABLE
        if properties.archive_status:
            state = RestoreState.ONGOING
        elif properties.blob_tier == StandardBlobTier.ARCHIVE:
            state = RestoreState.ARCHIVED
        return ArchivedObject(state, str(properties.blob_tier), _DURATIONS_S[self._priority])

    def request_restore(self, key: str, found: ArchivedObject) -> None:
        """Have a blob rehydrated; blocks for one request."""
        try:
            self._set_tier(key, _RESTORED_TIER, rehydrate_priority=self._priority)
        except azure.core.exceptions.HttpResponseError as error:
            if error_code_of(error) != "BlobBeingRehydrated":
                raise

    def _set_tier(self, key: str, tier: StandardBlobTier, **options: object) -> None:
        blob = self._blob(key)
        self._wait(lambda: blob.set_standard_blob_tier(tier, **options, **self._limits))

    def _close(self) -> None:
        fs = self._fs
        for client in (
            *self._former,
            _Client(fs.service_client, fs.credential, fs.sync_credential),
        ):
            self._close_client(client)
        self._former.clear()
        # What adlfs keeps up to the end of the process, and closes then.
        fs.service_client, fs.credential, fs.sync_credential = _Closed(), None, None

    def _close_client(self, client: _Client) -> None:
        is_ours = "credential" not in self._settings[1]

        async def close() -> None:
            await client.service.close()
            if client.credential is not None and is_ours:
                await client.credential.close()

        self._wait(close)
        if client.sync_credential is not None:
            client.sync_credential.close()

    def _translate(self, error: Exception, what: str) -> MemfsError:
        cause = f"{what}: {_first_line(error)}"
        code = error_code_of(error)
        status = int(getattr(error, "status_code", None) or 0)
        if code in _THROTTLED or status == 429 or status >= 500:
            return StoreUnavailableError(f"{cause}; the store is overloaded or failing")
        if _is_forbidden(error):
            return StoreError(
                f"{cause}; check account_name, account_key and the account's rights, in "
                f"{self.options_place}"
            )
        if code in ("ContainerNotFound", "ContainerBeingDeleted"):
            return StoreError(
                f"{cause}; container {self._container} does not exist: create it or correct "
                "glacier.url"
            )
        if isinstance(error, azure.core.exceptions.ResourceNotFoundError):
            return self._missing(cause, code)
        if isinstance(
            error,
            azure.core.exceptions.ServiceRequestError | azure.core.exceptions.ServiceResponseError,
        ):
            return unanswered(error, f"{cause}; check the account's host and the network")
        return super()._translate(error, what)

    def _missing(self, cause: str, code: str) -> MemfsError:
        """Tell a missing container from a missing blob: the answer to HEAD may not (no body)."""
        if code != "BlobNotFound":
            container = self._fs.service_client.get_container_client(self._container)
            try:
                self._wait(lambda: container.get_container_properties(**self._limits))
            except azure.core.exceptions.ResourceNotFoundError:
                return StoreError(
                    f"{cause}; container {self._container} does not exist: create it or correct "
                    "glacier.url"
                )
            except azure.core.exceptions.ClientAuthenticationError:
                # Rights on the container are not needed otherwise, so a refusal tells nothing.
                return ObjectMissingError(cause)
            except Exception as error:
                return StoreUnavailableError(f"{cause}; and then: {_first_line(error)}")
        return ObjectMissingError(cause)


@contextlib.contextmanager
def _closed_if_cancelled() -> Iterator[dict[str, Any]]:
    """Close the connections of reads in the block if it is cancelled; the client leaves them open.

    Yields:
        Options of the reads.
    """
    answers: list[Any] = []
    try:
        yield {"raw_response_hook": answers.append}
    except asyncio.CancelledError:
        for answer in answers:
            answer.http_response.internal_response.close()
        raise


def _parse_tier(text: str) -> StandardBlobTier:
    try:
        return StandardBlobTier(text)
    except ValueError:
        known = ", ".join(tier.value for tier in StandardBlobTier)
        raise UsageError(f"glacier.storage_class {text!r} is not one of Azure's: {known}") from None


def _read(name: str, value: object) -> object:
    """Return the value of an option: for a secret, what is in the file that it names."""
    if name not in _SECRETS or not isinstance(value, str):
        return value
    kind, _, path = value.partition(":")
    return read_secret_file(Path(path), f"glacier.options.{name}") if kind == "file" else value


def _is_forbidden(error: Exception) -> bool:
    return isinstance(error, azure.core.exceptions.ClientAuthenticationError) or (
        getattr(error, "status_code", None) in (401, 403)
    )


def error_code_of(error: Exception) -> str:
    """Return Azure's name of an error, as `BlobNotFound`; empty if it came from elsewhere."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def _first_line(error: Exception) -> str:
    """Return what the client says, without the request ids and the XML that follow."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
