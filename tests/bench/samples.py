"""Samples of a benchmark and what is said about them.

Invariant: every sample of a cell was taken in one run on one machine; a ratio divides medians of
the same run, never of two.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Summary:
    """The middle and the extent of the samples of one cell."""

    median: float
    minimum: float
    maximum: float
    count: int

    @classmethod
    def of(cls, samples: list[float]) -> Summary:
        """Summarise at least one sample.

        Raises:
            ValueError: There is no sample.
        """
        if not samples:
            raise ValueError("no sample to summarise")
        return cls(statistics.median(samples), min(samples), max(samples), len(samples))


@dataclass(slots=True)
class Samples:
    """All samples of a run, by metric and place."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """metric name -> place name -> one number a round."""
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    """metric name -> place name -> why a sample is missing; the cell is then not summarised."""

    def add(self, metric: str, place: str, value: float) -> None:
        """Append the sample of one round."""
        self.values.setdefault(metric, {}).setdefault(place, []).append(value)

    def fail(self, metric: str, place: str, reason: str) -> None:
        """Note that a sample could not be taken; the first reason is kept."""
        self.failures.setdefault(metric, {}).setdefault(place, reason)

    def failed(self, metric: str, place: str) -> str | None:
        """Why the cell has no number, or None where it has one or was never asked for."""
        return self.failures.get(metric, {}).get(place)

    def summary(self, metric: str, place: str) -> Summary | None:
        """The summary of a cell; None where it has no samples or one of them failed."""
        if self.failed(metric, place) is not None:
            return None
        samples = self.values.get(metric, {}).get(place)
        return Summary.of(samples) if samples else None

    def ratio(self, metric: str, place: str, baseline: str) -> float | None:
        """Median of `place` over median of `baseline`; None where either is missing or zero."""
        above, below = self.summary(metric, place), self.summary(metric, baseline)
        if above is None or below is None or below.median == 0:
            return None
        return above.median / below.median
