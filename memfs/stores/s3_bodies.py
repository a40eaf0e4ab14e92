"""Bodies: what an upload to S3 sends, and what it has beside the bytes."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class UploadWish(NamedTuple):
    """What an upload has beside the bytes."""

    headers: Mapping[str, Any]
    """For the object."""
    condition: Mapping[str, str]
    """For the request that makes it appear."""
    on_begun: Callable[[str], object]
    """Told the id of an upload in parts, before a part is sent."""


NO_WISH = UploadWish({}, {}, str)


class Part(io.RawIOBase):
    """Bytes as a file that is read in small pieces.

    Not `io.BytesIO`: aiohttp measures it by its buffer, which copies bytes that are shared.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = memoryview(data)
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  a Buffer, from 3.12 on
        """Copy what comes next into a buffer."""
        target = memoryview(buffer).cast("B")
        piece = self._data[self._at : self._at + len(target)]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def release(self) -> None:
        """Let go of the bytes; the client's threads may hold the file longer than the request."""
        self._data = memoryview(b"")
