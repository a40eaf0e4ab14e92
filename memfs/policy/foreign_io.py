"""Foreign I/O: how much of what a disk does is done for programs, and not for memfs itself.

Invariant: what memfs writes is never taken for a program's, although it reaches the disk later
than the page cache.
"""

from __future__ import annotations

READ_BYTES_S_MIN = 128 << 10
"""Foreign reads above this rate count: a disk with 100 random accesses of 4 KiB a second is fully
busy at 400 KB/s, and what a system reads by itself is less. Guess."""

WRITTEN_BYTES_S_MIN = 1 << 20
"""Foreign writes above this rate count: logs and journals are less. Guess."""

OWN_SHARE_MAX = 8
"""Foreign writes below an eighth of our own may be the file system's work on these. Guess."""


class ForeignIo:
    """Compares, from sample to sample, what a disk did with what this process asked of it."""

    def __init__(self) -> None:
        self._last: tuple[int, int, int, int] | None = None
        self._outstanding_bytes = 0
        """Own bytes in the page cache that may not be on the disk yet."""

    def forget(self) -> None:
        """Begin anew: what happens until the next sample does not count."""
        self._last = None

    def sample(
        self, disk: tuple[int, int], own: tuple[int, int], elapsed_s: float
    ) -> tuple[float, float]:
        """Return the bytes a second that programs read and wrote since the last sample.

        Args:
            disk: Bytes that it has read and written in all.
            own: Bytes that this process has read and written in all.
            elapsed_s: Since the last sample; > 0.
        """
        last, self._last = self._last, (*disk, *own)
        if last is None:
            return 0.0, 0.0
        disk_read, disk_written, own_read, own_written = (
            max(0, now - before) for now, before in zip(self._last, last, strict=True)
        )
        self._outstanding_bytes += own_written
        flushed_bytes = min(self._outstanding_bytes, disk_written)
        self._outstanding_bytes -= flushed_bytes
        foreign_written = disk_written - flushed_bytes
        if foreign_written * OWN_SHARE_MAX < flushed_bytes:
            foreign_written = 0
        return max(0, disk_read - own_read) / elapsed_s, foreign_written / elapsed_s


def is_busy(read_bytes_s: float, written_bytes_s: float) -> bool:
    """Return whether programs use the disk so much that the mover is in their way."""
    return read_bytes_s > READ_BYTES_S_MIN or written_bytes_s > WRITTEN_BYTES_S_MIN
