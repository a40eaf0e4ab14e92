"""The codec that leaves frames as they are.

Invariant: an encoded frame equals the frame.
"""

from __future__ import annotations

from memfs.errors import CorruptDataError, InvalidValueError
from memfs.types import CodecSpec


class NoneCodec:
    """Stores frames uncompressed; for data that does not shrink.

    Args:
        level: Must be None: there is nothing to choose.
    """

    def __init__(self, level: int | None = None) -> None:
        if level is not None:
            raise InvalidValueError(f"codec none takes no level, got {level}; write `none`")
        self._spec = CodecSpec("none", None)

    @property
    def spec(self) -> CodecSpec:
        """Always `none`."""
        return self._spec

    def encode(self, frame: memoryview) -> bytes:
        """Copy a frame."""
        return bytes(frame)

    def decode(self, encoded: memoryview, size: int) -> bytes:
        """Return a frame's bytes; `CorruptDataError` if there are more or fewer than `size`."""
        if len(encoded) != size:
            raise CorruptDataError(f"stored frame has {len(encoded)} bytes instead of {size}")
        return bytes(encoded)
