"""The lz4 codec.

Invariant: an encoded frame is one whole LZ4 frame (LZ4 Frame Format 1.6) with its content size.
"""

from __future__ import annotations

import lz4.frame

from memfs.errors import CorruptDataError, InvalidValueError
from memfs.types import CodecSpec

LEVEL_MIN, LEVEL_MAX = 0, 12
"""0 to 2 are the fast compressor, 3 to 12 the high-compression one (lz4frame.h)."""


class Lz4Codec:
    """LZ4 at one level; both directions release the GIL and keep no state.

    Args:
        level: 0 (fast) to 12 (small); None: 0.
    """

    def __init__(self, level: int | None = None) -> None:
        if level is not None and not LEVEL_MIN <= level <= LEVEL_MAX:
            raise InvalidValueError(
                f"codec lz4 has levels {LEVEL_MIN} to {LEVEL_MAX}, got {level}; write `lz4`"
            )
        self._spec = CodecSpec("lz4", level)
        self._level = LEVEL_MIN if level is None else level

    @property
    def spec(self) -> CodecSpec:
        """Name and level as asked for."""
        return self._spec

    def encode(self, frame: memoryview) -> bytes:
        """Compress one frame."""
        encoded: bytes = lz4.frame.compress(
            frame, compression_level=self._level, content_checksum=False, store_size=True
        )
        return encoded

    def decode(self, encoded: memoryview, size: int) -> bytes:
        """Decompress one frame of exactly `size` bytes; `CorruptDataError` if it is not that."""
        decompressor = lz4.frame.LZ4FrameDecompressor()
        try:
            # One byte more than expected is asked for, so that a longer frame shows itself
            # without being decoded to its end.
            decoded: bytes = decompressor.decompress(encoded, max_length=size + 1)
        except (RuntimeError, EOFError) as error:
            raise CorruptDataError(f"lz4 frame does not decode: {error}") from error
        if len(decoded) != size or not decompressor.eof or decompressor.unused_data:
            raise CorruptDataError(f"lz4 frame does not hold exactly {size} bytes")
        return decoded
