"""The snappy codec.

Invariant: an encoded frame is one whole stream in the Snappy framing format, identifier included;
such streams may be concatenated (framing_format.txt, section 4.1).
"""

from __future__ import annotations

import cramjam

from memfs.errors import CorruptDataError, InvalidValueError
from memfs.types import CodecSpec

STREAM_IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
"""First chunk of every stream (framing_format.txt, section 4.1)."""


class SnappyCodec:
    """Snappy; both directions release the GIL and keep no state.

    Args:
        level: Must be None: snappy has no levels.
    """

    def __init__(self, level: int | None = None) -> None:
        if level is not None:
            raise InvalidValueError(f"codec snappy takes no level, got {level}; write `snappy`")
        self._spec = CodecSpec("snappy", None)

    @property
    def spec(self) -> CodecSpec:
        """Always `snappy`."""
        return self._spec

    def encode(self, frame: memoryview) -> bytes:
        """Compress one frame."""
        # The library writes nothing at all for no bytes, not even the identifier.
        return bytes(cramjam.snappy.compress(frame)) or STREAM_IDENTIFIER

    def decode(self, encoded: memoryview, size: int) -> bytes:
        """Decompress one frame of exactly `size` bytes; `CorruptDataError` if it is not that."""
        # A buffer of the known size is the bound: the library refuses to write beyond it.
        decoded = bytearray(size)
        try:
            count: int = cramjam.snappy.decompress_into(encoded, decoded)
        except cramjam.DecompressionError as error:
            raise CorruptDataError(f"snappy frame does not decode: {error}") from error
        if count != size:
            raise CorruptDataError(f"snappy frame holds {count} bytes instead of {size}")
        return bytes(decoded)
