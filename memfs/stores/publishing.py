"""The contract of places for published objects: plain ones, written on a condition.

Invariant: an object is replaced or removed only while it has the etag that the caller names, and is
made only where there is no object.
"""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
    token: str
    """In its metadata; empty: it has no such metadata."""


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

    async def put_if(
        self,
        key: str,
        source: Path,
        former: str,
        content_type: str,
        metadata: Mapping[str, str],
    ) -> str:
        """Store a local file as an object, by one request; returns its etag.

        Args:
            key: Behind the URL and a slash.
            source: The file.
            former: Etag of the object that it takes the place of; empty: there is no object.
            content_type: Its media type.
            metadata: Names in lower case, values in ASCII.

        Raises:
            ObjectTakenError: There is another object, or no object where one was to be.
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


def metadata_of(mtime_ns: int, mode: int, token: str) -> dict[str, str]:
    """Return the metadata of an object, the first two by the names and in the forms of rclone.

    Args:
        mtime_ns: Since the epoch.
        mode: With the type, as `st_mode`.
        token: Tells the object from that of others.

    Source: rclone's documentation, "S3: Modification times", "Local: Metadata".
    """
    seconds, rest_ns = divmod(mtime_ns, 10**9)
    return {"mtime": f"{seconds}.{rest_ns:09}", "mode": f"{mode:o}", TOKEN_NAME: token}
