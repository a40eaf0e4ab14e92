"""The codec contract, and the registry that finds codecs by name.

Invariant: `decode(encode(x)) == x`, frame by frame, with no state between frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from memfs.types import CodecSpec


class Codec(Protocol):
    """Compresses one frame at a time; frames are independent, so any one decodes alone.

    Users add their own by an entry point in the group `memfs.codecs`: a callable that takes the
    level (int or None) and returns a `Codec`. Raise `InvalidValueError` for a level out of range.
    """

    @property
    def spec(self) -> CodecSpec:
        """Name and level, as recorded with every form."""
        ...

    def encode(self, frame: memoryview) -> bytes:
        """Compress one frame. Runs in a worker thread; must be thread-safe."""
        ...

    def decode(self, encoded: memoryview, size: int) -> bytes:
        """Return the `size` bytes of one frame; `CorruptDataError` if they cannot be had."""
        ...
