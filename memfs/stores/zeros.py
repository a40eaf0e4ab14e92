"""Zero runs: the digest over long runs of zeros, computed once for a content.

Invariant: what a hasher knows afterwards is what updating it with that many zeros would give.

BLAKE3 binds each chunk to its place, so zeros at two places do not share a hash, and 20 GiB of them
take seconds. But packing, verifying and fetching one file hash the same runs behind the same bytes:
the hasher after a run is kept, under the digest of all before it and the length of the run. A
longer run behind the same bytes goes on from there, and so does one that was stopped.
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

LENGTHS_MAX = 8
"""Runs behind the same bytes of which one is looked for to go on from."""


class ZeroRuns:
    """Hashes zeros; safe for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zeros = memoryview(bytes(STEP_BYTES))
        self._kept: BoundedDict[tuple[bytes, int], blake3.blake3] = BoundedDict(KEPT_COUNT_MAX)
        self._lengths: BoundedDict[bytes, tuple[int, ...]] = BoundedDict(KEPT_COUNT_MAX)
        """Those of runs that were kept, by the digest of all before, the latest last."""

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
        is_kept, done, prefix = size_bytes >= KEPT_BYTES_MIN, 0, b""
        if is_kept:
            # The length before is part of what the digest says: no two prefixes share one.
            prefix = hasher.digest()
            done, kept = self._find(prefix, size_bytes)
            hasher = kept or hasher
        try:
            while done < size_bytes:
                step = min(size_bytes - done, STEP_BYTES)
                hasher.update(self._zeros[:step])
                done += step
                if on_step is not None:
                    on_step()
        finally:
            if is_kept:
                self._keep(prefix, done, hasher)
        return hasher

    def _find(self, prefix: bytes, size_bytes: int) -> tuple[int, blake3.blake3 | None]:
        """Return the longest run that is known, not longer than the wanted one, and its hasher."""
        with self._lock:
            for length in sorted(self._lengths.get(prefix, ()), reverse=True):
                if length <= size_bytes and (kept := self._kept.touch((prefix, length))):
                    return length, kept.copy()
        return 0, None

    def _keep(self, prefix: bytes, size_bytes: int, hasher: blake3.blake3) -> None:
        with self._lock:
            lengths = [each for each in self._lengths.get(prefix, ()) if each != size_bytes]
            self._lengths[prefix] = (*lengths, size_bytes)[-LENGTHS_MAX:]
            self._kept[prefix, size_bytes] = hasher.copy()
