"""The zstd codec.

Invariant: an encoded frame is one whole Zstandard frame (RFC 8878) that states its content size.
"""

from __future__ import annotations

import threading

import zstandard

from memfs.errors import CorruptDataError, InvalidValueError
from memfs.types import CodecSpec

LEVEL_DEFAULT = 3
"""The zstd command's own default."""

LEVEL_MIN, LEVEL_MAX = 1, 19
"""Beyond 19 decoding needs windows of up to 128 MiB, which bounds nothing any more."""


class ZstdCodec:
    """Zstandard at one level.

    Contexts are kept per thread: making one costs up to milliseconds at high levels, and a context
    serves one thread at a time. Both directions release the GIL.

    Args:
        level: 1 (fast) to 19 (small); None: 3.
    """

    def __init__(self, level: int | None = None) -> None:
        if level is not None and not LEVEL_MIN <= level <= LEVEL_MAX:
            raise InvalidValueError(
                f"codec zstd has levels {LEVEL_MIN} to {LEVEL_MAX}, got {level}; write `zstd:3`"
            )
        self._spec = CodecSpec("zstd", level)
        self._level = LEVEL_DEFAULT if level is None else level
        self._contexts = threading.local()

    @property
    def spec(self) -> CodecSpec:
        """Name and level as asked for."""
        return self._spec

    def encode(self, frame: memoryview) -> bytes:
        """Compress one frame.

        The frame carries no checksum of its own: the container keeps one of the stored bytes and
        one of the content.
        """
        contexts = self._contexts
        compressor: zstandard.ZstdCompressor | None = getattr(contexts, "compressor", None)
        if compressor is None:
            compressor = contexts.compressor = zstandard.ZstdCompressor(
                level=self._level, write_content_size=True, write_checksum=False
            )
        return compressor.compress(frame)

    def decode(self, encoded: memoryview, size: int) -> bytes:
        """Decompress one frame of exactly `size` bytes; `CorruptDataError` if it is not that."""
        try:
            # The decompressor allocates what the frame's header claims, so the claim is checked
            # first: a hostile frame of a few bytes could otherwise ask for the whole memory.
            claimed = zstandard.get_frame_parameters(encoded).content_size
            if claimed != size:
                raise CorruptDataError(f"zstd frame claims {claimed} bytes instead of {size}")
            contexts = self._contexts
            decompressor: zstandard.ZstdDecompressor | None = getattr(
                contexts, "decompressor", None
            )
            if decompressor is None:
                decompressor = contexts.decompressor = zstandard.ZstdDecompressor()
            decoded = decompressor.decompress(encoded, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CorruptDataError(f"zstd frame does not decode: {error}") from error
        if len(decoded) != size:
            raise CorruptDataError(f"zstd frame holds {len(decoded)} bytes instead of {size}")
        return decoded
