"""Zero runs: the digest over long runs of zeros, computed once for a content.

Invariant: what a hasher knows afterwards is what updating it with that many zeros would give.

BLAKE3 binds each chunk to its place, so zeros at two places do not share a hash, and 20 GiB of them
take seconds. But packing, verifying and fetching one file hash the same runs behind the same bytes:
the hasher after a run is kept, under the digest of all before it and the length of the run.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from memfs.bounded import BoundedDict

if TYPE_CHECKING:
    from collections.abc import Callable

    import blake3

STEP_BYTES = 4 << 20
"""Zeros hashed between two signs of life; enough for BLAKE3's threads, small for caches."""

KEPT_BYTES_MIN = 16 << 20
"""Shorter runs are hashed in milliseconds and not kept."""

KEPT_COUNT_MAX = 1000
"""Runs kept; a hasher takes some 2 KB."""


class ZeroRuns:
    """Hashes zeros; safe for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zeros = memoryview(bytes(STEP_BYTES))
        self._kept: BoundedDict[tuple[bytes, int], blake3.blake3] = BoundedDict(KEPT_COUNT_MAX)

    def update(
        self,
        hasher: blake3.blake3,
        size_bytes: int,
        on_step: Callable[[], None] | None = None,
    ) -> blake3.blake3:
        """Return a hasher that has taken zeros as well; the given one is not to be used any more.

        Args:
            hasher: Has taken all that comes before.
            size_bytes: Bytes of the run, >= 0.
            on_step: Called at least every 4 MiB that are hashed; may raise to stop.
        """
        key = b"", 0
        if size_bytes >= KEPT_BYTES_MIN:
            # The length before is part of what the digest says: no two prefixes share one.
            key = hasher.digest(), size_bytes
            with self._lock:
                kept = self._kept.touch(key)
                if kept is not None:
                    return kept.copy()
        left = size_bytes
        while left:
            step = min(left, STEP_BYTES)
            hasher.update(self._zeros[:step])
            left -= step
            if on_step is not None:
                on_step()
        if size_bytes >= KEPT_BYTES_MIN:
            with self._lock:
                self._kept[key] = hasher.copy()
        return hasher
