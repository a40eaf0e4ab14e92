"""Latencies of a report: bands and percentiles out of counts by powers of two.

Invariant: a percentile is the upper limit of its bucket: the truth is that or up to half of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.metrics.latency import BUCKET_COUNT, limit_ns
from memfs.metrics.numbers import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.report.gathering import Gathered

BANDS = (
    ("up to 131 us", 7),
    ("up to 1 ms", 10),
    ("up to 17 ms", 14),
    ("up to 268 ms", 18),
    ("longer", BUCKET_COUNT - 1),
)
"""Names, and the last bucket of each."""


class KindLatency(NamedTuple):
    """How long requests of a kind took."""

    kind: str
    request_count: int
    bands: tuple[int, ...]
    """Counts by band."""
    p50_s: float
    p99_s: float


def latencies_of(gathered: Gathered) -> list[KindLatency]:
    """Return those of each kind that had requests."""
    found = []
    for kind in KINDS:
        counts = [gathered.total(f"took.{kind}.{bucket}") for bucket in range(BUCKET_COUNT)]
        if sum(counts):
            found.append(
                KindLatency(
                    kind,
                    sum(counts),
                    _banded(counts),
                    percentile_s(counts, 0.5),
                    percentile_s(counts, 0.99),
                )
            )
    return found


def percentile_s(counts: Sequence[int], share: float) -> float:
    """Return what a share of the durations took at most, seconds."""
    wanted, seen = share * sum(counts), 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return limit_ns(bucket) / 1e9
    return limit_ns(len(counts) - 1) / 1e9


def _banded(counts: Sequence[int]) -> tuple[int, ...]:
    bands, begin = [], 0
    for _, last in BANDS:
        bands.append(sum(counts[begin : last + 1]))
        begin = last + 1
    return tuple(bands)
