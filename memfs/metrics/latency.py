"""Histograms of durations by operation, in powers of two.

Invariant: to count one duration is two additions to a list that is there already; nothing is made,
and nothing is locked. All of it happens on the event loop's thread.
"""

from __future__ import annotations

UNIT_BITS = 10
"""The shortest bucket holds what took less than 2**10 ns."""
BUCKET_COUNT = 26
"""Buckets that are told apart: the last one ends at 2**35 ns, 34 s."""
_ROW_LENGTH = 66
"""A bucket for each length of 64 bits, so that no duration needs a comparison, and the sum."""


class Latencies:
    """Counts durations."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}

    def row(self, operation: str) -> list[int]:
        """Return the row of an operation, to add to: see `note`, which does the same."""
        return self._rows.setdefault(operation, [0] * _ROW_LENGTH)

    def note(self, operation: str, elapsed_ns: int) -> None:
        """Count one duration."""
        row = self.row(operation)
        row[(elapsed_ns >> UNIT_BITS).bit_length()] += 1
        row[-1] += elapsed_ns

    def counts(self) -> dict[str, list[int]]:
        """Return the counts of each operation by bucket; what is beyond is in the last one."""
        return {
            operation: [*row[: BUCKET_COUNT - 1], sum(row[BUCKET_COUNT - 1 : -1])]
            for operation, row in self._rows.items()
        }

    def sums_ns(self) -> dict[str, int]:
        """Return the sum of the durations of each operation."""
        return {operation: row[-1] for operation, row in self._rows.items()}


def limit_ns(bucket: int) -> int:
    """Return what durations of a bucket are less than; the last one has no limit."""
    return 1 << (UNIT_BITS + bucket)
