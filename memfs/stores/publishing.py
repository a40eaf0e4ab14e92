"""The contract of places for published objects: plain ones, written on a condition.

Invariant: an object is replaced or removed only while it has the etag that the caller names, and is
made only where there is no object. A place that cannot say so with the request itself looks right
before it, and says that it does (`is_conditional`).
"""

from __future__ import annotations

import mimetypes
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.stores.store import ByteSource

TOKEN_NAME = "memfs-token"
"""Name of the metadata that tell an object of memfs's own."""

_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
}
_UNKNOWN = "application/octet-stream"
_TYPES = {".parquet": "application/vnd.apache.parquet", ".jsonl": "application/jsonl"}


class PublicObject(NamedTuple):
    """An object as it is there."""

    etag: str
    size: int
    token: str | None
    """In its metadata; empty: it has no such metadata; None: such a store keeps no metadata."""
    digest: bytes = b""
    """BLAKE3-256 of the bytes that were sent with that token, where others can change the bytes and
    leave the token there; empty: there is no digest."""


class PublicAttributes(NamedTuple):
    """What an object has of its file, beside the bytes."""

    mtime_ns: int
    """Since the epoch."""
    mode: int
    """With the type, as `st_mode`."""
    uid: int
    gid: int
    content_type: str
    token: str
    """Tells the object from that of others."""


class PublicStore(Protocol):
    """Where plain objects are published.

    Raises (every method):
        StoreUnavailableError: Not reachable, too slow, throttled. Transient.
        StoreError: Refused for good.
    """

    @property
    def url(self) -> str:
        """Without secrets."""
        ...

    @property
    def is_conditional(self) -> bool:
        """Conditions hold at the instant of the change.

        Else what others write within a moment before it may be overwritten.
        """
        ...

    @property
    def is_replaced_whole(self) -> bool:
        """Nobody can change the bytes of an object and leave its token."""
        ...

    @property
    def key_bytes_max(self) -> int:
        """Longest key, the URL's own part of it left out."""
        ...

    async def put_if(
        self,
        key: str,
        source: ByteSource,
        former: str,
        attributes: PublicAttributes,
        on_begun: Callable[[str], object],
        *,
        in_parts: bool = False,
    ) -> str:
        """Store bytes as an object while they come; returns its etag.

        Nothing is to be seen there before the source has told its end. Memory is bounded by some
        parts. Cancel: what was sent is thrown away, in the background.

        Args:
            key: Behind the URL and a slash.
            source: Read by one worker thread of trio, and closed.
            former: Etag of the object that it takes the place of; empty: there is no object.
            attributes: What the object gets beside the bytes.
            on_begun: Told in that thread, before bytes are sent, by which name `abort` ends what
                would be left there for good if this process ended now.
            in_parts: Also if it is so small that one request would do.

        Raises:
            ObjectTakenError: There is another object, or no object where one was to be.
        """
        ...

    async def abort(self, key: str, upload: str) -> None:
        """End an upload that nobody goes on with; no error if nothing is left of it.

        Args:
            key: That of the object.
            upload: As `on_begun` was told.
        """
        ...

    async def find(self, key: str) -> PublicObject | None:
        """Return an object as it is now; None: there is no object."""
        ...

    async def read(self, key: str, stored: PublicObject, start: int, end: int) -> bytes:
        """Return bytes `[start, end)` of an object of that etag and size, all of them.

        Raises:
            ObjectChangedError: It is another one by now.
        """
        ...

    async def delete_if(self, key: str, former: str) -> None:
        """Remove an object of that etag; no error if there is no object.

        Raises:
            ObjectTakenError: There is another object.
        """
        ...

    async def aclose(self) -> None:
        """Release connections; idempotent."""
        ...


def content_type_of(name: str) -> str:
    """Return the media type of a file by its name."""
    for suffix, known in _TYPES.items():
        if name.endswith(suffix):
            return known
    kind, encoding = mimetypes.guess_type(name)
    if encoding is not None:
        return _COMPRESSED.get(encoding, _UNKNOWN)
    return kind or _UNKNOWN


def metadata_of(attributes: PublicAttributes) -> dict[str, str]:
    """Return the metadata of an object on S3, the first two as rclone has them.

    Source: rclone's documentation, "S3: Modification times", "Local: Metadata".
    """
    seconds, rest_ns = divmod(attributes.mtime_ns, 10**9)
    told = {"mtime": f"{seconds}.{rest_ns:09}", "mode": f"{attributes.mode:o}"}
    return told | {TOKEN_NAME: attributes.token}


def dated_metadata_of(attributes: PublicAttributes) -> dict[str, str]:
    """Return the metadata of an object on Google and Azure, the time as rclone has it.

    Source: rclone's documentation, "Google Cloud Storage: Modification times" and the one of Azure.
    """
    seconds, rest_ns = divmod(attributes.mtime_ns, 10**9)
    day = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return metadata_of(attributes) | {"mtime": f"{day}.{rest_ns:09}Z"}
